"""Starting and joining, in this process: what is refused, and that nothing is left behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.conftest import Require

from cowscope.errors import CommandNotStarted, CowscopeError, NoSuchProcess
from cowscope.linux.proc import children
from cowscope.linux.signals import FORWARDED, SignalQueue
from cowscope.recorder import census, observe
from cowscope.recorder.observe import Options, RunningCommand, attach_to
from cowscope.recorder.session import Limits

SOFTWARE = "software"
"""The source that the fewest rights suffice for."""


@pytest.fixture(autouse=True)
def nothing_is_left(require: Require, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """After each test as many descriptors, children and blocked signals as before it."""
    require(os.geteuid() == 0, "needs root")
    monkeypatch.setattr(observe, "raise_file_limit", lambda: None)

    def state() -> tuple[set[str], list[int], set[signal.Signals]]:
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        return set(os.listdir("/proc/self/fd")), children(os.getpid()), {signal.Signals(n) for n in blocked}

    before = state()
    yield
    assert state() == before


def options(directory: Path, source: str = SOFTWARE, duration_s: float | None = None) -> Options:
    """Into `directory`."""
    return Options(output=directory, source=source, limits=Limits(duration_s=duration_s))


@pytest.mark.parametrize("source", [SOFTWARE, "tracepoint", "auto"])
def test_a_command_to_its_end(source: str, tmp_path: Path) -> None:
    """Its status, and why the recording ended."""
    running = RunningCommand(["/bin/sh", "-c", "exit 3"], options(tmp_path / "r.cow", source))
    outcome = running.observe()
    assert (outcome.directory, outcome.ended, outcome.exit_status) == (tmp_path / "r.cow", "command", 3)
    assert running.wait() == 3
    assert (tmp_path / "r.cow" / "raw" / "journal").stat().st_size > 0


def test_a_recording_that_ends_before_its_command(tmp_path: Path) -> None:
    """The command is waited for."""
    running = RunningCommand(
        ["/bin/sh", "-c", "sleep 0.1; exit 4"], options(tmp_path / "r.cow", duration_s=0)
    )
    assert running.observe().ended == "duration"
    assert running.wait() == 4


@pytest.mark.parametrize("source", [SOFTWARE, "auto"])
def test_a_command_that_cannot_be_started(source: str, tmp_path: Path) -> None:
    """No directory stays."""
    with pytest.raises(CommandNotStarted):
        RunningCommand(["no-such-command-anywhere"], options(tmp_path / "r.cow", source))
    assert not (tmp_path / "r.cow").exists()


def test_a_directory_that_is_there_is_not_touched(tmp_path: Path) -> None:
    """It is somebody's; and signals that were given are left to who gave them."""
    (tmp_path / "mine").write_text("keep")
    for source in (SOFTWARE, "auto"):
        with pytest.raises(CowscopeError, match="exists already"):
            RunningCommand(["true"], options(tmp_path, source))
        with pytest.raises(CowscopeError, match="exists already"):
            attach_to(os.getpid(), options(tmp_path, source))
    assert (tmp_path / "mine").read_text() == "keep"


def test_events_that_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too many open files, for one: the waiting command goes, and so does the directory."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("cowscope.recorder.probes.Probes.open_for", refuse)
    with pytest.raises(OSError, match="Too many"):
        RunningCommand(["touch", str(tmp_path / "ran")], options(tmp_path / "r.cow"))
    assert list(tmp_path.iterdir()) == []


def test_signals_of_the_callers_own_queue(tmp_path: Path) -> None:
    """Are taken over, and given back with the end."""
    queue = SignalQueue(FORWARDED)
    running = RunningCommand(["true"], options(tmp_path / "r.cow"), queue)
    running.observe()
    assert running.wait() == 0


def test_attach_to_a_process_that_is_gone(tmp_path: Path) -> None:
    """Also with the programs of the best source loaded already."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(NoSuchProcess):
        attach_to(gone.pid, options(tmp_path / "r.cow", "auto"))
    assert not (tmp_path / "r.cow").exists()


def test_attach_to_a_kernel_thread(tmp_path: Path, require: Require) -> None:
    """It has no memory of its own. Process 2 is the parent of them all, outside of containers."""
    comm = Path("/proc/2/comm")
    require(comm.exists() and comm.read_text() == "kthreadd\n", "needs to see kernel threads")
    with pytest.raises(CowscopeError, match="process 2 has no memory to observe"):
        attach_to(2, options(tmp_path / "r.cow"))
    assert not (tmp_path / "r.cow").exists()


def test_attach_to_a_process_that_vanishes_while_it_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was there when we began, and gone at the census."""
    program = subprocess.Popen([shutil.which("sleep") or "sleep", "60"])
    look_at = census.look_at

    def too_late(pid: int, **more: object) -> object:
        program.kill()
        program.wait()
        return look_at(pid)

    monkeypatch.setattr(census, "look_at", too_late)
    with pytest.raises(NoSuchProcess):
        attach_to(program.pid, options(tmp_path / "r.cow"))
    assert not (tmp_path / "r.cow").exists()


def test_attach_until_its_time_is_over(tmp_path: Path) -> None:
    """The process runs on."""
    with subprocess.Popen(["sleep", "60"]) as program:
        outcome = attach_to(program.pid, options(tmp_path / "r.cow", duration_s=0))
        assert (outcome.ended, outcome.exit_status) == ("duration", None)
        assert program.poll() is None
        program.kill()
