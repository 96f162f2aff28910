"""Raw files to a recording: the last step of `run` and `attach`, and all that `recover` does."""

from __future__ import annotations

import shutil
from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import replace
from heapq import merge
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cowscope.errors import BadRecording
from cowscope.recorder import interpreters
from cowscope.recorder.census import PAYLOAD
from cowscope.recorder.channels import ALLOCATION_EVENT, FORK_COUNT_EVENT, OPERATION_EVENTS
from cowscope.recorder.rawfiles import RawFaults, read_faults, read_records
from cowscope.recorder.symbols import KERNEL, KERNEL_START, Symbolizer, location
from cowscope.recorder.timeline import Timeline
from cowscope.recording.journal import Note, held, parse_journal, raw_directory
from cowscope.recording.meta import FILE_NAME, Host, Meta
from cowscope.recording.reader import open_recording
from cowscope.recording.schema import NONE, TABLES, Allocation, Columns, empty, from_rows
from cowscope.recording.writer import write_meta, write_table
from cowscope.runtimes.python.objects import ObjectCensus
from cowscope.units import PAGE_SHIFT, PAGE_SIZE

Chunk = tuple[Note, bytes]


def finalise(directory: Path, *, recovered: bool = False, keep_raw: bool = False) -> Meta:
    """Write the tables and `meta.json` of the recording in `directory`; its raw files are removed after.

    Raises `BadRecording` when there is nothing to build from, `OSError` when the disk takes no more (the
    raw files then stay, and `cowscope recover` can go on from them).
    """
    with held(raw_directory(directory)):
        tables, meta = build(directory, recovered=recovered)
        for table, columns in tables.items():
            write_table(directory, table, columns)
        write_meta(directory, meta)
        if not keep_raw:
            shutil.rmtree(raw_directory(directory))
    return meta


def build(
    directory: Path, *, recovered: bool = False, name_code: bool = True
) -> tuple[dict[str, Columns], Meta]:
    """The tables and the meta of the raw files in `directory`, in memory. Raises `BadRecording`.

    Verdicts need no function names: without `name_code` the `symbols` table stays empty.
    """
    raw = raw_directory(directory)
    chunks = _journal(directory, raw)
    start = chunks[0][0]
    records, lost = read_records(raw)
    timeline = Timeline(start["events"], started_ns=start["time"])
    for _, item in merge(
        ((record.time, record) for record in records),
        ((note["time"], (note, payload)) for note, payload in _timed(chunks)),
        key=lambda pair: pair[0],
    ):
        _feed(timeline, item)
    timeline.close()
    end = chunks[-1][0] if chunks[-1][0]["kind"] == "end" else {}
    ended = str(end.get("ended", ""))
    broke_off = not end or ended == "disk" or ended.startswith("write error")
    faults = read_faults(raw, start, whole=not broke_off)
    _set_status(timeline, end)
    listed = interpreters.censuses(raw)
    _discount(faults, listed)
    tables = _tables(raw, listed, timeline, faults, chunks, name_code=name_code)
    meta = _meta(start, end, lost, faults, raw, recovered=recovered)
    return tables, replace(meta, unclaimed_pages=_unclaimed(timeline, faults, listed))


def recover(directory: Path, *, keep_raw: bool = False) -> Meta:
    """Build the recording that a dead recorder left behind, up to its last flush.

    Raises `BadRecording`, also for a recording that needs no recovery.
    """
    if not directory.is_dir():
        raise BadRecording(f"{directory} is not a recording: it is no directory")
    if (directory / FILE_NAME).exists() and not raw_directory(directory).is_dir():
        open_recording(directory)
        raise BadRecording(
            f"{directory} is complete: there is nothing to recover, read it with cowscope show"
        )
    return finalise(directory, recovered=True, keep_raw=keep_raw)


def _journal(directory: Path, raw: Path) -> list[Chunk]:
    try:
        chunks = list(parse_journal((raw / "journal").read_bytes()))
    except OSError:
        raise BadRecording(f"{directory} is not a recording: there is no journal in it") from None
    if not chunks or chunks[0][0].get("kind") != "start":
        raise BadRecording(f"{directory} cannot be recovered: the beginning of its journal is missing")
    return chunks


def _timed(chunks: list[Chunk]) -> Iterator[Chunk]:
    """The chunks that the timeline wants, by time (a long census is written after shorter ones)."""
    wanted = (chunk for chunk in chunks if chunk[0]["kind"] in ("process", "maps"))
    return iter(sorted(wanted, key=lambda chunk: int(chunk[0]["time"])))


def _feed(timeline: Timeline, item: Any) -> None:
    if not isinstance(item, tuple):
        timeline.apply(item)
    elif item[0]["kind"] == "maps":
        timeline.note_maps(*item)
    else:
        timeline.note_process(item[0])


def _set_status(timeline: Timeline, end: Note) -> None:
    """The command's exit status; those of its children are known to their parents alone."""
    if end.get("exit_status") is not None and timeline.processes:
        timeline.processes[0].status = int(end["exit_status"])


def _tables(
    raw: Path,
    listed: list[ObjectCensus],
    timeline: Timeline,
    faults: RawFaults,
    chunks: list[Chunk],
    *,
    name_code: bool,
) -> dict[str, Columns]:
    keys = timeline.keys(faults.pid, faults.time)
    nameless = np.full(len(faults), NONE, np.int32), empty("symbols")
    code, symbols = _code(timeline, faults, keys) if name_code else nameless
    tables: dict[str, Columns] = {
        "processes": timeline.processes_table(),
        "mappings": timeline.mappings_table(),
        "forks": timeline.forks_table(),
        "operations": timeline.operations_table(),
        "census": _census(timeline, chunks),
        "symbols": symbols,
        "faults": {
            "time_ns": faults.time.astype(np.int64),
            "process": keys,
            "tid": faults.tid.astype(np.int32),
            "address": faults.address,
            "code": code,
            "access": faults.access,
            "allocation": faults.allocation,
        },
    }
    tables |= interpreters.tables(raw, listed, timeline.processes, faults, keys)
    return {name: tables[name] for name in TABLES}


def _census(timeline: Timeline, chunks: list[Chunk]) -> Columns:
    parts: list[Columns] = []
    for number, (note, payload) in enumerate(chunk for chunk in chunks if chunk[0]["kind"] == "census"):
        runs = np.frombuffer(payload, PAYLOAD)
        pid, time = np.array([note["pid"]], np.uint32), np.array([note["time"]], np.uint64)
        key = int(timeline.keys(pid, time)[0])
        if key == NONE or not len(runs):
            continue
        parts.append(
            {
                "census": np.full(len(runs), number, np.int32),
                "process": np.full(len(runs), key, np.int32),
                "time_ns": np.full(len(runs), note["time"], np.int64),
                "until_ns": np.full(len(runs), note["until"], np.int64),
                "start_page": runs["start_page"],
                "n_pages": runs["n_pages"],
                "state": runs["state"],
                "group": runs["group"],
            }
        )
    if not parts:
        return empty("census")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _code(
    timeline: Timeline, faults: RawFaults, keys: NDArray[np.int32]
) -> tuple[NDArray[np.int32], Columns]:
    """A `symbols` key for each fault, and the `symbols` table.

    One look for each pair of process and address, since a process's own mappings tell the file.
    """
    addresses, which = distinct(faults.ip)
    pairs, pair_of = distinct((keys.astype(np.int64) + 1) * max(len(addresses), 1) + which)
    first = np.zeros(len(pairs), np.int64)
    first[pair_of[::-1]] = np.arange(len(pair_of) - 1, -1, -1)
    lookup = _FileLookup(timeline)
    places: dict[tuple[str, int, int], int] = {}
    code_of_pair = np.empty(len(pairs), np.int32)
    for index, at in enumerate(first.tolist()):
        address, key, time = int(faults.ip[at]), int(keys[at]), int(faults.time[at])
        place = (KERNEL, NONE, address) if address >= KERNEL_START else (*lookup.place(key, address, time), 0)
        code_of_pair[index] = places.setdefault(place, len(places))
    symbolizer = Symbolizer()
    rows: list[tuple[object, ...]] = [
        (
            code,
            file,
            offset,
            symbolizer.kernel_function(kernel) if kernel else symbolizer.function(file, offset),
        )
        for (file, offset, kernel), code in places.items()
    ]
    return code_of_pair[pair_of].astype(np.int32), from_rows("symbols", rows)


def distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The distinct values ascending, and the place of each value among them; fast where they are few.

    A sample finds nearly all of them, so that the whole is looked up and never sorted.

    >>> distinct(np.array([7, 3, 7]))
    (array([3, 7]), array([1, 0, 1]))
    """
    found = np.unique(values[:: max(len(values) >> 16, 1)])
    place = np.searchsorted(found, values)
    place[place == len(found)] = 0
    missed = values[found[place] != values] if len(found) else values
    if len(missed):
        found = np.union1d(found, missed)
        place = np.searchsorted(found, values)
    return found, place


def _discount(faults: RawFaults, listed: list[ObjectCensus]) -> None:
    """While our own agent writes down objects, what a process allocates late is the page cache's, not a fault's."""
    for census in listed:
        within = (faults.time >= census.time_ns) & (faults.time <= census.time_ns + census.spent_ns)
        late = (faults.pid == census.pid) & (faults.allocation == Allocation.LATE)
        faults.allocation[within & late] = Allocation.NONE_SEEN


def _unclaimed(timeline: Timeline, faults: RawFaults, listed: list[ObjectCensus]) -> int:
    """Pages that processes allocated while they shared memory by fork, and that no recorded fault accounts for.

    A child that execs shares no more, until it forks itself. What was allocated while our own agent wrote down the
    objects is the page cache's.
    """
    keys = timeline.keys(faults.unclaimed_pid, faults.unclaimed_time)
    since = np.full(len(timeline.processes) + 1, _NEVER)
    until = np.full(len(timeline.processes) + 1, _NEVER)
    for fork in timeline.forks:
        if not fork.shares_memory:
            since[fork.parent] = min(since[fork.parent], fork.time_ns)
            since[fork.child] = min(since[fork.child], fork.time_ns)
    parents = {fork.parent for fork in timeline.forks}
    for process in timeline.processes:
        if process.exec_ns > since[process.key] and process.key not in parents:
            until[process.key] = process.exec_ns
    time = faults.unclaimed_time.astype(np.int64)
    open_ = (time >= since[keys]) & (time < until[keys])
    for census in listed:
        within = (time >= census.time_ns) & (time <= census.time_ns + census.spent_ns)
        open_ &= ~(within & (faults.unclaimed_pid == census.pid))
    return int(np.count_nonzero(open_))


_NEVER = np.int64((1 << 63) - 1)


class _FileLookup:
    """Which file an address of a process belonged to at a time; rows by process are sorted when asked for."""

    def __init__(self, timeline: Timeline) -> None:
        self._rows: dict[int, list[Any]] = {}
        for row in timeline.rows:
            self._rows.setdefault(row.process, []).append(row)
        self._starts: dict[int, list[int]] = {}

    def place(self, process: int, address: int, time: int) -> tuple[str, int]:
        page = address >> PAGE_SHIFT
        if process not in self._starts:
            self._rows.setdefault(process, []).sort(key=lambda row: row.start)
            self._starts[process] = [row.start for row in self._rows[process]]
        rows = self._rows[process]
        for at in range(bisect_right(self._starts[process], page) - 1, -1, -1):
            row = rows[at]
            if row.end > page and row.from_ns <= time and (row.to_ns == NONE or time <= row.to_ns):
                offset = row.backing.file_offset + address - row.start * PAGE_SIZE
                return location(row.backing.name, offset)
        return location("", NONE)


def _meta(
    start: Note, end: Note, lost: dict[str, int], faults: RawFaults, raw: Path, *, recovered: bool
) -> Meta:
    events = start["events"]
    total = dict(lost)
    for counts in (faults.lost, end.get("lost", {})):
        # Two counts of the same loss: records in the ring, and what the events say at the end.
        for channel, count in counts.items():
            total[channel] = max(total.get(channel, 0), int(count))
    last = int(faults.time[-1]) if len(faults) else int(start["time"])
    return Meta(
        host=Host(**start["host"]),
        cowscope=start["cowscope"],
        source=start["source"],
        first_touch=start["first_touch"],
        attached=start["attached"],
        started_at=start["started_at"],
        started_ns=start["time"],
        ended_ns=int(end.get("time", last)),
        ended=str(end.get("ended", "recorder died")),
        recovered=recovered,
        command=tuple(start["command"]),
        exit_status=end.get("exit_status"),
        kernel_allocations=ALLOCATION_EVENT in events,
        kernel_fork_counts=FORK_COUNT_EVENT in events,
        operations_seen=all(name in events for name in OPERATION_EVENTS),
        lost=total,
        missed_census=int(end.get("missed_census", 0)),
        recorder_cpu_s=float(end.get("recorder_cpu_s", 0.0)),
        raw_bytes=sum(file.lstat().st_size for file in raw.rglob("*") if file.is_file()),
    )
