"""What the bytes of a perf ring mean. Pure: bytes in, columns or records out.

    record:   u32 type, u16 misc, u16 size (of the whole record), then the body
    sample:   [u64 ip] [u32 pid, u32 tid] [u64 time] [u64 addr] [u32 raw size, raw bytes]
    sideband: the body, then the same identity as a trailer: u32 pid, u32 tid, u64 time

Only the fields that an event asked for are there. Nearly all records of a ring of samples have one size,
so a run of them is taken as one strided array; whatever stands between runs is walked.

Not here: what a tracepoint's own fields are. They come from its format (`tracefs`).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cowscope.linux.perf_abi import COMM_EXEC_MISC, RecordType

HEADER_BYTES = 8
IDENTITY_BYTES = 16
"""The trailer of a sideband record: pid, tid, time."""
SAMPLE_RAW_AT = 28
"""Byte of a sample (header, pid, tid, time, raw size) where the tracepoint's own record begins."""

_HEADER = np.dtype([("type", "<u4"), ("misc", "<u2"), ("size", "<u2")])
_HEADER_STRUCT = struct.Struct("<IHH")
_IDENTITY = struct.Struct("<IIQ")


@dataclass(frozen=True)
class Run:
    """`count` records of one type and size, from byte `offset` on."""

    offset: int
    type: int
    size: int
    count: int


@dataclass(frozen=True)
class Fork:
    """A task was made: a thread when `pid == parent_pid`, else a process. Time in ns."""

    time: int
    pid: int
    parent_pid: int
    tid: int
    parent_tid: int


@dataclass(frozen=True)
class Exit:
    """A task ended; the process with it, when it was the last."""

    time: int
    pid: int
    tid: int


@dataclass(frozen=True)
class Comm:
    """A task has a new name, by exec or by prctl. The bytes are what the process chose: hostile."""

    time: int
    pid: int
    tid: int
    name: bytes
    by_exec: bool


@dataclass(frozen=True)
class Mmap:
    """A mapping was made or its protection changed: [start, end) in bytes; hostile file name."""

    time: int
    pid: int
    tid: int
    start: int
    end: int
    offset: int
    protection: int
    shared: bool
    file: bytes


@dataclass(frozen=True)
class Lost:
    """The ring was full: `count` records were never written."""

    time: int
    count: int


@dataclass(frozen=True)
class RawSample:
    """A tracepoint hit whose own fields are still packed in `raw`, which begins with its id."""

    time: int
    pid: int
    tid: int
    event_id: int
    raw: bytes


Record = Fork | Exit | Comm | Mmap | Lost | RawSample


def runs(data: NDArray[np.uint8]) -> Iterator[Run]:
    """Split the bytes of a ring into runs of like records; stops before a truncated or impossible one.

    >>> record = struct.pack("<IHHQ", 9, 0, 16, 1)
    >>> list(runs(np.frombuffer(record * 3 + record[:9], np.uint8)))
    [Run(offset=0, type=9, size=16, count=3)]
    """
    position, end = 0, len(data)
    buffer = np.ascontiguousarray(data).data
    while position + HEADER_BYTES <= end:
        kind, _, size = _HEADER_STRUCT.unpack_from(buffer, position)
        if size < HEADER_BYTES or position + size > end:
            return
        count = _run_length(data, position, kind, size)
        yield Run(position, kind, size, count)
        position += count * size


def whole_bytes(data: NDArray[np.uint8]) -> int:
    """Bytes of `data` that are whole records; the rest is a record cut off.

    >>> whole_bytes(np.frombuffer(struct.pack("<IHHQ", 9, 0, 16, 1) + b"cut", np.uint8))
    16
    """
    position = 0
    for run in runs(data):
        position = run.offset + run.count * run.size
    return position


def sample_fields(data: NDArray[np.uint8], run: Run, dtype: np.dtype[np.void]) -> NDArray[np.void]:
    """A view of a run of samples as the packed structure `dtype`, which lays out a record with its header."""
    block = data[run.offset : run.offset + run.count * run.size].reshape(run.count, run.size)
    return block[:, : dtype.itemsize].view(dtype)[:, 0]


def lost_record(time: int, count: int) -> bytes:
    """A record as the kernel writes it when a ring was full, by no task in particular.

    >>> list(records(np.frombuffer(lost_record(7, 3), np.uint8)))
    [Lost(time=7, count=3)]
    """
    size = HEADER_BYTES + 16 + IDENTITY_BYTES
    return struct.pack("<IHHQQIIQ", RecordType.LOST, 0, size, 0, count, 0, 0, time)


def records(data: NDArray[np.uint8]) -> Iterator[Record]:
    """Every sideband record and raw sample one by one; types that cowscope does not know are passed over.

    So is a record that is too short for its type: a damaged file must not stop a recovery.
    """
    buffer = np.ascontiguousarray(data).data
    for run in runs(data):
        decode = _DECODERS.get(run.type)
        if decode is None:
            continue
        for index in range(run.count):
            at = run.offset + index * run.size
            misc = _HEADER_STRUCT.unpack_from(buffer, at)[1]
            try:
                record = decode(buffer[at + HEADER_BYTES : at + run.size], misc)
            except struct.error:
                continue  # too short for its type: damaged
            yield record


def _run_length(data: NDArray[np.uint8], start: int, kind: int, size: int) -> int:
    """How many records from `start` on have this type and size; looks at ever more of them at once."""
    count, look = 1, 64
    possible = (len(data) - start) // size
    while count < possible:
        stop = min(count + look, possible)
        block = data[start + count * size : start + stop * size].reshape(stop - count, size)
        heads = block[:, :HEADER_BYTES].view(_HEADER)[:, 0]
        same = (heads["type"] == kind) & (heads["size"] == size)
        if not same.all():
            return count + int(same.argmin())
        count, look = stop, look * 8
    return count


def _identity(body: memoryview) -> tuple[int, int, int]:
    pid, tid, time = _IDENTITY.unpack_from(body, len(body) - IDENTITY_BYTES)
    return pid, tid, time


def _fork(body: memoryview, misc: int) -> Fork:
    pid, parent_pid, tid, parent_tid, time = struct.unpack_from("<IIIIQ", body)
    return Fork(time, pid, parent_pid, tid, parent_tid)


def _exit(body: memoryview, misc: int) -> Exit:
    pid, _, tid, _, time = struct.unpack_from("<IIIIQ", body)
    return Exit(time, pid, tid)


def _comm(body: memoryview, misc: int) -> Comm:
    pid, tid = struct.unpack_from("<II", body)
    name = bytes(body[8 : len(body) - IDENTITY_BYTES]).split(b"\0", 1)[0]
    return Comm(_identity(body)[2], pid, tid, name, bool(misc & COMM_EXEC_MISC))


def _mmap(body: memoryview, misc: int) -> Mmap:
    pid, tid, start, length, offset = struct.unpack_from("<IIQQQ", body)
    protection, flags = struct.unpack_from("<II", body, 56)
    file = bytes(body[64 : len(body) - IDENTITY_BYTES]).split(b"\0", 1)[0]
    time = _identity(body)[2]
    return Mmap(time, pid, tid, start, start + length, offset, protection & 7, bool(flags & 1), file)


def _lost(body: memoryview, misc: int) -> Lost:
    _, count = struct.unpack_from("<QQ", body)
    return Lost(_identity(body)[2], count)


def _sample(body: memoryview, misc: int) -> RawSample:
    pid, tid, time, raw_size = struct.unpack_from("<IIQI", body)
    raw = bytes(body[20 : 20 + raw_size])
    return RawSample(time, pid, tid, int.from_bytes(raw[:2], "little"), raw)


_DECODERS: dict[int, Callable[[memoryview, int], Record]] = {
    RecordType.FORK: _fork,
    RecordType.EXIT: _exit,
    RecordType.COMM: _comm,
    RecordType.MMAP2: _mmap,
    RecordType.LOST: _lost,
    RecordType.SAMPLE: _sample,
}
