"""Censuses of objects, as the agent wrote them: read, and asked what lies at an address. All input is hostile.

    file:   char[8] "COWOBJ1", u32 pid, u32 types, u64 time, u64 spent, u64 rows; rows; names (u16 length, bytes)
    row:    u64 address, u32 bytes, u16 type, u8 kind, u8 bytes before the address that belong to it

Times in ns of CLOCK_MONOTONIC. A file that is cut off or says more than it holds is passed over.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<8sIIQQQ")
_MAGIC = b"COWOBJ1\0"
_ROW = np.dtype(
    [("address", "<u8"), ("bytes", "<u4"), ("type", "<u2"), ("kind", "u1"), ("before", "u1")], align=False
)
_NAME = re.compile(r"objects\.\d{1,10}\.\d{1,10}\Z")
_MOST_NAME_BYTES = 1000


@dataclass(frozen=True, eq=False)
class ObjectCensus:
    """All objects of a process at a time, by address; `type` is an index into `types`."""

    pid: int
    time_ns: int
    spent_ns: int
    rows: NDArray[np.void]
    types: tuple[str, ...]

    def at(self, addresses: NDArray[np.uint64]) -> tuple[NDArray[np.bool_], NDArray[np.void]]:
        """For each address whether something lies there, and the row of what lies at or before it.

        A freed object's neighbour is not taken for it: a row ends where its bytes end.
        """
        if not len(self.rows):
            return np.zeros(len(addresses), bool), np.zeros(len(addresses), _ROW)
        starts = self.rows["address"] - self.rows["before"]
        index = np.searchsorted(starts, addresses, side="right").astype(np.int64) - 1
        found = self.rows[np.maximum(index, 0)]
        hit = (index >= 0) & (addresses < found["address"] + found["bytes"])
        return hit, found

    def chunks(self) -> NDArray[np.uint64]:
        """Numbers of the 1 MiB pieces of memory in which small objects lie: the arenas of pymalloc, ascending."""
        small = (self.rows["bytes"] + self.rows["before"]) <= 512
        return np.unique(self.rows["address"][small] >> np.uint64(20))


def read_censuses(directory: Path) -> list[ObjectCensus]:
    """Every whole census in `directory`, by time."""
    files = [file for file in directory.glob("objects.*") if _NAME.fullmatch(file.name)]
    found = [census for census in map(_read, files) if census is not None]
    return sorted(found, key=lambda census: census.time_ns)


def _read(file: Path) -> ObjectCensus | None:
    try:
        data = np.fromfile(file, np.uint8)
    except OSError:
        return None
    if len(data) < _HEAD.size:
        return None
    magic, pid, n_types, time, spent, n_rows = _HEAD.unpack(data[: _HEAD.size].tobytes())
    end = _HEAD.size + n_rows * _ROW.itemsize
    if magic != _MAGIC or end > len(data) or n_types > 0xFFFF:
        return None
    types = _names(data[end:].tobytes(), n_types)
    if types is None:
        return None
    rows = data[_HEAD.size : end].view(_ROW)
    rows = rows[np.argsort(rows["address"], kind="stable")]
    return ObjectCensus(pid, time, spent, rows, types)


def _names(data: bytes, count: int) -> tuple[str, ...] | None:
    names, at = [], 0
    for _ in range(count):
        length = int.from_bytes(data[at : at + 2], "little")
        name = data[at + 2 : at + 2 + length]
        if len(name) != length or length > _MOST_NAME_BYTES or at + 2 > len(data):
            return None
        names.append(name.decode("utf-8", "surrogateescape"))
        at += 2 + length
    return tuple(names)


@dataclass(frozen=True)
class Lineage:
    """A process as far as its censuses go: who forked it and when (ns), since when it is this program."""

    key: int
    pid: int
    parent: int
    start_ns: int
    exec_ns: int


def census_of(
    process: Lineage, time_ns: int, lineages: dict[int, Lineage], censuses: Iterable[ObjectCensus]
) -> ObjectCensus | None:
    """The census that knows the objects of `process` at a time: its own last one, or its ancestors' before the fork.

    A process that has become another program since has no objects of its ancestors.
    """
    censuses = list(censuses)
    while True:
        begin = max(process.start_ns, process.exec_ns)
        own = [c for c in censuses if c.pid == process.pid and begin <= c.time_ns <= time_ns]
        if own:
            return own[-1]
        parent = lineages.get(process.parent)
        if parent is None or process.exec_ns >= process.start_ns >= 0:
            return None
        process, time_ns = parent, process.start_ns
