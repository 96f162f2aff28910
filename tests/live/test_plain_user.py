"""What a user without any right gets: an estimate through the software event, or one line that says what to do."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    Finished,
    at_mapping,
    environment,
    finished,
    label,
    one_line,
    record_gated,
    shown,
    value,
)

import cowscope

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

Require = Callable[[object, str], None]
PAGES = 600
HALF = PAGES // 2
NOBODY = 65534
PARANOID = Path("/proc/sys/kernel/perf_event_paranoid")


REFUSED = """
import ctypes, struct, sys
code = [(0x20, 0, 0, 0), (0x15, 0, 1, 298), (0x06, 0, 0, 0x50000 | 13), (0x06, 0, 0, 0x7FFF0000)]
code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in code))
program = ctypes.create_string_buffer(struct.pack("@HP", 4, ctypes.addressof(code)))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, program) == 0
from cowscope.cli.main import main
main()
"""
"""Cowscope where seccomp(2) answers perf_event_open (298) with EACCES (13), and lets all else through."""


@dataclass(frozen=True)
class Room:
    """A directory that nobody may write to, with the package and the known program, and how to run there."""

    path: Path
    python: str
    pythonpath: str

    @property
    def popen(self) -> dict[str, Any]:
        """Arguments of subprocess for a program of nobody's in here."""
        return {"cwd": self.path, "user": NOBODY, "group": NOBODY, "extra_groups": []}

    def run(self, *arguments: str) -> Finished:
        """The interpreter, as nobody."""
        done = subprocess.run(
            [self.python, *arguments],
            capture_output=True,
            env=environment(PYTHONPATH=self.pythonpath),
            timeout=PATIENCE_S,
            check=False,
            **self.popen,
        )
        return finished(done.returncode, done.stdout, done.stderr)

    def cowscope(self, *arguments: str) -> Finished:
        """Cowscope, as nobody."""
        return self.run("-m", "cowscope", *arguments)


@pytest.fixture
def room(compiled: Callable[[str], Path], require: Require) -> Iterator[Room]:
    """A room with an interpreter that nobody may run: ours, or where it is closed (/root) the system's."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o777)
        package = Path(cowscope.__file__).parent
        shutil.copytree(package, path / "source" / "cowscope", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(compiled("known"), path / "known")
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        libraries = os.pathsep.join((str(path / "source"), sysconfig.get_path("platlib")))
        rooms = [Room(path, python, libraries) for python in (sys.executable, f"/usr/bin/{version}")]
        found = next((room for room in rooms if runs(room)), None)
        require(found is not None, "needs an interpreter and libraries that user nobody may read")
        assert found is not None
        yield found


def runs(room: Room) -> bool:
    """Whether nobody may run the room's interpreter and import what cowscope needs."""
    try:
        done = subprocess.run(
            [room.python, "-c", "import click, duckdb, numpy, psutil, rich, symbolic"],
            capture_output=True,
            env=environment(PYTHONPATH=room.pythonpath),
            check=False,
            **room.popen,
        )
    except PermissionError:
        return False
    return done.returncode == 0


@pytest.fixture
def set_paranoid() -> Iterator[Callable[[int], None]]:
    """Sets kernel.perf_event_paranoid for the time of a test; hardened distributions have it at 3."""

    def set_to(level: int) -> None:
        PARANOID.write_text(str(level))

    before = PARANOID.read_text()
    try:
        yield set_to
    finally:
        PARANOID.write_text(before)


def check_estimate(said: dict[str, Any]) -> None:
    """The known answer of child-first, where only the event's address was told.

    What the method can give: each fault of user code is seen, and the census at the fork tells which pages were
    shared, so the rules of Linux (n - 1 copies, then a reuse) decide, and on one CPU the kernel follows them to
    the page (kernel-cow.md R2.4). The mapping holds no page that was touched between the fork and the census,
    since the program waits for it. So the figures of the mapping are the arithmetic's, with no tolerance, and
    still are called an estimate, since neither the kernel's allocations nor its error codes confirm them.
    """
    pages = at_mapping(said)
    assert (pages["copied"], pages["reused"]) == (PAGES, HALF)
    assert said["recording"]["source"] == "software"
    for figure in ("copied_pages", "reused_pages", "still_shared_pages", "shared_at_fork_pages"):
        assert label(said, figure) == "estimate", figure
        assert said["totals"][figure]["reason"]
    assert value(said, "lost_events") == 0


def test_software_event_as_root(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """`--source software` gives root what a plain user gets."""
    out = tmp_path / "r.cow"
    options = ["--source", "software"]
    assert record_gated(out, compiled("known"), "child-first", str(PAGES), options=options).status == 0
    check_estimate(shown(out, "mapping"))


@pytest.mark.parametrize("paranoid", [2, 3])
def test_plain_user(paranoid: int, room: Room, require: Require, set_paranoid: Callable[[int], None]) -> None:
    """Nobody records a program of nobody's, without any right, and gets the same; at 3 too, on kernels that make
    nothing of that number: those that do have a patch that this test would need a kernel for."""
    set_paranoid(paranoid)
    tried = room.run("-c", "from cowscope.linux.perf_probe import software_refusal as r; print(r())")
    require(
        tried.stdout == "\n", f"needs a kernel that opens events at kernel.perf_event_paranoid {paranoid}"
    )
    out = room.path / "r.cow"
    done = record_gated(
        out,
        room.path / "known",
        "child-first",
        str(PAGES),
        python=room.python,
        more_environment={"KNOWN_GATED": "1", "PYTHONPATH": room.pythonpath},
        **room.popen,
    )
    assert done.status == 0, done.stderr
    assert (out / "meta.json").stat().st_uid == NOBODY
    check_estimate(shown(out, "mapping"))


def test_plain_user_whose_events_are_refused(room: Room, set_paranoid: Callable[[int], None]) -> None:
    """As on a kernel that closes perf events at 3, here by a filter on the system call: 77 and one line with the one
    thing that would help; the command is not started, no directory is left."""
    set_paranoid(3)
    done = room.run("-c", REFUSED, "run", "-q", "-o", "r.cow", "--", "touch", str(room.path / "ran"))
    assert (done.status, done.stdout) == (77, ""), done.stderr
    assert one_line(done.stderr)
    assert "perf_event_paranoid" in done.stderr
    assert not (room.path / "ran").exists()
    assert not (room.path / "r.cow").exists()


def test_plain_user_and_a_process_of_another(room: Room) -> None:
    """Attaching to root's process is refused: 77, one line, no directory."""
    done = room.cowscope("attach", "-q", "-o", "r.cow", str(os.getpid()))
    assert (done.status, one_line(done.stderr)) == (77, True), done.stderr
    assert not (room.path / "r.cow").exists()


@pytest.mark.parametrize("source", ["bpf", "tracepoint"])
def test_plain_user_asks_for_tracepoints(room: Room, source: str) -> None:
    """What was asked for by name is refused and not replaced: 77, one line."""
    done = room.cowscope("run", "-q", "-o", "r.cow", "--source", source, "--", "true")
    assert (done.status, one_line(done.stderr)) == (77, True), done.stderr


def test_what_the_doctor_prescribes_works(room: Room, require: Require) -> None:
    """The capabilities that it names, given to a copy of the interpreter, give nobody every fault with its code, and
    the command that is recorded none of them."""
    require(shutil.which("setcap"), "needs setcap")
    own = replace(room, python=str(room.path / "python"))
    shutil.copy(os.path.realpath(room.python), own.python)
    require(runs(own), "needs an interpreter that runs as a copy")
    checks = json.loads(own.cowscope("doctor", "--json").stdout)["checks"]
    (remedy,) = (each["remedy"] for each in checks if each["name"] == "write faults with error code")
    sudo, *prescribed = shlex.split(remedy)
    assert (sudo, prescribed[-1]) == ("sudo", own.python)
    subprocess.run(prescribed, check=True)
    assert json.loads(own.cowscope("doctor", "--json").stdout)["level"] == "TRACEPOINT"
    done = own.cowscope("run", "-q", "-o", "r.cow", "--", "grep", "CapEff", "/proc/self/status")
    assert (done.status, done.stdout) == (0, f"CapEff:\t{0:016x}\n"), done.stderr
    assert shown(room.path / "r.cow")["recording"]["source"] == "tracepoint"
