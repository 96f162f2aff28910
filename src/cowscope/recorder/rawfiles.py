"""Raw files to columns: faults of all CPUs in order of time, each with what the kernel allocated for it.

The kernel's sign of a copy is an allocation by the same thread on the same CPU, after the fault and before
the next. One that comes within `PROMPT_NS` is the fault's. A later one may belong to something else that the
thread did (a file read, say), and one on another CPU to a fault during which the thread moved; both make the
fault's sign LATE, and the replay decides by its own rules whether the page was for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cowscope.linux.perf_abi import RecordType
from cowscope.linux.perf_records import (
    SAMPLE_RAW_AT,
    Comm,
    Exit,
    Fork,
    Lost,
    Record,
    records,
    runs,
    sample_fields,
)
from cowscope.recorder.channels import ALLOCATION_EVENT, FAULT_EVENTS, PAGE_RECORD_BYTES, Channel
from cowscope.recording.schema import Access, Allocation

PROMPT_NS = 20_000
"""Between a fault's event and its allocation lies a microsecond (99 % under 2, with interrupts 99.9 % under 25)."""

MOVED_NS = 20_000_000
"""How long a fault may take during which its thread is put on another CPU: some time slices."""

_AGAIN_NS, _LOOK_AHEAD = 50_000, 8
"""How soon, and how many faults of the machine later, a fault that was refused is repeated."""

_CHUNK_ROWS = 1 << 18

_TASK_RECORDS = (Fork, Exit, Comm)
"""An event that asks for mappings gets these as well; the task ring has them already."""

SOFTWARE_SAMPLE = np.dtype(
    {
        "names": ["ip", "pid", "tid", "time", "address"],
        "formats": ["<u8", "<u4", "<u4", "<u8", "<u8"],
        "offsets": [8, 16, 20, 24, 32],
        "itemsize": 40,
    }
)
PAGE_SAMPLE = np.dtype(
    {
        "names": ["pid", "tid", "time"],
        "formats": ["<u4", "<u4", "<u8"],
        "offsets": [8, 12, 16],
        "itemsize": PAGE_RECORD_BYTES,
    }
)


@dataclass(frozen=True)
class RawFaults:
    """Faults side by side, by time; `lost` are records that the rings of faults and pages dropped."""

    time: NDArray[np.uint64]
    pid: NDArray[np.uint32]
    tid: NDArray[np.uint32]
    address: NDArray[np.uint64]
    ip: NDArray[np.uint64]
    access: NDArray[np.uint8]
    allocation: NDArray[np.uint8]
    lost: Mapping[str, int]
    unclaimed_pid: NDArray[np.uint32]
    unclaimed_time: NDArray[np.uint64]
    """Who allocated a page, and when, that no recorded fault accounts for."""

    def __len__(self) -> int:
        """How many."""
        return len(self.time)


def read_bytes(file: Path) -> NDArray[np.uint8]:
    """A raw file, mapped and not read."""
    if not file.exists() or file.stat().st_size == 0:
        return np.empty(0, np.uint8)
    return np.memmap(file, np.uint8, mode="r")


def channel_files(raw: Path, channel: Channel) -> list[Path]:
    """The files of a channel, by CPU."""
    return sorted(raw.glob(f"{channel.value}.*"), key=lambda file: int(file.suffix[1:]))


def read_records(raw: Path) -> tuple[list[Record], dict[str, int]]:
    """All records of the task and map rings by time, and how many of them were lost."""
    found: list[Record] = []
    lost: dict[str, int] = {}
    for channel in (Channel.TASK, Channel.MAP):
        for file in channel_files(raw, channel):
            for record in records(read_bytes(file)):
                if isinstance(record, Lost):
                    lost[channel.value] = lost.get(channel.value, 0) + record.count
                elif channel is Channel.TASK or not isinstance(record, _TASK_RECORDS):
                    found.append(record)
    found.sort(key=lambda record: record.time)
    return found, lost


def read_faults(raw: Path, start: Mapping[str, Any], *, whole: bool = True) -> RawFaults:
    """The faults of all CPUs; `start` is the journal's first chunk.

    Where the recording broke off (not `whole`), the rings had not been drained to the same instant: what the
    faults after the last allocation of their CPU allocated is not known.
    """
    software = start["source"] == "software"
    dtype = SOFTWARE_SAMPLE if software else _tracepoint_sample(start["events"])
    watched = ALLOCATION_EVENT in start["events"]
    lost: dict[str, int] = {}
    parts, strays = [], []
    for file in channel_files(raw, Channel.FAULT):
        columns = _columns(read_bytes(file), dtype, Channel.FAULT, lost)
        pages = read_bytes(raw / f"{Channel.PAGE.value}{file.suffix}") if watched else np.empty(0, np.uint8)
        found = _columns(pages, PAGE_SAMPLE, Channel.PAGE, lost)
        sign, foreign = (
            matched(columns, found) if watched else (np.zeros(len(columns["time"]), np.uint8), None)
        )
        if foreign is not None:
            strays.append({name: found[name][foreign] for name in found})
        if watched and not whole:
            last = found["time"][-1] if len(found["time"]) else 0
            sign[columns["time"] > last] = Allocation.NOT_WATCHED
        if software:
            columns["error"] = np.full(len(sign), Access.UNKNOWN | Access.USER, np.uint8)
        parts.append({**columns, "allocation": sign})
    unclaimed = {
        name: np.concatenate([np.empty(0, kind), *(stray[name] for stray in strays)])
        for name, kind in (("pid", np.uint32), ("tid", np.uint32), ("time", np.uint64))
    }
    faults = _by_time(parts, lost, unclaimed)
    moved = _mark_moved(faults, unclaimed["tid"], unclaimed["time"])
    if watched and not software:
        _mark_refused(faults)
    return replace(faults, unclaimed_pid=unclaimed["pid"][~moved], unclaimed_time=unclaimed["time"][~moved])


def matched(
    faults: Mapping[str, NDArray[Any]], pages: Mapping[str, NDArray[Any]]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """What each fault of a CPU was seen to allocate: an `Allocation` for each, both inputs by time.

    And for each page whether it is none that a fault of this CPU accounts for.

    >>> fault = {"time": np.array([10, 20, 30]), "tid": np.array([1, 1, 1])}
    >>> page = {"time": np.array([12, 31]), "tid": np.array([1, 2])}
    >>> signs, strays = matched(fault, page)
    >>> [Allocation(sign).name for sign in signs], strays.tolist()
    (['PAGE', 'NONE_SEEN', 'NONE_SEEN'], [False, True])
    """
    time, page_time, tid = faults["time"], pages["time"], pages["tid"]
    signs = np.full(len(time), Allocation.NONE_SEEN, np.uint8)
    # The last fault before each page, not the next page after each fault: pages are fewer.
    before = np.searchsorted(time, page_time, side="right") - 1
    own = before >= 0
    own[own] = faults["tid"][before[own]] == tid[own]
    claimed = own.copy()
    claimed[1:] &= before[1:] != before[:-1]
    before, page_time = before[own], page_time[own]
    prompt = page_time - time[before] <= PROMPT_NS
    signs[before[~prompt]] = Allocation.LATE
    signs[before[prompt]] = Allocation.PAGE
    return signs, ~claimed


def _mark_moved(faults: RawFaults, tids: NDArray[np.uint32], times: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Call the last fault of a thread LATE when a page of that thread turned up on another CPU soon after.

    Tells for each page whether it has found such a fault.
    """
    claimed = np.zeros(len(tids), bool)
    at = np.flatnonzero(np.isin(faults.tid, np.unique(tids)))
    at = at[np.argsort(faults.tid[at], kind="stable")]
    borders = np.searchsorted(faults.tid[at], np.unique(tids)).tolist() + [len(at)]
    for tid, first, end in zip(np.unique(tids).tolist(), borders, borders[1:], strict=False):
        mine, pages = at[first:end], np.flatnonzero(tids == tid)
        last = np.searchsorted(faults.time[mine], times[pages], side="right") - 1
        pages, found = pages[last >= 0], mine[last[last >= 0]]
        fits = times[pages] - faults.time[found] <= MOVED_NS
        fits &= faults.allocation[found] == Allocation.NONE_SEEN
        faults.allocation[found[fits]] = Allocation.LATE
        claimed[pages[fits]] = True
    return claimed


def _mark_refused(faults: RawFaults) -> None:
    """Give a fault that the kernel took where it must not sleep, and so refused, what its repetition allocated.

    Writing a signal's frame, for one, is tried with faults switched off: the fault is seen and nothing is done; the
    kernel then faults the page in and tries again. The repetition finds everything done.
    """
    refused = (faults.access & (Access.USER | Access.WRITE) == Access.WRITE) & (
        faults.allocation == Allocation.NONE_SEEN
    )
    at = np.flatnonzero(refused)
    page = faults.address >> np.uint64(12)
    for ahead in range(1, _LOOK_AHEAD + 1):
        now = at[at + ahead < len(faults)]
        then = now + ahead
        again = (faults.tid[then] == faults.tid[now]) & (page[then] == page[now])
        again &= (faults.time[then] - faults.time[now] <= _AGAIN_NS) & (
            faults.allocation[then] == Allocation.PAGE
        )
        faults.allocation[now[again]] = Allocation.PAGE
        faults.allocation[then[again]] = Allocation.NONE_SEEN
        at = np.setdiff1d(now, now[again])


def _tracepoint_sample(events: Mapping[str, Any]) -> np.dtype[np.void]:
    fields = events[FAULT_EVENTS[0]]["fields"]
    return np.dtype(
        {
            "names": ["pid", "tid", "time", "address", "ip", "error"],
            "formats": ["<u4", "<u4", "<u8", "<u8", "<u8", "u1"],
            "offsets": [
                8,
                12,
                16,
                *(SAMPLE_RAW_AT + fields[name] for name in ("address", "ip", "error_code")),
            ],
            "itemsize": SAMPLE_RAW_AT + max(fields.values()) + 8,
        }
    )


def _columns(
    data: NDArray[np.uint8], dtype: np.dtype[np.void], channel: Channel, lost: dict[str, int]
) -> dict[str, NDArray[Any]]:
    """Every sample of a ring as columns; room for them is made once, from the size of the file."""
    names = dtype.names or ()
    room = len(data) // dtype.itemsize + 1
    columns = {name: np.empty(room, dtype[name]) for name in names}
    n = 0
    for block in _blocks(data, dtype, channel, lost):
        for name in names:
            columns[name][n : n + len(block)] = block[name]
        n += len(block)
    return {name: column[:n] for name, column in columns.items()}


def _blocks(
    data: NDArray[np.uint8], dtype: np.dtype[np.void], channel: Channel, lost: dict[str, int]
) -> Iterator[NDArray[np.void]]:
    for run in runs(data):
        if run.type == RecordType.LOST:
            for record in records(data[run.offset : run.offset + run.size * run.count]):
                if isinstance(record, Lost):
                    lost[channel.value] = lost.get(channel.value, 0) + record.count
        elif run.type == RecordType.SAMPLE and run.size >= dtype.itemsize:
            block = sample_fields(data, run, dtype)
            for first in range(0, len(block), _CHUNK_ROWS):
                yield block[first : first + _CHUNK_ROWS]


def _by_time(
    parts: list[dict[str, NDArray[Any]]], lost: Mapping[str, int], unclaimed: Mapping[str, NDArray[Any]]
) -> RawFaults:
    """Merge the CPUs; columns are taken one by one, so that never two copies of all exist."""
    filled = [part for part in parts if len(part["time"])]
    if len(filled) == 1:
        return _as_faults(filled[0], lost, unclaimed)
    # Each part is in order, so the stable sort merges runs.
    every = [part["time"] for part in filled] or [np.empty(0, np.uint64)]
    order = np.argsort(np.concatenate(every), kind="stable")
    merged = {}
    for name, kind in _COLUMNS.items():
        pieces = [part.pop(name) for part in filled] or [np.empty(0, kind)]
        merged[name] = _arranged(np.concatenate(pieces), order)
    return _as_faults(merged, lost, unclaimed)


def _arranged(column: NDArray[Any], order: NDArray[np.intp]) -> NDArray[Any]:
    """`column[order]`; where the order is made of long pieces (a thread stays on its CPU), piece by piece."""
    starts = np.flatnonzero(np.diff(order, prepend=-2) != 1)
    if len(starts) > len(order) >> 6:
        return column[order]
    stops = np.append(starts[1:], len(order))
    pieces = zip(order[starts].tolist(), (stops - starts).tolist(), strict=True)
    return np.concatenate([column[first : first + n] for first, n in pieces] or [column[:0]])


def _as_faults(
    columns: Mapping[str, NDArray[Any]], lost: Mapping[str, int], unclaimed: Mapping[str, NDArray[Any]]
) -> RawFaults:
    return RawFaults(
        time=columns["time"],
        pid=columns["pid"],
        tid=columns["tid"],
        address=columns["address"],
        ip=columns["ip"],
        access=columns["error"],
        allocation=columns["allocation"],
        lost=lost,
        unclaimed_pid=unclaimed["pid"],
        unclaimed_time=unclaimed["time"],
    )


_COLUMNS = {
    "time": np.uint64,
    "pid": np.uint32,
    "tid": np.uint32,
    "address": np.uint64,
    "ip": np.uint64,
    "error": np.uint8,
    "allocation": np.uint8,
}
