"""Censuses of objects as files: read whole or not at all, and asked what lies where."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest

from cowscope.recording.schema import Part
from cowscope.runtimes.python.objects import Lineage, ObjectCensus, census_of, read_censuses

ROWS = [
    (0x1000, 64, 0, Part.OBJECT, 16),
    (0x1100, 32, 1, Part.OBJECT, 0),
    (0x400000, 4096, 0, Part.LIST_ITEMS, 0),
]
NAMES = [b"dict", b"\xff\x1b[2J"]


def census_bytes(
    pid: int = 7,
    time: int = 50,
    *,
    rows: int | None = None,
    names: int | None = None,
    magic: bytes = b"COWOBJ1\0",
) -> bytes:
    """A census of ROWS; the head may say otherwise."""
    head = struct.pack(
        "<8sIIQQQ",
        magic,
        pid,
        len(NAMES) if names is None else names,
        time,
        3,
        len(ROWS) if rows is None else rows,
    )
    body = b"".join(struct.pack("<QIHBB", *row) for row in ROWS)
    return head + body + b"".join(struct.pack("<H", len(name)) + name for name in NAMES)


def read(directory: Path, data: bytes) -> list[ObjectCensus]:
    """What is read of a directory with one file of these bytes."""
    (directory / "objects.7.0").write_bytes(data)
    return read_censuses(directory)


def test_a_census_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Names that are no text come out as such, and nothing is lost."""
    (census,) = read(tmp_path, census_bytes())
    assert (census.pid, census.time_ns, census.spent_ns) == (7, 50, 3)
    assert census.types == ("dict", "\udcff\x1b[2J")
    assert census.rows["address"].tolist() == [row[0] for row in ROWS]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        census_bytes()[:30],
        census_bytes(magic=b"\x7fELF\0\0\0\0"),
        census_bytes()[:-1],
        census_bytes(rows=1 << 60),
        census_bytes(names=3),
        census_bytes(names=1 << 31),
    ],
    ids=[
        "empty",
        "half a head",
        "another file",
        "a name cut off",
        "too many rows",
        "a name missing",
        "too many names",
    ],
)
def test_what_is_no_whole_census_is_passed_over(tmp_path: Path, data: bytes) -> None:
    """Whoever may write there may write anything."""
    assert read(tmp_path, data) == []


def test_names_of_files_are_not_trusted(tmp_path: Path) -> None:
    """Half-written files, directories, links to nowhere, and others' files."""
    for name in ("objects.7.0.partial", "objects.x.0", "objects.7", "python.7"):
        (tmp_path / name).write_bytes(census_bytes())
    (tmp_path / "objects.8.0").mkdir()
    (tmp_path / "objects.9.0").symlink_to(tmp_path / "nowhere")
    assert read_censuses(tmp_path) == []


@pytest.mark.parametrize(
    ("address", "hit"),
    [
        (0x0FEF, None),
        (0x0FF0, 0),
        (0x1000, 0),
        (0x103F, 0),
        (0x1040, None),
        (0x10F0, None),
        (0x1100, 1),
        (0x111F, 1),
        (0x1120, None),
        (0x400FFF, 2),
        (0x401000, None),
        (1 << 63, None),
    ],
)
def test_what_lies_at_an_address(tmp_path: Path, address: int, hit: int | None) -> None:
    """From the header's first byte to the last; a neighbour is not taken for what is not there."""
    (census,) = read(tmp_path, census_bytes())
    found, rows = census.at(np.array([address], np.uint64))
    assert (int(rows["address"][0]) if found[0] else None) == (None if hit is None else ROWS[hit][0])


def test_arenas_are_where_small_objects_lie(tmp_path: Path) -> None:
    """The list's items are none."""
    (census,) = read(tmp_path, census_bytes())
    assert census.chunks().tolist() == [0]


def an_instance(pid: int, time: int) -> ObjectCensus:
    """A census of nothing."""
    return ObjectCensus(pid, time, 1, np.zeros(0, [("address", "<u8")]), ())


def test_which_census_knows_a_process() -> None:
    """Its own last one; before its first, that of its parent before the fork, or of the parent's parent."""
    top = Lineage(0, 10, -1, 0, 5)
    child = Lineage(1, 11, 0, 100, -1)
    grandchild = Lineage(2, 12, 1, 200, -1)
    processes = {p.key: p for p in (top, child, grandchild)}
    censuses = [an_instance(10, 90), an_instance(10, 150), an_instance(12, 300)]
    assert census_of(top, 400, processes, censuses) is censuses[1]
    assert census_of(child, 400, processes, censuses) is censuses[0]
    assert census_of(grandchild, 250, processes, censuses) is censuses[0]
    assert census_of(grandchild, 400, processes, censuses) is censuses[2]


def test_who_became_another_program_has_no_objects_of_before() -> None:
    """Nor has who took over the id of one that had."""
    top, child = Lineage(0, 10, -1, 0, -1), Lineage(1, 11, 0, 100, 120)
    censuses = [an_instance(10, 90), an_instance(11, 110)]
    assert census_of(child, 400, {0: top, 1: child}, censuses) is None
    reused = Lineage(2, 11, -1, 500, -1)
    assert census_of(reused, 600, {2: reused}, censuses) is None
