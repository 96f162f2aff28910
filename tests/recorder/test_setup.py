"""Before the first event: the recording's directory, its first note, the size of its rings, the CPUs."""

from __future__ import annotations

import json
import os
import re
import resource
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope import __version__
from cowscope.errors import CowscopeError
from cowscope.linux.tracefs import TraceEvent, TraceField
from cowscope.recorder.channels import RING_BYTES, SMALL_RING_BYTES, Channel
from cowscope.recorder.probes import online_cpus, parse_cpu_list
from cowscope.recorder.setup import Source, fitting_rings, make_directory, raise_file_limit, start_note
from cowscope.recording.journal import raw_directory
from cowscope.recording.meta import Host

LEAST = 64 << 10
"""Below which no ring is made smaller."""

# --- directory ---


@pytest.fixture
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where recordings without a name go."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_directory_with_a_raw_part_that_is_private(tmp_path: Path) -> None:
    """Parents are made, too."""
    made = make_directory(tmp_path / "a" / "b.cow", "ignored")
    assert made == tmp_path / "a" / "b.cow"
    assert stat.S_IMODE(raw_directory(made).stat().st_mode) == 0o700


@pytest.mark.parametrize(
    ("command", "stem"),
    [
        ("/usr/bin/python3", "python3"),
        ("gunicorn: master [app]", "gunicorn-master-app"),
        ("../../etc/.hidden", "hidden"),
        ("\x1b[31m\n", "31m"),
        ("…", "command"),
        ("", "command"),
        ("--version", "version"),
    ],
)
def test_a_name_of_its_own(command: str, stem: str, at_home: Path) -> None:
    """Program, time and recorder; nothing of it steers a terminal, leaves the place or looks like an option."""
    made = make_directory(None, command)
    assert re.fullmatch(rf"{re.escape(stem)}-\d{{8}}-\d{{6}}-{os.getpid()}\.cow", str(made))
    assert [entry.name for entry in at_home.iterdir()] == [str(made)]


def test_what_is_there_is_not_taken(tmp_path: Path) -> None:
    """Neither a directory nor a file."""
    (tmp_path / "file").write_text("keep")
    for taken in (tmp_path, tmp_path / "file"):
        with pytest.raises(CowscopeError, match="exists already: choose another name"):
            make_directory(taken, "x")
    assert (tmp_path / "file").read_text() == "keep"


def test_where_nothing_can_be_made(tmp_path: Path) -> None:
    """The message has the kernel's reason, and says what to do."""
    (tmp_path / "file").write_text("")
    with pytest.raises(CowscopeError, match="Not a directory; choose another place"):
        make_directory(tmp_path / "file" / "r.cow", "x")
    with pytest.raises(CowscopeError, match="File name too long; choose"):
        make_directory(tmp_path / ("x" * 300), "x")


def test_a_name_that_is_no_text(tmp_path: Path) -> None:
    """DuckDB takes none such."""
    with pytest.raises(CowscopeError, match="not UTF-8"):
        make_directory(tmp_path / "\udcff.cow", "x")
    assert list(tmp_path.iterdir()) == []


# --- rings ---


def on(cpus: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with so many CPUs; None if it does not tell."""
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)


@pytest.mark.parametrize("cpus", [None, 1, 2, 16])
def test_rings_of_a_small_machine_are_whole(cpus: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken from them."""
    on(cpus, monkeypatch)
    assert fitting_rings(RING_BYTES) == RING_BYTES


@pytest.mark.parametrize("cpus", [64, 256])
def test_rings_of_a_large_machine_fit(cpus: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Into the memory that they may take, in powers of two, the largest for faults, and not halved once too often."""
    on(cpus, monkeypatch)
    rings = fitting_rings(RING_BYTES)
    assert cpus * sum(rings.values()) <= 512 << 20 < 2 * cpus * sum(rings.values())
    assert all(n & (n - 1) == 0 and LEAST <= n < RING_BYTES[channel] for channel, n in rings.items())
    assert rings[Channel.FAULT] == max(rings.values())


def test_rings_have_a_least_size(monkeypatch: pytest.MonkeyPatch) -> None:
    """No machine is so large that a ring shrinks to nothing; small ones stay."""
    on(1 << 20, monkeypatch)
    assert min(fitting_rings(RING_BYTES).values()) == LEAST
    assert fitting_rings(SMALL_RING_BYTES) == SMALL_RING_BYTES


# --- the first note ---


def test_the_first_note(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is JSON, its host is what meta.json takes, and it tells what raw files cannot: ids and offsets."""
    fields = {"address": TraceField(offset=8, size=8, signed=False)}
    event = TraceEvent("exceptions", "page_fault_user", 190, fields)
    source = Source("tracepoint", {}, RING_BYTES, {"exceptions:page_fault_user": event})
    note = start_note(source, command=["sh", "\udcff"], attached=True, first_touch=False)
    told = json.loads(json.dumps(note))
    assert told == note
    assert (told["kind"], told["cowscope"], told["command"]) == ("start", __version__, ["sh", "\udcff"])
    assert (told["attached"], told["first_touch"], told["source"]) == (True, False, "tracepoint")
    assert told["events"] == {"exceptions:page_fault_user": {"id": 190, "fields": {"address": 8}}}
    assert Host(**told["host"]).cpus == os.cpu_count()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", told["started_at"])


# --- files and CPUs ---


@pytest.fixture
def low_limit() -> Iterator[int]:
    """A soft limit of open files below the hard one, which it gives."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, 200), hard))
    yield hard
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_as_many_files_as_may_be_had(low_limit: int) -> None:
    """The hard limit, which stays."""
    raise_file_limit()
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (low_limit, low_limit)


@pytest.mark.parametrize(
    ("text", "cpus"),
    [("0\n", [0]), ("0-3\n", [0, 1, 2, 3]), ("0,2-3,8\n", [0, 2, 3, 8]), ("1-1", [1])],
)
def test_the_kernels_list_of_cpus(text: str, cpus: list[int]) -> None:
    """Numbers and ranges, with gaps where a CPU is off."""
    assert parse_cpu_list(text) == cpus


@given(st.sets(st.integers(0, 300), min_size=1))
def test_any_list_of_cpus(cpus: set[int]) -> None:
    """Written the kernel's way, it is read back."""
    ordered = sorted(cpus)
    starts = [n for n in ordered if n - 1 not in cpus]
    ends = [n for n in ordered if n + 1 not in cpus]
    text = ",".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(starts, ends, strict=True))
    assert parse_cpu_list(text + "\n") == ordered


def test_the_cpus_of_this_machine() -> None:
    """Those that we may run on are among them."""
    assert os.sched_getaffinity(0) <= set(online_cpus())
