"""`with cowscope.record(…)`: the process that asks for it is the one recorded."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.live.helpers import environment, shown, value

from cowscope.runtimes.python import agent

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

PROGRAM = """
import gc, os, sys
import cowscope
gc.disable()
data = [float(n) for n in range(200_000)]
def read_in_a_child():
    pid = os.fork()
    if not pid:
        for item in data:
            pass
        os._exit(0)
    os.waitpid(pid, 0)
read_in_a_child()
with cowscope.record(sys.argv[1]) as recording:
    read_in_a_child()
    read_in_a_child()
read_in_a_child()
print(recording.path, len(recording.open().table("forks")["time_ns"]))
with cowscope.record(sys.argv[1] + "-again"):
    read_in_a_child()
"""
PAGES_OF_FLOATS = 200_000 * 24 // 4096


def run(directory: Path, program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program of this Python in `directory`."""
    return subprocess.run(
        [sys.executable, "-c", program, *arguments],
        cwd=directory,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_forks_of_the_block_and_no_others(tmp_path: Path) -> None:
    """Two of four; a second block makes a second recording. Where the agent is, the cause is known."""
    done = run(tmp_path, PROGRAM, "mine")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "mine.cow 2\n"
    for name, forks in (("mine.cow", 2), ("mine-again.cow", 1)):
        said = shown(tmp_path / name)
        assert said["counts"]["forks"] == forks
        assert said["counts"]["processes"] == 1 + forks
        assert value(said, "copied_pages") >= forks * PAGES_OF_FLOATS
        assert value(said, "lost_events") == 0
        if not agent.missing():
            causes = {row["name"]: row["copied"] for row in said["by"]["cause"]}
            # What a fork itself copies (some 120 pages) is the rest.
            assert causes["reference count"] >= 0.9 * sum(causes.values()), causes


def test_what_cannot_be_recorded_is_an_error_before_the_block(tmp_path: Path) -> None:
    """With the recorder's own words; the block is not entered."""
    (tmp_path / "taken.cow").mkdir()
    program = "import cowscope\nwith cowscope.record('taken'):\n    print('entered')"
    done = run(tmp_path, program)
    assert done.stdout == ""
    assert "CowscopeError: taken.cow exists already" in done.stderr


def test_an_error_of_the_block_goes_on_and_the_recording_is_written(tmp_path: Path) -> None:
    """It is what the caller wants to know."""
    program = "import cowscope, os\nwith cowscope.record('r'):\n    os.fork() or os._exit(0)\n    os.wait()\n    1 / 0"
    done = run(tmp_path, program)
    assert "ZeroDivisionError" in done.stderr
    assert shown(tmp_path / "r.cow")["counts"]["forks"] == 1
