"""What agents left in a recording's raw part, to tables: by whom, for which faults; anything else is passed over."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from tests.runtimes.test_objects import census_bytes

from cowscope.recorder import interpreters
from cowscope.recorder.intervals import Intervals
from cowscope.recorder.rawfiles import RawFaults
from cowscope.recorder.timeline import Process
from cowscope.recording.schema import NONE, Columns, Part


def process(key: int, pid: int, parent: int = NONE, start: int = 0, exec_ns: int = NONE) -> Process:
    """A process of the timeline."""
    return Process(key, pid, parent, start, Intervals(key, []), exec_ns=exec_ns)


def faults(*rows: tuple[int, int, int]) -> tuple[RawFaults, np.typing.NDArray[np.int32]]:
    """Faults by time, process key and address."""
    n = len(rows)
    found = RawFaults(
        time=np.array([row[0] for row in rows], np.uint64),
        address=np.array([row[2] for row in rows], np.uint64),
        pid=np.zeros(n, np.uint32),
        tid=np.zeros(n, np.uint32),
        ip=np.zeros(n, np.uint64),
        access=np.zeros(n, np.uint8),
        allocation=np.zeros(n, np.uint8),
        lost={},
        unclaimed_pid=np.zeros(0, np.uint32),
        unclaimed_time=np.zeros(0, np.uint64),
    )
    return found, np.array([row[1] for row in rows], np.int32)


def tables(raw: Path, processes: list[Process], *rows: tuple[int, int, int]) -> dict[str, Columns]:
    """The three tables."""
    found, keys = faults(*rows)
    return interpreters.tables(raw, interpreters.censuses(raw), processes, found, keys)


def room(tmp_path: Path) -> Path:
    """Where agents write."""
    where = interpreters.directory(tmp_path)
    where.mkdir()
    return where


def test_a_childs_faults_are_looked_up_in_its_parents_list(tmp_path: Path) -> None:
    """The one before its fork; what was free among small objects is told, what is elsewhere not at all."""
    where = room(tmp_path)
    (where / "objects.100.0").write_bytes(census_bytes(100, 50))
    parent, child = process(0, 100), process(1, 101, parent=0, start=60)
    made = tables(
        tmp_path, [parent, child], (70, 1, 0x1004), (71, 1, 0xFF8), (72, 1, 0x2000), (73, 1, 0x900000)
    )
    objects = made["objects"]
    assert objects["fault"].tolist() == [0, 1, 2]
    assert objects["part"].tolist() == [Part.OBJECT, Part.OBJECT, Part.FREE]
    assert objects["offset"].tolist() == [4, -8, 0]
    assert [made["types"]["name"][key] if key != NONE else None for key in objects["type"]] == [
        "dict",
        "dict",
        None,
    ]


def test_faults_before_the_first_list_have_no_objects(tmp_path: Path) -> None:
    """Nor have those of a process that has become another program."""
    where = room(tmp_path)
    (where / "objects.100.0").write_bytes(census_bytes(100, 50))
    parent, child = process(0, 100), process(1, 101, parent=0, start=60, exec_ns=65)
    made = tables(tmp_path, [parent, child], (40, 0, 0x1004), (70, 1, 0x1004))
    assert len(made["objects"]["fault"]) == 0


def test_children_are_python_too_unless_they_become_another_program(tmp_path: Path) -> None:
    """Version, refusal and end, each from its file."""
    where = room(tmp_path)
    (where / "python.100").write_bytes(b"3.11.7\n\n")
    (where / "python.103").write_bytes(b"3.9.1\nthe agent does not know CPython 3.9\n")
    (where / "shutdowns.100").write_bytes(struct.pack("<5Q", 1, 101, 777, 100, 888))
    processes = [
        process(0, 100),
        process(1, 101, parent=0, start=5),
        process(2, 102, parent=0, start=5, exec_ns=6),
        process(3, 103, parent=0, start=5, exec_ns=6),
    ]
    found = tables(tmp_path, processes)["interpreters"]
    assert found["process"].tolist() == [0, 1, 3]
    assert found["version"].tolist() == ["3.11.7", "3.11.7", "3.9.1"]
    assert found["refused"].tolist() == ["", "", "the agent does not know CPython 3.9"]
    assert found["shutdown_ns"].tolist() == [NONE, 777, NONE]


def test_what_others_put_there_is_passed_over(tmp_path: Path) -> None:
    """Wrong names, wrong lengths, links, directories, and text that never ends."""
    where = room(tmp_path)
    (where / "python.100").write_bytes(b"\xff\x1b[2J" * 100_000)
    (where / "python.x").write_bytes(b"3.11.7\n\n")
    (where / "python.101").symlink_to("/etc/passwd")
    (where / "shutdowns.100").write_bytes(b"\xff" * 29)
    (where / "shutdowns.101").write_bytes(b"short")
    (where / "shutdowns.102").mkdir()
    (where / "objects.100.0").write_bytes(b"COWOBJ1\0" + b"\xff" * 100)
    found = tables(tmp_path, [process(0, 100), process(1, 101)], (70, 0, 0x1004))
    assert found["interpreters"]["process"].tolist() == [0]
    assert len(found["interpreters"]["version"][0]) <= 1 << 16
    assert len(found["objects"]["fault"]) == 0


def test_a_recording_without_agents_has_empty_tables(tmp_path: Path) -> None:
    """No directory, no rows."""
    made = tables(tmp_path, [process(0, 100)], (70, 0, 0x1004))
    assert [len(next(iter(columns.values()))) for columns in made.values()] == [0] * 5
