"""Python programs that copy for one known reason: what is said of them is that reason, on every CPython here."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Require
from tests.live.helpers import cowscope_run, record, shown
from tests.runtimes.pythons import PYTHONS

from cowscope.runtimes.python import agent

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

PROGRAMS = {
    # Each worker reads every object once: its reference count goes up and down again.
    "reference count": """
import gc, os
gc.disable()
data = [float(n) for n in range(300_000)]
def work():
    for item in data:
        pass
""",
    # Nothing but the collector runs; it writes into the header of all that can hold others.
    "collector header": """
import gc, os
gc.disable()
data = [[n] for n in range(150_000)]
def work():
    gc.collect()
""",
    # A fresh float goes into a list of plain numbers: the list's items change, and no object there was.
    "object payload": """
import gc, os
gc.disable()
data = [None] * 2_000_000
def work(wanted=float(os.getpid())):
    for at in range(0, len(data), 256):
        data[at] = wanted
""",
    # Objects made and dropped in the parent leave holes all over; the child fills them.
    "allocator": """
import gc, os
gc.disable()
data = [[n] for n in range(400_000)]
for at in range(0, len(data), 2):
    data[at] = None
def work():
    fresh = [float(n) for n in range(150_000)]
    os._exit(0)
""",
}
RUN = """
pid = os.fork()
if not pid:
    work()
    os._exit(0)
os.waitpid(pid, 0)
os._exit(0)
"""
LEAST = 0.95


@pytest.fixture(autouse=True)
def compiled_agent(require: Require) -> None:
    """The agent was compiled at installation."""
    require(not agent.missing(), "a C compiler when cowscope was installed")


def by_cause(directory: Path) -> dict[str, int]:
    """Copied pages by cause."""
    return {row["name"]: row["copied"] for row in shown(directory, "cause")["by"]["cause"]}


def recorded(directory: Path, python: str, program: str, *options: str) -> dict[str, int]:
    """Record a program of a Python; its copied pages by cause."""
    done = record(directory, python, "-c", program, options=options)
    assert done.status == 0, done.stderr
    return by_cause(directory)


@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: Path(python).name)
@pytest.mark.parametrize("cause", PROGRAMS)
def test_a_known_cause_has_nearly_all_pages(cause: str, python: str, tmp_path: Path) -> None:
    """At least 95 in 100; and what is unknown stays under 3."""
    found = recorded(tmp_path / "r.cow", python, PROGRAMS[cause] + RUN)
    assert sum(found.values()) >= 1_000
    assert found[cause] >= LEAST * sum(found.values()), found
    assert found.get("unknown", 0) <= 0.03 * sum(found.values()), found


@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: Path(python).name)
def test_freezing_before_the_fork_spares_the_headers(python: str, tmp_path: Path) -> None:
    """The prefork program's collector pages are gone with gc.freeze(), those of reference counts stay."""
    prefork = ["-m", "cowscope.demo.prefork", "--items", "100000", "--workers", "2"]
    found = {}
    for name, options in (("plain", []), ("frozen", ["--freeze"])):
        assert record(tmp_path / name, python, *prefork, *options).status == 0
        found[name] = by_cause(tmp_path / name)
    assert found["plain"]["collector header"] > 5_000
    assert found["frozen"]["collector header"] < found["plain"]["collector header"] // 20
    assert found["frozen"]["reference count"] > 2_000
    for causes in found.values():
        assert causes.get("unknown", 0) <= 0.03 * sum(causes.values()), causes


def test_types_of_what_was_read(tmp_path: Path) -> None:
    """The floats, and for the reference count alone; the two numbers at the top agree."""
    out = tmp_path / "r.cow"
    recorded(out, PYTHONS[0], PROGRAMS["reference count"] + RUN)
    said = shown(out, "type", "cause")
    first = said["by"]["type"][0]
    assert first["name"] == "float"
    assert first["detail"].startswith("reference count")
    copied = said["totals"]["copied_pages"]["value"]
    assert said["python"]["should_be_shared_pages"]["value"] >= LEAST * copied
    assert said["python"]["cannot_be_shared_pages"]["value"] <= copied // 20


def test_python_off_keeps_out(tmp_path: Path) -> None:
    """No agent, no causes; the summary is that of any program."""
    out = tmp_path / "r.cow"
    assert recorded(out, PYTHONS[0], PROGRAMS["reference count"] + RUN, "--python", "off") == {}
    told = cowscope_run("show", out)
    assert "By cause" not in told.stdout
    assert "python" not in shown(out)


def test_a_program_that_is_no_python_has_no_causes(tmp_path: Path) -> None:
    """Though the way in was open."""
    out = tmp_path / "r.cow"
    assert record(out, "sh", "-c", "(true); true").status == 0
    assert shown(out, "cause")["by"]["cause"] == []


def test_isolated_python_is_recorded_without_objects(tmp_path: Path) -> None:
    """-I heeds no environment: copies are counted as ever."""
    out = tmp_path / "r.cow"
    assert record(out, PYTHONS[0], "-I", "-c", PROGRAMS["reference count"] + RUN).status == 0
    said: dict[str, Any] = shown(out)
    assert said["totals"]["copied_pages"]["value"] > 1_000
    assert said["by"].get("cause", []) == []


def test_a_program_killed_in_the_middle_keeps_what_was_listed(tmp_path: Path) -> None:
    """The child had forked and read; then the parent was killed."""
    ending = "os.waitpid(pid, 0)\n"
    program = PROGRAMS["reference count"] + RUN.replace(ending, ending + "os.kill(os.getpid(), 9)\n")
    out = tmp_path / "r.cow"
    assert record(out, PYTHONS[0], "-c", program).status == 137
    found = by_cause(out)
    assert found["reference count"] >= LEAST * sum(found.values())


@pytest.mark.parametrize("python", PYTHONS, ids=lambda python: Path(python).name)
def test_the_program_runs_as_it_would(python: str, tmp_path: Path) -> None:
    """Output, status, arguments and modules are those of an unrecorded run, but for the agent's own."""
    program = (
        "import sys, json; names = sorted(m for m in sys.modules if m not in "
        "('_cowscope_agent', 'sitecustomize', 'usercustomize')); "
        "print(json.dumps([sys.argv, sys.path, sys.flags.isolated, sys.orig_argv[1:]])); sys.exit(5)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(agent.__file__).parents[3])}
    bare = subprocess.run(
        [python, "-c", program, "x"], capture_output=True, text=True, check=False, env=environment
    )
    done = record(tmp_path / "r.cow", python, "-c", program, "x")
    assert (done.status, done.stdout) == (bare.returncode, bare.stdout)
