"""The command that `run` starts: what it finds, what it leaves behind, and when it cannot be started."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest
from tests.live.helpers import Finished, cowscope_command, environment, one_line, record, shown

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]


def test_command_not_found(tmp_path: Path) -> None:
    """As a shell: 127, one line; and no directory is left."""
    done = record(tmp_path / "r.cow", "no-such-command-anywhere")
    assert (done.status, done.stdout) == (127, "")
    assert one_line(done.stderr)
    assert "no-such-command-anywhere" in done.stderr
    assert not (tmp_path / "r.cow").exists()


def test_command_not_executable(tmp_path: Path) -> None:
    """As a shell: 126, one line; and no directory is left."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o644)
    done = record(tmp_path / "r.cow", script)
    assert (done.status, one_line(done.stderr)) == (126, True)
    assert not (tmp_path / "r.cow").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_command_killed_by_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """128 + n, and the recording says the same."""
    done = record(tmp_path / "r.cow", "/bin/sh", "-c", f"kill -{int(number)} $$")
    assert done.status == 128 + number
    assert shown(tmp_path / "r.cow")["recording"]["exit_status"] == 128 + number


def test_streams_and_status_pass_through(tmp_path: Path) -> None:
    """stdin reaches the command, its stdout and stderr are its own, and so is its exit status."""
    done = record(tmp_path / "r.cow", "/bin/sh", "-c", "cat; echo complaint >&2; exit 3", stdin="in\n")
    assert done == Finished(3, "in\n", "complaint\n")


def test_the_command_finds_what_it_would_find_alone(tmp_path: Path) -> None:
    """Limits, open files, signal mask and ignored signals, environment: the recorder leaves no trace in them.

    But for the two variables by which the agent comes into Python processes, and those not with --python off.
    """
    script = (
        "ulimit -Sa; ulimit -Ha; ls /proc/$$/fd; env | grep -v ^_= | sort; umask; "
        "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/$$/status"
    )
    # A soft limit below the hard one, so that a recorder that raises it for itself would show.
    command = ["/bin/bash", "-c", 'ulimit -Sn 256; exec "$@"', "lowered"]
    inner = ["/bin/bash", "-c", script]
    recorder = cowscope_command("run", "-q", "-o", tmp_path / "r.cow", "--python", "off", "--", *inner)
    with_agent = cowscope_command("run", "-q", "-o", tmp_path / "a.cow", "--", *inner)

    def output(*words: str | Path) -> str:
        everything = [*command, *map(str, words)]
        done = subprocess.run(
            everything,
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout

    alone = output(*inner)
    assert output(*recorder) == alone
    changed = set(output(*with_agent).splitlines()) ^ set(alone.splitlines())
    assert {line.partition("=")[0] for line in changed} <= {"PYTHONPATH", "COWSCOPE_PYTHON"}


def test_output_exists(tmp_path: Path) -> None:
    """One line, status 1; what is there is not touched, and the command is not started."""
    (tmp_path / "r.cow").mkdir()
    (tmp_path / "r.cow" / "mine").write_text("keep")
    done = record(tmp_path / "r.cow", "/bin/sh", "-c", f"echo ran > {tmp_path}/ran")
    assert (done.status, one_line(done.stderr)) == (1, True)
    assert (tmp_path / "r.cow" / "mine").read_text() == "keep"
    assert not (tmp_path / "ran").exists()
