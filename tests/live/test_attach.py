"""Joining a process that runs: it goes on untouched, and what cannot be joined is told in a line."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    ROUNDS_PAGES,
    ROUNDS_STATUS,
    Compiled,
    Finished,
    Program,
    at_mapping,
    cowscope_command,
    cowscope_run,
    is_looked_at,
    one_line,
    pid_in,
    shown,
    wait_until,
)

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_attach_end_the_recording(
    number: signal.Signals, compiled: Compiled, tmp_path: Path
) -> None:
    """The recorder ends with 0 and a whole recording; the program goes on, and ends as it would have."""
    out = tmp_path / "r.cow"
    with Program([compiled("rounds"), str(ROUNDS_PAGES)]) as program:
        pid = pid_in(program.line())
        with Program(cowscope_command("attach", "-q", "-o", out, str(pid))) as recorder:
            wait_until(lambda: is_looked_at(out, pid), "the start")
            program.ask("r")
            recorder.signal(number)
            done = recorder.end()
        assert done == Finished(0, "", "")
        program.ask("r")
        assert program.end().status == ROUNDS_STATUS
    said = shown(out, "mapping")
    assert said["recording"]["ended"] == "signal"
    # Only the round before the signal.
    assert at_mapping(said)["copied"] == ROUNDS_PAGES


def test_attach_to_nobody(tmp_path: Path) -> None:
    """One line, status 1, no directory. The pid was that of a child of ours, which is reaped."""
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    done = cowscope_run("attach", "-o", tmp_path / "r.cow", str(gone.pid))
    assert (done.status, one_line(done.stderr)) == (1, True)
    assert not (tmp_path / "r.cow").exists()


def test_attach_to_a_zombie(tmp_path: Path) -> None:
    """A process without memory is told from one that is not there."""
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    done = cowscope_run("attach", "-o", tmp_path / "r.cow", str(gone.pid))
    gone.wait()
    assert (done.status, one_line(done.stderr)) == (1, True)
    assert "has no memory to observe" in done.stderr
    assert not (tmp_path / "r.cow").exists()


def test_attached_process_ends(compiled: Compiled, tmp_path: Path) -> None:
    """With the last of the observed processes the recording ends by itself."""
    out = tmp_path / "r.cow"
    with Program([compiled("rounds"), str(ROUNDS_PAGES)]) as program:
        pid = pid_in(program.line())
        with Program(cowscope_command("attach", "-q", "-o", out, str(pid))) as recorder:
            wait_until(lambda: is_looked_at(out, pid), "the start")
            program.ask("r")
            assert program.end().status == ROUNDS_STATUS
            recorder.process.wait(PATIENCE_S)
            assert recorder.end().status == 0
    assert shown(out)["recording"]["ended"] == "processes"


def test_threads_that_come_and_go(tmp_path: Path) -> None:
    """An interpreter with threads that come and go is attached to whole, and ends as it would have."""
    script = "import sys, threading\nprint('ready', flush=True)\n"
    script += "for line in sys.stdin:\n t = threading.Thread(target=str); t.start(); t.join(); print('done', flush=True)\n"
    out = tmp_path / "r.cow"
    with Program([sys.executable, "-c", script]) as program:
        assert program.line() == "ready"
        with Program(cowscope_command("attach", "-q", "-o", out, str(program.pid))) as recorder:
            wait_until(lambda: is_looked_at(out, program.pid), "the start")
            for _ in range(20):
                program.send("x\n")
                assert program.line() == "done"
            recorder.signal(signal.SIGINT)
            assert recorder.end().status == 0
        assert program.end().status == 0
    assert shown(out)["counts"]["processes"] == 1
