"""Signals on their way to the command that `run` records: each arrives once, whoever it was sent to."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import BinaryIO

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    ROUNDS_PAGES,
    Compiled,
    Program,
    at_mapping,
    cowscope_command,
    ended,
    environment,
    pid_in,
    recorded_rounds,
    shown,
)

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

COUNTS = """
import os, signal, sys
if "apart" in sys.argv: os.setpgid(0, 0)
counts = {signal.SIGINT: 0, signal.SIGUSR1: 0}
for number in counts:
    signal.signal(number, lambda number, _: counts.update({number: counts[number] + 1}))
signal.signal(signal.SIGUSR2, lambda *_: print("counts", *counts.values(), flush=True))
print("ready", flush=True)
while True: signal.pause()
"""
"""Counts SIGINT and SIGUSR1, and prints both counts at SIGUSR2."""


def recorded(out: Path, *arguments: str) -> list[str]:
    """The command line that records the counting program."""
    return cowscope_command("run", "-q", "-o", out, "--", sys.executable, "-c", COUNTS, *arguments)


@pytest.mark.parametrize("arguments", [(), ("apart",)], ids=["same-group", "own-group"])
def test_to_the_group_and_to_the_recorder_alone(arguments: tuple[str, ...], tmp_path: Path) -> None:
    """A shell's `kill %1` signals the group, a supervisor's the recorder alone; the command gets either once, in the
    recorder's group as in one of its own, where the first does not reach it by itself."""
    with Program(recorded(tmp_path / "r.cow", *arguments), process_group=0) as program:
        assert program.line() == "ready"
        for n in range(1, 4):
            os.killpg(program.pid, signal.SIGUSR1)
            # What the recorder gets next it passes on after: then all of the first has arrived.
            program.signal(signal.SIGUSR2)
            assert program.line() == f"counts 0 {n}"
        program.signal(signal.SIGINT)
        program.signal(signal.SIGUSR2)
        assert program.line() == "counts 1 3"
        program.signal(signal.SIGTERM)
        assert program.end().status == 128 + signal.SIGTERM


@pytest.fixture
def at_terminal(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], BinaryIO]]:
    """The recorder as leader of a session at a terminal of its own, and that terminal's other side."""
    master, slave = os.openpty()
    login = partial(os.login_tty, slave)
    program = subprocess.Popen(recorded(tmp_path / "r.cow"), preexec_fn=login, env=environment())
    os.close(slave)
    with program, open(master, "r+b", buffering=0) as terminal:
        try:
            yield program, terminal
        finally:
            program.kill()


def test_from_the_terminal(at_terminal: tuple[subprocess.Popen[bytes], BinaryIO]) -> None:
    """Ctrl-C reaches the command once."""
    program, terminal = at_terminal
    said = b""

    def read_until(text: bytes) -> None:
        nonlocal said
        while text not in said:
            assert select.select([terminal], [], [], PATIENCE_S)[0], said
            said += terminal.read(100)

    read_until(b"ready")
    terminal.write(b"\x03")
    read_until(b"^C")  # the kernel has sent the signal before it shows the key
    program.send_signal(signal.SIGUSR2)
    read_until(b"counts 1 0")
    program.send_signal(signal.SIGTERM)
    assert program.wait(PATIENCE_S) == 128 + signal.SIGTERM


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_run_reach_the_command(number: signal.Signals, compiled: Compiled, tmp_path: Path) -> None:
    """The command gets the signal and ends by it; the recording is whole."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        pid = pid_in(program.line())
        program.ask("r")
        program.signal(number)
        assert ended(pid)
        done = program.end()
    assert (done.status, done.stderr) == (128 + number, "")
    said = shown(out, "mapping")
    assert said["recording"]["exit_status"] == 128 + number
    assert at_mapping(said)["copied"] == ROUNDS_PAGES
