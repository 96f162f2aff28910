"""From sideband records and journal notes, in order of time, to who lived when and mapped what.

| record | effect |
|---|---|
| Fork of a process | new process, mappings inherited; page counts heard before it belong to it |
| task_newtask with CLONE_VM | that child shares the address space: no fork of memory |
| Comm by exec | all mappings gone |
| Exit | the process ends with its last thread |
| Mmap | a mapping placed (mmap, brk, mprotect tell the whole of it, merged) |
| munmap, madvise(DONTNEED), brk, mremap, mmap(FIXED) | an operation on pages |
| maps (journal) | mappings corrected to what /proc said |

Not modelled: system calls that failed (an munmap that fails is rare and does nothing worse than an early
end of a row), remap_file_pages, and address spaces changed from outside (process_madvise).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cowscope.linux.perf_records import Comm, Exit, Fork, Mmap, RawSample
from cowscope.linux.proc import parse_maps
from cowscope.recorder.channels import FORK_COUNT_EVENT, NEW_TASK_EVENT
from cowscope.recorder.intervals import Backing, Intervals, Row
from cowscope.recording.schema import NONE, Columns, MappingKind, Operation, from_rows
from cowscope.units import PAGE_SHIFT, PAGE_SIZE

CLONE_VM = 0x100
_KEPT_NAMES = ("[heap]", "[stack]", "[vdso]", "[vvar]", "[vsyscall]")
_COUNTERS = {0: "file", 1: "anonymous", 2: "swapped", 3: "shared memory"}
"""Members of the kernel's rss_stat array: MM_FILEPAGES, MM_ANONPAGES, MM_SWAPENTS, MM_SHMEMPAGES."""

Formats = Mapping[str, Mapping[str, Any]]
"""Name of a tracepoint -> {"id": number, "fields": {name: byte offset}}."""


@dataclass
class Process:
    """A row of the `processes` table in the making."""

    key: int
    pid: int
    parent: int
    start_ns: int
    intervals: Intervals
    exec_ns: int = NONE
    end_ns: int = NONE
    status: int = NONE
    name: str = ""
    executable: str = ""
    command_line: str = ""
    last_exit_ns: int = NONE
    main_exited: bool = False


@dataclass
class ForkRow:
    """A row of the `forks` table in the making."""

    time_ns: int
    parent: int
    child: int
    shares_memory: bool = False
    counts: dict[str, int] = field(default_factory=dict)
    before_start: bool = False


class Timeline:
    """Feed it everything in order of time with `apply` and `note`; then read the tables."""

    def __init__(self, formats: Formats, *, started_ns: int) -> None:
        """`formats` as the journal's first chunk has them."""
        self.started_ns = started_ns
        self.processes: list[Process] = []
        self.rows: list[Row] = []
        self.forks: list[ForkRow] = []
        self.operations: list[tuple[int, int, int, int, int, int]] = []
        self._by_pid: dict[int, Process] = {}
        self._threads: dict[int, int] = {}
        self._last_fork: dict[int, ForkRow] = {}
        self._counts: dict[int, dict[str, int]] = {}
        self._counted_at: dict[int, int] = {}
        self._moves: dict[int, tuple[int, int, int]] = {}
        self._formats = {entry["id"]: (name, entry["fields"]) for name, entry in formats.items()}
        self._counts_watched = FORK_COUNT_EVENT in formats

    def apply(self, record: object) -> None:
        """Take in one perf record."""
        handler = _HANDLERS.get(type(record))
        if handler is not None:
            handler(self, record)

    def note_process(self, note: Mapping[str, Any]) -> None:
        """What /proc said about who a process is."""
        process = self._process(int(note["pid"]), int(note["time"]))
        self._adopt(process, self._by_pid.get(int(note["parent"])))
        process.name, process.executable = str(note["name"]), str(note["executable"])
        process.command_line = str(note["command_line"])

    def note_maps(self, note: Mapping[str, Any], maps: bytes) -> None:
        """What /proc/PID/maps said."""
        time = int(note["time"])
        process = self._process(int(note["pid"]), time)
        process.intervals.sync(_backings(maps), time)

    def close(self) -> None:
        """The end: processes whose main thread was seen to exit have ended."""
        for process in list(self._by_pid.values()):
            self._end(process)

    def processes_table(self) -> Columns:
        """The `processes` table."""
        return from_rows(
            "processes",
            [
                (p.key, p.pid, p.parent, p.start_ns, p.exec_ns, p.end_ns, p.status, p.name, p.executable)
                + (p.command_line,)
                for p in self.processes
            ],
        )

    def mappings_table(self) -> Columns:
        """The `mappings` table."""
        return from_rows(
            "mappings",
            [
                (r.key, r.process, r.from_ns, r.to_ns, r.start, r.end, r.backing.protection, r.backing.shared)
                + (int(r.backing.kind), r.backing.file_offset, r.backing.name)
                for r in self.rows
            ],
        )

    def forks_table(self) -> Columns:
        """The `forks` table."""
        rows = sorted(self.forks, key=lambda fork: fork.time_ns)
        return from_rows(
            "forks",
            [
                (f.time_ns, f.parent, f.child, f.shares_memory, *self._fork_counts(f), f.before_start)
                for f in rows
            ],
        )

    def operations_table(self) -> Columns:
        """The `operations` table, by time."""
        return from_rows("operations", sorted(self.operations))

    def keys(self, pids: NDArray[np.uint32], times: NDArray[np.uint64]) -> NDArray[np.int32]:
        """The process key of each (pid, time), -1 for a pid that was never met."""
        top = max((p.pid for p in self.processes), default=0)
        table = np.full(top + 2, NONE, np.int32)
        repeated: dict[int, list[Process]] = {}
        for process in self.processes:
            if table[process.pid] != NONE:
                repeated.setdefault(process.pid, [self.processes[table[process.pid]]]).append(process)
            else:
                table[process.pid] = process.key
        keys = table[np.minimum(pids, top + 1)]
        for pid, instances in repeated.items():
            where = np.flatnonzero(pids == pid)
            starts = np.array([p.start_ns for p in instances[1:]], np.uint64)
            which = np.searchsorted(starts, times[where], side="right")
            keys[where] = np.array([p.key for p in instances], np.int32)[which]
        return keys

    def _fork_counts(self, fork: ForkRow) -> tuple[int, int, int]:
        known = self._counts_watched and not fork.before_start
        return tuple(fork.counts.get(name, 0) if known else NONE for name in ("anonymous", "file", "swapped"))  # type: ignore[return-value]

    def _adopt(self, process: Process, parent: Process | None) -> None:
        """A fork that was done before the recording began; its mappings may have been noted before its parent."""
        if parent is not None and process.parent == NONE:
            process.parent = parent.key
            self.forks.append(ForkRow(self.started_ns, parent.key, process.key, before_start=True))

    def _process(self, pid: int, time: int) -> Process:
        """The live process of that pid; one that no fork was seen of is new, and has been there before."""
        process = self._by_pid.get(pid)
        if process is not None:
            return process
        return self._new(pid, NONE, min(time, self.started_ns))

    def _new(self, pid: int, parent: int, time: int) -> Process:
        key = len(self.processes)
        process = Process(key, pid, parent, time, Intervals(key, self.rows))
        self.processes.append(process)
        self._by_pid[pid] = process
        return process

    def _end(self, process: Process) -> None:
        """Close a process whose main thread is gone; the last thread's exit was its end."""
        if not process.main_exited:
            return
        process.end_ns = process.last_exit_ns
        process.intervals.clear(process.end_ns)
        self.operations.append((process.end_ns, process.key, Operation.EXIT, 0, 0, NONE))
        self._by_pid.pop(process.pid, None)

    def _fork(self, record: Fork) -> None:
        if record.pid == record.parent_pid:
            return
        previous = self._by_pid.get(record.pid)
        if previous is not None:
            previous.main_exited = True
            previous.last_exit_ns = max(previous.last_exit_ns, previous.start_ns)
            self._end(previous)
        parent = self._process(record.parent_pid, record.time)
        child = self._new(record.pid, parent.key, record.time)
        child.name, child.executable = parent.name, parent.executable
        child.command_line = parent.command_line
        counts = self._counts.pop(record.parent_tid, {})
        time = self._counted_at.pop(record.parent_tid, record.time)
        child.intervals.inherit(parent.intervals, record.time)
        fork = ForkRow(time, parent.key, child.key, counts=counts)
        self.forks.append(fork)
        self._last_fork[record.parent_tid] = fork

    def _exit(self, record: Exit) -> None:
        process = self._by_pid.get(record.pid)
        if process is None:
            return
        process.last_exit_ns = record.time
        process.main_exited = process.main_exited or record.pid == record.tid

    def _comm(self, record: Comm) -> None:
        process = self._process(record.pid, record.time)
        if record.pid == record.tid:
            process.name = record.name.decode("utf-8", "surrogateescape")
        if record.by_exec:
            process.exec_ns = record.time
            process.intervals.clear(record.time)
            self.operations.append((record.time, process.key, Operation.EXEC, 0, 0, NONE))

    def _mmap(self, record: Mmap) -> None:
        process = self._process(record.pid, record.time)
        kind, name = _kind_and_name(record.file.decode("utf-8", "surrogateescape"), record.shared)
        backing = Backing(record.protection, record.shared, kind, record.offset, name)
        process.intervals.place(record.start >> PAGE_SHIFT, _page_up(record.end), backing, record.time)

    def _sample(self, record: RawSample) -> None:
        name, fields = self._formats.get(record.event_id, ("", {}))
        values = {key: _number(record.raw, offset) for key, offset in fields.items()}
        if name == FORK_COUNT_EVENT:
            # `member` and `mm_id` are four bytes wide, `size` is eight and in bytes.
            counts = self._counts.setdefault(record.tid, {})
            counts[_COUNTERS.get(values["member"] & 0xFFFFFFFF, "other")] = values["size"] // PAGE_SIZE
            self._counted_at[record.tid] = record.time
        elif name == NEW_TASK_EVENT:
            self._new_task(record.tid, values["clone_flags"])
        else:
            self._system_call(name.rpartition("_")[2], name, record, values)

    def _new_task(self, parent_tid: int, flags: int) -> None:
        """Told right after the fork itself, by the same thread; its own `pid` is not of our namespace."""
        fork = self._last_fork.pop(parent_tid, None)
        if fork is not None and flags & CLONE_VM:
            fork.shares_memory = True

    def _system_call(self, call: str, name: str, record: RawSample, values: Mapping[str, int]) -> None:
        process = self._process(record.pid, record.time)
        if call == "munmap" or call == "mmap":
            self._drop(process, record.time, values["addr"], values["addr"] + values["len"])
        elif call == "madvise":
            start, end = values["start"] >> PAGE_SHIFT, _page_up(values["start"] + values["len_in"])
            self.operations.append((record.time, process.key, Operation.DISCARD, start, end - start, NONE))
        elif call == "brk":
            heap_end = process.intervals.end_of("[heap]")
            if heap_end is not None and values["brk"] and values["brk"] < heap_end << PAGE_SHIFT:
                self._drop(process, record.time, values["brk"] + PAGE_SIZE - 1, heap_end << PAGE_SHIFT)
        elif "exit" in name:
            self._moved(process, record, values["ret"])
        else:
            self._moves[record.tid] = (values["addr"], values["old_len"], values["new_len"])

    def _drop(self, process: Process, time: int, start: int, end: int) -> None:
        first, last = start >> PAGE_SHIFT, _page_up(end)
        if last <= first:
            return
        process.intervals.remove(first, last, time)
        self.operations.append((time, process.key, Operation.UNMAP, first, last - first, NONE))

    def _moved(self, process: Process, record: RawSample, result: int) -> None:
        address, old_bytes, new_bytes = self._moves.pop(record.tid, (0, 0, 0))
        if not address or result % PAGE_SIZE:
            return
        start, to = address >> PAGE_SHIFT, result >> PAGE_SHIFT
        old, new = _page_up(old_bytes), _page_up(new_bytes)
        if new < old:
            self._drop(process, record.time, (start + new) << PAGE_SHIFT, (start + old) << PAGE_SHIFT)
        if to != start:
            kept = min(old, new)
            self.operations.append((record.time, process.key, Operation.MOVE, start, kept, to))
        process.intervals.move(start, min(old, new), new, to, record.time)


def _number(raw: bytes, offset: int) -> int:
    return int.from_bytes(raw[offset : offset + 8], "little")


def _page_up(address: int) -> int:
    return (address + PAGE_SIZE - 1) >> PAGE_SHIFT


def _kind_and_name(file: str, shared: bool) -> tuple[MappingKind, str]:
    """Names as perf has them to kind and name; memory that is private and has no file begins as zeroes.

    >>> _kind_and_name("//anon", False)
    (<MappingKind.ANONYMOUS: 0>, '[anon]')
    """
    if file in ("", "//anon") or file.startswith("[anon"):
        return MappingKind.ANONYMOUS, "[anon]" if file in ("", "//anon") else file
    if file in _KEPT_NAMES or file.startswith("["):
        return MappingKind.ANONYMOUS, file
    if not shared and file.startswith(("/dev/zero", "/anon_hugepage")):
        return MappingKind.ANONYMOUS, file
    return MappingKind.FILE, file


def _backings(maps: bytes) -> Iterable[tuple[int, int, Backing]]:
    parsed = parse_maps(maps)
    columns = zip(
        parsed.start.tolist(),
        parsed.end.tolist(),
        parsed.protection.tolist(),
        parsed.shared.tolist(),
        parsed.offset.tolist(),
        parsed.names,
        strict=True,
    )
    for start, end, protection, shared, offset, text in columns:
        kind, name = _kind_and_name(text, shared)
        yield start >> PAGE_SHIFT, end >> PAGE_SHIFT, Backing(protection, shared, kind, offset, name)


_HANDLERS: dict[type, Callable[[Timeline, Any], None]] = {
    Fork: Timeline._fork,
    Exit: Timeline._exit,
    Comm: Timeline._comm,
    Mmap: Timeline._mmap,
    RawSample: Timeline._sample,
}
