"""The mappings of one process as they change: intervals that never overlap, each with what it maps.

Every change closes a row and opens others, so that at the end the rows say what was mapped when. Addresses
are page numbers; an interval is [start, end).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from cowscope.recording.schema import NONE, MappingKind


@dataclass(frozen=True)
class Backing:
    """What an interval maps and how; `name` is hostile text."""

    protection: int
    shared: bool
    kind: MappingKind
    file_offset: int
    name: str

    def shifted(self, pages: int) -> Backing:
        """The same, seen from `pages` further into the file."""
        if self.kind is not MappingKind.FILE:
            return self
        return replace(self, file_offset=self.file_offset + pages * 4096)


@dataclass
class Row:
    """A row of the `mappings` table in the making."""

    key: int
    process: int
    from_ns: int
    start: int
    end: int
    backing: Backing
    to_ns: int = NONE


class Intervals:
    """The live mappings of a process; finished rows collect in the list shared by all processes."""

    def __init__(self, process: int, rows: list[Row]) -> None:
        """No mappings yet."""
        self._process, self._rows = process, rows
        self._starts: list[int] = []
        self._live: dict[int, Row] = {}

    def __iter__(self) -> Iterator[Row]:
        """Live rows by address."""
        return (self._live[start] for start in self._starts)

    def inherit(self, parent: Intervals, time: int) -> None:
        """Take over all mappings of `parent`, as a fork does."""
        for row in parent:
            self._open(row.start, row.end, row.backing, time)

    def place(self, start: int, end: int, backing: Backing, time: int) -> None:
        """Map [start, end), in place of whatever lies there; nothing happens if it is so already."""
        old = self._live.get(start)
        if old is not None and old.end == end and _alike(old.backing, backing):
            return
        self.remove(start, end, time)
        if end > start:
            self._open(start, end, backing, time)

    def remove(self, start: int, end: int, time: int) -> None:
        """Unmap [start, end); what sticks out on either side stays as rows of its own."""
        for row in self._overlapping(start, end):
            self._close(row, time)
            if row.start < start:
                self._open(row.start, start, row.backing, time)
            if row.end > end:
                self._open(end, row.end, row.backing.shifted(end - row.start), time)

    def move(self, start: int, old_pages: int, new_pages: int, to: int, time: int) -> None:
        """What mremap(2) does to the mapping at `start`."""
        moved = next(iter(self._overlapping(start, start + max(old_pages, 1))), None)
        if moved is None:
            return
        backing = moved.backing.shifted(start - moved.start)
        self.remove(start, start + old_pages, time)
        self.place(to, to + new_pages, backing, time)

    def sync(self, seen: Iterable[tuple[int, int, Backing]], time: int) -> None:
        """Make the mappings what /proc says they are; this mends whatever no event told."""
        wanted = {start: (end, backing) for start, end, backing in seen}
        for row in list(self):
            other = wanted.get(row.start)
            if other is None or other[0] != row.end:
                self.remove(row.start, row.end, time)
        for start, (end, backing) in wanted.items():
            self.place(start, end, backing, time)

    def clear(self, time: int) -> None:
        """Everything is gone: exec or exit."""
        for row in list(self):
            self._close(row, time)

    def end_of(self, name: str) -> int | None:
        """The end of the last mapping of that name, such as [heap]."""
        ends = [row.end for row in self if row.backing.name == name]
        return max(ends, default=None)

    def _overlapping(self, start: int, end: int) -> list[Row]:
        first = bisect_right(self._starts, start) - 1
        if first < 0 or self._live[self._starts[first]].end <= start:
            first += 1
        return [self._live[key] for key in self._starts[first : bisect_left(self._starts, end)]]

    def _open(self, start: int, end: int, backing: Backing, time: int) -> None:
        row = Row(len(self._rows), self._process, time, start, end, backing)
        self._rows.append(row)
        insort(self._starts, start)
        self._live[start] = row

    def _close(self, row: Row, time: int) -> None:
        row.to_ns = time
        del self._live[row.start]
        del self._starts[bisect_left(self._starts, row.start)]


def _alike(old: Backing, new: Backing) -> bool:
    """The same but for the offset, which /proc and perf tell differently for memory without a file."""
    same = (old.protection, old.shared, old.kind, old.name) == (
        new.protection,
        new.shared,
        new.kind,
        new.name,
    )
    return same and (new.kind is not MappingKind.FILE or old.file_offset == new.file_offset)
