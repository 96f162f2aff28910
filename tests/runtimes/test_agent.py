"""The agent inside real interpreters, of every version that this machine has: all objects, and no page the worse."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.conftest import Require
from tests.runtimes.pythons import PYTHONS

from cowscope.runtimes.python import agent
from cowscope.runtimes.python.objects import read_censuses

CENSUS = """
import gc, json, os, sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
path, where = sys.argv[1:]
loader = ExtensionFileLoader("_cowscope_agent", path)
agent = loader.create_module(ModuleSpec("_cowscope_agent", loader, origin=path))
loader.exec_module(agent)
assert agent.set_up(sys.version_info[1])
assert not agent.set_up(sys.version_info[1])
class Plain:
    def __init__(self): self.a, self.b = 1, "b"
class Slots:
    __slots__ = ("a",)
class Lying:
    @property
    def __class__(self): raise RuntimeError
    def __sizeof__(self): raise RuntimeError
things = {
    "list": [1, 2, 3], "empty list": [], "tuple": (1, "x"), "dict": {"a": 1}, "mixed dict": {1: 2, "x": (3, 4)},
    "text": "plain text here", "wide text": "schön \\u4e2d", "bytes": b"bytes" * 9, "int": 10**50, "float": 1.5,
    "set": set(range(100)), "frozenset": frozenset((1, 2)), "plain": Plain(), "slots": Slots(), "lying": Lying(),
    "type": Plain, "function": Plain.__init__, "code": Plain.__init__.__code__, "key": "a key that is only a key",
}
holder = {things["key"]: None}
gc.collect()
counts = [sys.getrefcount(thing) for thing in things.values()]
agent.census(os.path.join(where, "objects.1.0"))
assert counts == [sys.getrefcount(thing) for thing in things.values()]
gc.freeze()
agent.census(os.path.join(where, "objects.1.1"))
sizes = {name: 0 if name in ("lying", "plain") else thing.__sizeof__() for name, thing in things.items() if name != "type"}
names = {name: type(thing).__name__ for name, thing in things.items()}
print(json.dumps({"at": {name: id(thing) for name, thing in things.items()}, "sizes": sizes, "names": names}))
"""
ELSEWHERE = ("list", "dict", "mixed dict", "set", "function")
"""Things with memory elsewhere, which `__sizeof__` counts and a row does not."""


@pytest.fixture(autouse=True)
def compiled(require: Require) -> None:
    """The agent was compiled at installation."""
    require(not agent.missing(), "a C compiler when cowscope was installed")


def census_in(python: str, where: Path) -> dict[str, dict[str, int]]:
    """Have a census taken, twice; what the program says of its own objects."""
    command = [python, "-S", "-c", CENSUS, str(agent.LIBRARY), str(where)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={"PATH": os.environ["PATH"]}
    )
    assert done.returncode == 0, done.stderr
    told: dict[str, dict[str, int]] = json.loads(done.stdout)
    return told


@pytest.mark.parametrize("python", PYTHONS)
def test_every_object_is_there_with_its_type_and_size(python: str, tmp_path: Path) -> None:
    """Whatever kind it is, before and after gc.freeze(); no code of a class was run, no reference was taken."""
    told = census_in(python, tmp_path)
    for census in read_censuses(tmp_path):
        rows = {int(row["address"]): row for row in census.rows if row["kind"] in (0, 6)}
        for name, address in told["at"].items():
            assert address in rows, name
            row = rows[address]
            assert census.types[row["type"]].rpartition(".")[2] == told["names"][name]
            size = told["sizes"].get(name, 0)
            if size and name not in ELSEWHERE:
                assert size <= row["bytes"] < size + 8 or size <= row["bytes"] + row["before"] < size + 8, (
                    name
                )
        assert len(rows) > 10_000 or len(rows) > len(told["at"])


@pytest.mark.parametrize("python", PYTHONS)
def test_objects_do_not_overlap(python: str, tmp_path: Path) -> None:
    """Sizes that were too large would make neighbours of one place: none reaches into the next."""
    census_in(python, tmp_path)
    (census, _) = read_censuses(tmp_path)
    starts = (census.rows["address"] - census.rows["before"]).astype("int64")
    ends = (census.rows["address"] + census.rows["bytes"]).astype("int64")
    overlaps = int((ends[:-1] > starts[1:]).sum())
    assert overlaps == 0, f"{overlaps} of {len(starts)}"


SHARING = """
import os, sys
from importlib.machinery import ExtensionFileLoader, ModuleSpec
path, where = sys.argv[1:]
loader = ExtensionFileLoader("_cowscope_agent", path)
agent = loader.create_module(ModuleSpec("_cowscope_agent", loader, origin=path))
loader.exec_module(agent)
agent.set_up(sys.version_info[1])
data = [{"id": n, "name": "name %d" % n, "pair": (n, str(n))} for n in range(100000)]
agent.census(os.path.join(where, "objects.1.0"))
import gc; gc.collect(); gc.disable()
read, write = os.pipe()
child = os.fork()
if not child:
    os.close(write); os.read(read, 1); os._exit(0)
def alone():
    found = 0
    with open("/proc/self/pagemap", "rb", buffering=0) as pagemap:
        for line in open("/proc/self/maps"):
            place = line.split()
            if len(place) == 5 and place[1] == "rw-p":
                first, last = (int(part, 16) >> 12 for part in place[0].split("-"))
                pagemap.seek(first * 8)
                words = memoryview(pagemap.read((last - first) * 8)).cast("Q")
                found += sum(1 for word in words if word >> 56 & 1 and word >> 63)
    return found, 0
alone(); before = alone()[0]; again = alone()[0]
agent.census(os.path.join(where, "objects.1.1"))
after = alone()[0]
print(again - before, after - again)
os.write(write, b"x"); os.waitpid(child, 0)
"""


@pytest.mark.parametrize("python", PYTHONS)
def test_a_census_leaves_shared_pages_shared(python: str, tmp_path: Path) -> None:
    """While a child shares them all, a census of 500,000 objects makes no more pages private than looking does."""
    command = [python, "-S", "-c", SHARING, str(agent.LIBRARY), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    looking, census = map(int, done.stdout.split())
    assert census <= looking + 40, done.stdout
    assert sum(len(found.rows) for found in read_censuses(tmp_path)) >= 2 * 500_000


ENTERED = "import sys, os, json; print(json.dumps([sys.path, [m for m in sys.modules if 'cowscope' in m]]))"


def entered(where: Path, *arguments: str, python_path: str = "") -> subprocess.CompletedProcess[str]:
    """Start a Python as a recording does."""
    given = {"PATH": os.environ["PATH"], **({"PYTHONPATH": python_path} if python_path else {})}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        check=False,
        env=agent.environment(where, given),
    )


def test_the_way_in_leaves_no_trace_on_the_path(tmp_path: Path) -> None:
    """The program's own PYTHONPATH comes first, as it would have."""
    done = entered(tmp_path, "-c", ENTERED, python_path="/some/where")
    path, modules = json.loads(done.stdout)
    assert str(agent.INSIDE) not in path
    assert path[1] == "/some/where"
    assert modules == ["_cowscope_agent"]
    assert sorted(file.name.partition(".")[0] for file in tmp_path.iterdir()) == ["python", "shutdowns"]


def test_a_sitecustomize_of_the_program_still_runs(tmp_path: Path) -> None:
    """Once, under its own name; what it raises is told as ever."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "sitecustomize.py").write_text("import sys; print('theirs', __name__, __file__)\n")
    done = entered(
        tmp_path, "-c", "import sitecustomize; print(sitecustomize.__file__)", python_path=str(theirs)
    )
    file = str(theirs / "sitecustomize.py")
    assert done.stdout.splitlines() == [f"theirs sitecustomize {file}", file]
    assert done.stderr == ""
    (theirs / "sitecustomize.py").write_text("raise ValueError('on purpose')\n")
    done = entered(tmp_path, "-c", "print('goes on')", python_path=str(theirs))
    assert done.stdout == "goes on\n"
    assert "on purpose" in done.stderr


def test_a_place_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    """The program forks as ever, and says nothing."""
    done = entered(tmp_path / "nowhere", "-c", "import os; print(os.waitpid(os.fork() or os._exit(3), 0)[1])")
    assert (done.stdout, done.stderr) == (f"{3 << 8}\n", "")


@pytest.mark.parametrize("flag", ["-I", "-S", "-E"])
def test_a_python_that_looks_at_no_environment_is_left_alone(flag: str, tmp_path: Path) -> None:
    """Nothing is written, nothing breaks."""
    done = entered(tmp_path, flag, "-c", "import os; os.waitpid(os.fork() or os._exit(0), 0); print('ran')")
    assert (done.stdout, done.stderr) == ("ran\n", "")
    assert list(tmp_path.iterdir()) == []
