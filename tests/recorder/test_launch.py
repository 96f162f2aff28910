"""The command from its fork to its end: when it runs, what it finds, and how its failures are told."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from cowscope.errors import CommandNotStarted
from cowscope.recorder.launch import Command, shell_status


def run(*arguments: str | Path, mask: frozenset[int] = frozenset()) -> int:
    """Start a command, let it go, and wait for it; its status as a shell tells it."""
    command = Command([str(argument) for argument in arguments], signal_mask=mask)
    command.release()
    return shell_status(os.waitpid(command.pid, 0)[1])


def write(path: Path, text: str, mode: int) -> Path:
    """A file with that text and mode."""
    path.write_text(text)
    path.chmod(mode)
    return path


def is_gone(pid: int) -> bool:
    """Whether no child of that pid is left, not even to be waited for."""
    try:
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        return True
    return False


def test_it_runs_when_it_is_let_go_and_not_before(tmp_path: Path) -> None:
    """The events are opened in between."""
    command = Command(["touch", str(tmp_path / "ran")], signal_mask=())
    assert command.waiting
    assert Path(f"/proc/{command.pid}/exe").readlink() == Path("/proc/self/exe").readlink()
    command.release()
    assert not command.waiting
    assert shell_status(os.waitpid(command.pid, 0)[1]) == 0
    assert (tmp_path / "ran").exists()


def test_one_that_is_given_up_never_runs(tmp_path: Path) -> None:
    """It is gone, and giving it up again does nothing."""
    command = Command(["touch", str(tmp_path / "ran")], signal_mask=())
    command.abandon()
    assert (command.waiting, is_gone(command.pid)) == (False, True)
    command.abandon()
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("make", "status", "reason"),
    [
        (lambda at: at / "none", 127, "command not found"),
        (lambda at: write(at / "data", "#!/bin/sh\n", 0o644), 126, "not executable"),
        (lambda at: at, 126, "it is a directory"),
        (lambda at: write(at / "text", "no program", 0o755), 126, "Exec format error"),
        (lambda at: write(at / "script", "#!/no/such/interpreter\n", 0o755), 127, "command not found"),
        (lambda at: write(at / "file", "", 0o755) / "inside", 126, "Not a directory"),
    ],
    ids=["missing", "no-x", "directory", "no-format", "no-interpreter", "file-as-directory"],
)
def test_what_cannot_be_executed(
    make: Callable[[Path], Path], status: int, reason: str, tmp_path: Path
) -> None:
    """A shell's status, one reason, and no child left to be waited for."""
    command = Command([str(make(tmp_path))], signal_mask=())
    with pytest.raises(CommandNotStarted, match=reason) as caught:
        command.release()
    assert caught.value.exit_status == status
    assert is_gone(command.pid)


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -11 $$", 139)]
)
def test_its_end_as_a_shell_tells_it(script: str, status: int) -> None:
    """128 + n where a signal ended it."""
    assert run("/bin/sh", "-c", script) == status


def test_signals_are_as_they_were_found(tmp_path: Path) -> None:
    """Blocked are those that it is told; and what Python ignores for itself is not."""
    told = tmp_path / "told"
    mask = frozenset({signal.SIGUSR1, signal.SIGTERM})
    assert run("cp", "/proc/self/status", told, mask=mask) == 0  # a shell might clear its mask
    status = dict(line.split(":\t", 1) for line in told.read_text().splitlines())
    blocked, ignored = int(status["SigBlk"], 16), int(status["SigIgn"], 16)
    assert blocked == sum(1 << (number - 1) for number in mask)
    assert ignored & (1 << (signal.SIGPIPE - 1) | 1 << (signal.SIGXFSZ - 1)) == 0


def open_files(listing: Path) -> dict[int, str]:
    """What `ls -l` says of the files of a process, but for the listing and the directory that it reads."""
    lines = (line.rpartition(" -> ") for line in listing.read_text().splitlines()[1:])
    files = {int(left.rpartition(" ")[2]): target for left, _, target in lines}
    return {fd: target for fd, target in files.items() if target != str(listing) and "/proc/" not in target}


def test_open_files_are_as_without_us(tmp_path: Path) -> None:
    """None of ours, and one that is meant for it."""
    told, alone = tmp_path / "told", tmp_path / "alone"
    meant = os.open(os.devnull, os.O_RDONLY)
    try:
        os.set_inheritable(meant, True)
        assert run("/bin/sh", "-c", f"exec ls -l /proc/self/fd > {told}") == 0
        subprocess.run(["/bin/sh", "-c", f"exec ls -l /proc/self/fd > {alone}"], close_fds=False, check=True)
    finally:
        os.close(meant)
    assert open_files(told) == open_files(alone)
    assert open_files(told)[meant] == os.devnull


def test_starting_leaves_no_file_open() -> None:
    """Neither where it goes well nor where it does not."""
    before = set(os.listdir("/proc/self/fd"))
    assert run("true") == 0
    Command(["true"], signal_mask=()).abandon()
    with pytest.raises(CommandNotStarted):
        run("no-such-command-anywhere")
    assert set(os.listdir("/proc/self/fd")) == before
