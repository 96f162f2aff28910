"""What a user without any right gets: an estimate through the software event, or one line that says what to do."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
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

    def cowscope(self, *arguments: str) -> Finished:
        """Cowscope, as nobody."""
        done = subprocess.run(
            [self.python, "-m", "cowscope", *arguments],
            capture_output=True,
            env=environment(PYTHONPATH=self.pythonpath),
            timeout=PATIENCE_S,
            check=False,
            **self.popen,
        )
        return finished(done.returncode, done.stdout, done.stderr)


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
def paranoid_3() -> Iterator[None]:
    """kernel.perf_event_paranoid as hardened distributions set it, for the time of a test."""
    before = PARANOID.read_text()
    try:
        PARANOID.write_text("3")
        yield
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


def test_plain_user(room: Room, require: Require) -> None:
    """Nobody records a program of nobody's, without any right, and gets the same."""
    require(int(PARANOID.read_text()) <= 2, "needs kernel.perf_event_paranoid of 2 or less")
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


@pytest.mark.usefixtures("paranoid_3")
def test_plain_user_of_a_hardened_kernel(room: Room) -> None:
    """77 and one line with the one thing that would help; the command is not started, no directory is left."""
    done = room.cowscope("run", "-q", "-o", "r.cow", "--", "touch", str(room.path / "ran"))
    assert (done.status, done.stdout) == (77, "")
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
