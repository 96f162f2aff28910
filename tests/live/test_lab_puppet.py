"""Puppets: they do what they are told, survive what kills others, and leave nobody behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from cowscope.lab import stub
from cowscope.lab.kernel import Stage
from cowscope.lab.lockstep import play
from cowscope.lab.parser import parse
from cowscope.lab.puppet import Call, PuppetDied, Troupe

pytestmark = pytest.mark.live

AT = 1 << 36
PAGE = 4096
ANONYMOUS_FIXED = 0x32


@pytest.fixture
def troupe() -> Iterator[Troupe]:
    """Puppets, ended afterwards."""
    with Troupe() as troupe:
        yield troupe


def puppets() -> list[int]:
    """Processes that run the stub."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if "cowscope-puppet" in os.readlink(f"/proc/{pid}/exe"):
                found.append(int(pid))
        except OSError:
            continue
    return found


def test_memory_is_the_puppets_own(troupe: Troupe) -> None:
    """A store in the child is none in the parent; a signal ends the access, not the process."""
    parent = troupe.start("A")
    assert parent.do(Call.MMAP, AT, 2 * PAGE, 3, ANONYMOUS_FIXED, -1).value == AT
    assert parent.do(stub.STORE, AT, 7).value == 0
    child = parent.fork("B")
    child.do(stub.STORE, AT, 9)
    assert (parent.do(stub.LOAD, AT).value, child.do(stub.LOAD, AT).value) == (7, 9)
    lost = child.do(stub.LOAD, AT + 2 * PAGE)
    assert (lost.signal, lost.code, lost.address) == (signal.SIGSEGV, 1, AT + 2 * PAGE)
    denied = child.do(stub.STORE, 0x400000, 1)
    assert (denied.signal, denied.code) == (signal.SIGSEGV, 2)
    assert child.gather([AT, AT]) == (9).to_bytes(8, "little") * 2


def test_exec_keeps_the_process_and_drops_its_memory(troupe: Troupe) -> None:
    """And it takes commands as before."""
    puppet = troupe.start("A")
    puppet.do(Call.MMAP, AT, PAGE, 3, ANONYMOUS_FIXED, -1)
    puppet.exec()
    assert puppet.do(stub.LOAD, AT).signal == signal.SIGSEGV
    assert puppet.do(Call.MMAP, AT, PAGE, 3, ANONYMOUS_FIXED, -1).value == AT


def test_a_puppet_that_dies_is_one_clear_error(troupe: Troupe) -> None:
    """By whatever hand."""
    puppet = troupe.start("A")
    os.kill(puppet.pid, signal.SIGKILL)
    with pytest.raises(PuppetDied, match=rf"the puppet A \(pid {puppet.pid}\) ended unexpectedly while"):
        puppet.do(stub.LOAD, AT)
    troupe.disband()
    assert troupe.start("B").do(stub.LOAD, AT).signal == signal.SIGSEGV


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_nobody_outlives_the_controller(number: signal.Signals) -> None:
    """Ctrl-C, or worse, in the middle of a scenario."""
    code = (
        "from cowscope.lab.puppet import Troupe\n"
        "with Troupe() as troupe:\n"
        "    puppet = troupe.start('A').fork('B')\n"
        "    print(puppet.pid, flush=True)\n"
        "    while True: puppet.do(0x1000, 0x400000)\n"
    )
    controller = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert controller.stdout is not None
    pid = int(controller.stdout.readline())
    pidfd = os.pidfd_open(pid)
    controller.send_signal(number)
    controller.wait(10)
    controller.stdout.close()
    assert gone(pidfd)
    assert pid not in puppets()


def gone(pidfd: int) -> bool:
    """Whether the process ends within ten seconds."""
    ready, _, _ = select.select([pidfd], [], [], 10)
    os.close(pidfd)
    return bool(ready)


def test_both_sides_agree_on_the_first_story(root: None) -> None:
    """Zero-fill, copy, reuse; and a wrong word in the text is told."""
    text = """A start
A mmap heap 2 rw private anonymous
A store heap[0] "mine" -> zero-filled
A fork B
B store heap[0] "ours" -> copied
A store heap[0] "mine" -> {}
"""
    with Stage() as stage:
        good = play(parse(text.format("reused")), stage)
        assert good.agreed, good.differences
        assert good.operations == 6
        bad = play(parse(text.format("copied")), stage)
        assert [str(d) for d in bad.differences] == ["outcome: the model says reused, the text copied"]


def test_a_controller_keeps_its_own_files() -> None:
    """Descriptors and CPUs are as before."""
    before = sorted(os.listdir("/proc/self/fd")), os.sched_getaffinity(0)
    with Troupe() as troupe:
        troupe.start("A")
    assert (sorted(os.listdir("/proc/self/fd")), os.sched_getaffinity(0)) == before
