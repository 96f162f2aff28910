"""Which Python line broke the sharing, of real programs on every CPython here; and who is left alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.conftest import Require
from tests.live.helpers import dumped, record, shown
from tests.runtimes.pythons import PYTHONS

from cowscope.runtimes.python import agent

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

BEGIN = """
import gc, os, signal, sys, threading
gc.disable()
data = [float(n) for n in range(200_000)]
def walk():
    n = 0
    for item in data:  # the line
        n += 1
    return n
"""
LINE = 7
PAGES_OF_FLOATS = 200_000 * 24 // 4096
IN_A_CHILD = """
def fork(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
"""


@pytest.fixture(autouse=True)
def compiled_agent(require: Require) -> None:
    """The agent was compiled at installation."""
    require(not agent.missing(), "a C compiler when cowscope was installed")


def by_line(directory: Path) -> dict[str, int]:
    """Copied pages by line."""
    return {row["name"]: row["copied"] for row in shown(directory, "line")["by"]["line"]}


def recorded(directory: Path, python: str, program: str) -> dict[str, int]:
    """Record a program given as a file, so that its lines have a name; its copies by line."""
    file = directory.with_suffix(".py")
    file.write_text(program)
    done = record(directory, python, str(file))
    assert done.status == 0, done.stderr
    found = by_line(directory)
    return {name.removeprefix(f"{file}:"): copied for name, copied in found.items()}


ON_EVERY_PYTHON = pytest.mark.parametrize("python", PYTHONS, ids=lambda python: Path(python).name)


@ON_EVERY_PYTHON
def test_the_line_that_reads_is_named(python: str, tmp_path: Path) -> None:
    """And all but a hundredth of what a child copies while Python runs has a line."""
    found = recorded(tmp_path / "r.cow", python, BEGIN + IN_A_CHILD + "fork(walk)\nos._exit(0)\n")
    assert found[str(LINE)] >= 0.99 * PAGES_OF_FLOATS
    assert found.get("no Python line", 0) <= 0.01 * sum(found.values()), found


@ON_EVERY_PYTHON
def test_threads_and_grandchildren_have_lines_too(python: str, tmp_path: Path) -> None:
    """Each copies all pages for itself."""
    program = """
def in_thread():
    thread = threading.Thread(target=walk)
    thread.start()
    thread.join()
fork(in_thread)
fork(lambda: fork(walk))
os._exit(0)
"""
    found = recorded(tmp_path / "r.cow", python, BEGIN + IN_A_CHILD + program)
    assert found[str(LINE)] >= 2 * 0.99 * PAGES_OF_FLOATS, found


@ON_EVERY_PYTHON
def test_an_import_after_the_fork_is_a_cause_of_its_own(python: str, tmp_path: Path) -> None:
    """A child that imports what its parent had not: nearly all that it copies is for that."""
    program = """
import gc, os
gc.disable()
# Holes for the new objects to fall into, so that they need pages that are shared.
data = [[n] * 3 for n in range(100_000)]
del data[::3]
pid = os.fork()
if not pid:
    import argparse, asyncio, decimal, email.message, http.client, logging.config, unittest.mock, xml.dom.minidom
    os._exit(0)
os.waitpid(pid, 0)
os._exit(0)
"""
    recorded(tmp_path / "r.cow", python, program)
    causes = {row["name"]: row["copied"] for row in shown(tmp_path / "r.cow", "cause")["by"]["cause"]}
    assert causes["new import"] >= 500, causes
    assert causes["new import"] >= 0.8 * sum(causes.values()), causes


def test_a_program_that_handles_sigtrap_is_left_alone(tmp_path: Path) -> None:
    """Its handler gets its own signal and no other; causes come as ever, and the reason is written down."""
    program = """
got = []
signal.signal(signal.SIGTRAP, lambda *_: got.append(1))
def work():
    walk()
    os.kill(os.getpid(), signal.SIGTRAP)
    assert got == [1], got
fork(work)
os._exit(0)
"""
    found = recorded(tmp_path / "r.cow", PYTHONS[0], BEGIN + IN_A_CHILD + program)
    assert found == {}
    (parent, *_) = dumped(tmp_path / "r.cow", "interpreters")
    assert parent["no_lines"] == "the program handles SIGTRAP itself"
    causes = {row["name"]: row["copied"] for row in shown(tmp_path / "r.cow", "cause")["by"]["cause"]}
    assert causes["reference count"] >= 0.95 * PAGES_OF_FLOATS


def test_no_lines_if_none_are_wanted(tmp_path: Path) -> None:
    """Causes and types are told all the same."""
    file = tmp_path / "p.py"
    file.write_text(BEGIN + IN_A_CHILD + "fork(walk)\nos._exit(0)\n")
    assert record(tmp_path / "r.cow", PYTHONS[0], str(file), options=["--no-lines"]).status == 0
    assert by_line(tmp_path / "r.cow") == {}
    causes = {row["name"]: row["copied"] for row in shown(tmp_path / "r.cow", "cause")["by"]["cause"]}
    assert causes["reference count"] >= 0.95 * PAGES_OF_FLOATS


def test_a_trap_of_its_own_ends_a_program_as_ever(tmp_path: Path) -> None:
    """The status of a child that raises SIGTRAP is the signal's, though a handler of ours was there."""
    program = """
fork(walk)
pid = os.fork()
if not pid:
    os.kill(os.getpid(), signal.SIGTRAP)
    os._exit(3)
assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGTRAP
os._exit(0)
"""
    assert recorded(tmp_path / "r.cow", PYTHONS[0], BEGIN + IN_A_CHILD + program)[str(LINE)] > 0


def test_another_program_after_exec_gets_no_signals(tmp_path: Path) -> None:
    """It has no handler for them: one would end it."""
    program = """
fork(walk)
fork(lambda: os.execv("/bin/sh", ["sh", "-c", "x=1; for i in 1 2 3 4 5; do x=$x$x$x; done; (exit 0)"]))
os._exit(0)
"""
    assert recorded(tmp_path / "r.cow", PYTHONS[0], BEGIN + IN_A_CHILD + program)[str(LINE)] > 0


def test_a_debugged_program_is_left_alone(tmp_path: Path, require: Require) -> None:
    """A debugger would stop at each signal."""
    have = (
        subprocess.run(["strace", "-V"], capture_output=True, check=False)
        if Path("/usr/bin/strace").exists()
        else None
    )
    require(have is not None and have.returncode == 0, "strace")
    file = tmp_path / "p.py"
    file.write_text(BEGIN + IN_A_CHILD + "fork(walk)\nos._exit(0)\n")
    done = record(
        tmp_path / "r.cow",
        "strace",
        "-f",
        "-qq",
        "-e",
        "trace=none",
        "-e",
        "signal=none",
        PYTHONS[0],
        str(file),
    )
    assert done.status == 0, done.stderr
    assert by_line(tmp_path / "r.cow") == {}


def test_a_program_that_goes_on_after_the_recording_gets_no_more_signals(tmp_path: Path) -> None:
    """It counts them itself, by a handler of its own that it sets then: one at most is on its way."""
    program = """
import time
fork(walk)
time.sleep(3)
got = []
signal.signal(signal.SIGTRAP, lambda *_: got.append(1))
more = bytearray(64 << 20)
for at in range(0, len(more), 4096):
    more[at] = 1
print(len(got), flush=True)
os._exit(0)
"""
    file = tmp_path / "p.py"
    file.write_text(BEGIN + IN_A_CHILD + program.replace("got = []", "again = bytearray(1 << 20)\ngot = []"))
    done = record(tmp_path / "r.cow", PYTHONS[0], str(file), options=["--duration", "1.5"])
    assert done.status == 0, done.stderr
    assert int(done.stdout) == 0, done.stdout
    assert by_line(tmp_path / "r.cow") != {}
