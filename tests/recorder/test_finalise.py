"""Raw files of a made-up recorder to a recording, whole and after its death at any byte."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.errors import BadRecording
from cowscope.recorder.channels import ALLOCATION_EVENT
from cowscope.recorder.finalise import finalise, recover
from cowscope.recording.journal import JournalWriter, Note, raw_directory
from cowscope.recording.reader import open_recording
from cowscope.recording.schema import TABLES, Operation
from cowscope.replay.engine import replay
from cowscope.replay.verdicts import Verdict

EVENTS = {
    "exceptions:page_fault_user": {"id": 1, "fields": {"address": 8, "ip": 16, "error_code": 24}},
    ALLOCATION_EVENT: {"id": 2, "fields": {}},
}
START: Note = {
    "kind": "start",
    "cowscope": "0.1.0",
    "time": 0,
    "started_at": "2026-01-01T00:00:00+00:00",
    "command": ["worker"],
    "attached": False,
    "first_touch": False,
    "host": {"kernel": "6.18", "cpus": 1},
    "source": "tracepoint",
    "events": EVENTS,
}
MAPS = b"00010000-00020000 rw-p 00000000 00:00 0 \n00400000-00401000 r-xp 00000000 08:01 7    /none/bin\xff\n"


def sideband(kind: int, body: bytes, time: int, pid: int, misc: int = 0) -> bytes:
    """A record with its trailer."""
    return struct.pack("<IHH", kind, misc, 8 + len(body) + 16) + body + struct.pack("<IIQ", pid, pid, time)


def fault(time: int, page: int, pid: int) -> bytes:
    """A write to a present page, by code at 0x400010."""
    raw = struct.pack("<HHiQQQ", 1, 0, pid, page << 12, 0x400010, 7).ljust(36, b"\0")
    return struct.pack("<IHHIIQI", 9, 0, 28 + len(raw), pid, pid, time, len(raw)) + raw


def census(*runs: tuple[int, int, int]) -> bytes:
    """Runs of (start, length, state) without groups."""
    return b"".join(struct.pack("<qqqB", start, n, -1, state) for start, n, state in runs)


TASK = sideband(7, struct.pack("<IIIIQ", 200, 100, 200, 100, 100), 100, 100) + sideband(
    4, struct.pack("<IIIIQ", 200, 100, 200, 100, 900), 900, 200
)
FAULTS = fault(300, 16, 200) + fault(400, 16, 100)
CHUNKS: list[tuple[Note, bytes]] = [
    (START, b""),
    (
        {
            "kind": "process",
            "pid": 100,
            "parent": 1,
            "time": 1,
            "name": "w\x1b",
            "executable": "",
            "command_line": "w",
        },
        b"",
    ),
    ({"kind": "maps", "pid": 100, "time": 2, "until": 3, "purpose": "start"}, MAPS),
    ({"kind": "maps", "pid": 200, "time": 110, "until": 120, "purpose": "fork"}, MAPS),
    ({"kind": "census", "pid": 200, "time": 110, "until": 120, "purpose": "fork"}, census((16, 4, 1))),
    ({"kind": "end", "time": 1000, "ended": "command", "exit_status": 3, "lost": {"fault": 0}}, b""),
]


def recorded(directory: Path, *, task: bytes = TASK, faults: bytes = FAULTS, page: bytes = b"") -> Path:
    """A recording of a worker that forked another, not finished yet."""
    raw = raw_directory(directory)
    raw.mkdir(parents=True)
    writer = JournalWriter(raw)
    for note, payload in CHUNKS:
        writer.append(note, payload)
    writer.close()
    for name, data in (("task.0", task), ("fault.0", faults), ("page.0", page)):
        (raw / name).write_bytes(data)
    return directory


def test_raw_files_become_a_recording(tmp_path: Path) -> None:
    """Processes, forks, operations, faults and census fit together, and the raw files are gone."""
    page = struct.pack("<IHHIIQ", 9, 0, 24, 200, 200, 301)
    meta = finalise(recorded(tmp_path, page=page))
    opened = open_recording(tmp_path)
    assert opened.meta == meta
    assert not raw_directory(tmp_path).exists()
    assert (meta.exit_status, meta.ended, meta.recovered, meta.kernel_allocations) == (
        3,
        "command",
        False,
        True,
    )
    assert opened.table("processes")["pid"].tolist() == [100, 200]
    assert opened.table("processes")["end_ns"].tolist() == [-1, 900]
    assert opened.table("operations")["operation"].tolist() == [Operation.EXIT]
    assert opened.table("faults")["process"].tolist() == [1, 0]
    assert opened.table("census")["process"].tolist() == [1]
    assert opened.table("symbols")["file"].tolist() == ["/none/bin\\xff"]
    assert opened.table("symbols")["offset"].tolist() == [0x10]
    assert [Verdict(int(v)) for v in replay(opened).verdict] == [Verdict.COPIED, Verdict.REUSED]


def test_raw_files_may_be_kept(tmp_path: Path) -> None:
    """And a recording with them can be built again."""
    finalise(recorded(tmp_path), keep_raw=True)
    assert recover(tmp_path).recovered
    with pytest.raises(BadRecording, match="is complete"):
        recover(tmp_path)


@given(cut=st.integers(0, 4000), task=st.integers(0, 120), faults=st.integers(0, 140))
@settings(max_examples=40, deadline=None)
def test_a_recorder_that_died_at_any_byte_leaves_a_recording(
    tmp_path_factory: pytest.TempPathFactory, cut: int, task: int, faults: int
) -> None:
    """Or an error that says what is missing; whole faults are all there."""
    directory = recorded(tmp_path_factory.mktemp("dead"), task=TASK[:task], faults=FAULTS[:faults])
    journal = raw_directory(directory) / "journal"
    data = journal.read_bytes()
    journal.write_bytes(data[:cut])
    first = 12 + len(json.dumps(START))
    if cut < first:
        with pytest.raises(BadRecording, match="beginning of its journal is missing"):
            recover(directory)
        return
    meta = recover(directory)
    opened = open_recording(directory)
    tables = {name: opened.table(name) for name in TABLES}
    assert len(tables["faults"]["time_ns"]) == min(faults // (len(FAULTS) // 2), 2)
    assert meta.recovered
    assert meta.ended == ("command" if cut >= len(data) else "recorder died")
    replay(opened)


def test_what_cannot_be_recovered_says_so(tmp_path: Path) -> None:
    """No directory, no journal."""
    with pytest.raises(BadRecording, match="it is no directory"):
        recover(tmp_path / "none")
    with pytest.raises(BadRecording, match="there is no journal in it"):
        recover(tmp_path)
