"""Signals to a group against signals to one process, as its witness sees them."""

from __future__ import annotations

import os
import select
import subprocess
import sys

from hypothesis import given
from hypothesis import strategies as st

from cowscope.linux.border import read_proc
from cowscope.linux.proc import parse_stat, read_stat
from cowscope.linux.signal_witness import parse_pending

PRELUDE = """
import os, signal, sys
from cowscope.linux.signal_witness import Witness
watched = (signal.SIGUSR1, signal.SIGTERM)
signal.pthread_sigmask(signal.SIG_BLOCK, watched)
witness = Witness(watched)
def tell(seen):
    print("-" if seen is None else " ".join(str(signal.Signals(n).name) for n in sorted(seen)) or "none", flush=True)
"""


def start(script: str, **more: str) -> subprocess.Popen[str]:
    """A process in a group of its own that has a witness and runs `script`; ours has other members and threads."""
    return subprocess.Popen(
        [sys.executable, "-c", PRELUDE + script],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,
        env={**os.environ, **more},
    )


def lines(script: str, **more: str) -> list[str]:
    """What it prints to its end."""
    with start(script, **more) as process:
        output, _ = process.communicate(timeout=30)
        assert process.returncode == 0
        return output.split("\n")[:-1]


def test_a_signal_to_the_group_is_seen_once() -> None:
    """One to the group is told, once; then the next one is told as well."""
    look, send = "tell(witness.seen())\n", "os.killpg(0, signal.SIGUSR1)\n"
    script = look + 2 * (send + look + look)
    assert lines(script) == ["none", "SIGUSR1", "none", "SIGUSR1", "none"]


def test_a_signal_to_us_alone_is_not_seen() -> None:
    """Not even beside another one to the group."""
    look = "tell(witness.seen())\n"
    script = f"os.kill(os.getpid(), signal.SIGTERM)\n{look}os.killpg(0, signal.SIGUSR1)\n{look}"
    assert lines(script) == ["none", "SIGUSR1"]


def test_nothing_is_left_of_it() -> None:
    """No process, no descriptor, also when it stood stopped with its group."""
    script = """
(pid,) = map(int, open("/proc/thread-self/children").read().split())
print(len(os.listdir("/proc/self/fd")))
os.kill(pid, signal.SIGSTOP)
witness.close()
print(len(os.listdir("/proc/self/fd")), os.path.exists(f"/proc/{pid}"))
"""
    before, after = lines(script)
    assert after == f"{int(before) - 1} False"


def test_it_ends_with_its_maker() -> None:
    """A maker that is killed cannot close it; its pipe is closed for it."""
    with start("print(open('/proc/thread-self/children').read(), flush=True); sys.stdin.read()") as maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        assert parse_stat(read_stat(pid)).pgrp == maker.pid
        pidfd = os.pidfd_open(pid)
        maker.kill()
        with open(pidfd, "rb", buffering=0) as file:
            assert select.select([file], [], [], 30)[0]


def test_without_cat_there_is_no_witness() -> None:
    """It says that it does not know, rather than that it saw nothing."""
    assert lines("tell(witness.seen()); witness.close()", PATH="/nowhere") == ["-"]


def test_pending_of_a_status() -> None:
    """What the kernel shows of ourselves: nothing waits, since nothing is blocked."""
    assert parse_pending(read_proc(os.getpid(), "status")) == 0


@given(st.binary() | st.lists(st.sampled_from([b"ShdPnd:", b"00ff", b"x", b"\n"])).map(b" ".join))
def test_pending_takes_anything(data: bytes) -> None:
    """No bytes make the parser fail."""
    assert parse_pending(data) >= 0
