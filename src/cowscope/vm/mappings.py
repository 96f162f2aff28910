"""Mappings (VMAs) of one address space: columns sorted by start page, never overlapping.

| operation on a range of pages | effect on the mappings |
|---|---|
| insert | whatever lay in the range is cut out; one new mapping takes its place |
| remove | mappings are split at both borders; those inside go |
| update | mappings are split at both borders; the flags of those inside change |

A split copies every column to both halves, so both keep `anon_vma`, tag and object; the second half's
offset moves along. Source: `struct vm_area_struct`, `__split_vma`, `vma_lookup`.
Not modelled: merging of neighbours (who replays says which borders the kernel reported), the identity of an
`anon_vma` (one bit: there is one), stacks that grow, accounting, limits on the number of mappings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cowscope.vm.columns import Bools, Ints
from cowscope.vm.rules import PROTECTION_BITS, Kind, MappingFlag
from cowscope.vm.tables import END_OF_SPACE

_START, _END, _FLAGS, _TAG, _OBJECT, _OFFSET = range(6)
_NO_MAPPING = np.array([[END_OF_SPACE], [0], [0], [-1], [0], [0]], np.int64)


@dataclass(frozen=True, slots=True)
class MappingRecord:
    """One mapping: pages `start` to before `end`; `object` is the page cache that backs it (0: none)."""

    start: int
    end: int
    flags: int
    tag: int = 0
    object: int = 0
    offset: int = 0


class Mappings:
    """The mappings of a space; each column is an array with one place a mapping, by ascending start.

    >>> mappings = Mappings()
    >>> mappings.insert(MappingRecord(10, 20, flags=3, tag=7))
    >>> mappings.lookup(np.array([9, 10, 19, 20])).tolist()
    [-1, 0, 0, -1]
    """

    def __init__(self) -> None:
        """Start with none."""
        # The last column matches no page; row -1, "no mapping", reaches it.
        self._table: Ints = _NO_MAPPING.copy()

    def __len__(self) -> int:
        """How many mappings there are."""
        return int(self._table.shape[1]) - 1

    @property
    def start(self) -> Ints:
        """First page of each mapping."""
        return self._table[_START, :-1]

    @property
    def end(self) -> Ints:
        """First page after each mapping."""
        return self._table[_END, :-1]

    @property
    def flags(self) -> Ints:
        """Flags of each mapping (`MappingFlag`)."""
        return self._table[_FLAGS, :-1]

    @property
    def tag(self) -> Ints:
        """What the caller gave each mapping to know it by."""
        return self._table[_TAG, :-1]

    @property
    def object(self) -> Ints:
        """The page cache object behind each mapping; 0 for private anonymous ones."""
        return self._table[_OBJECT, :-1]

    @property
    def offset(self) -> Ints:
        """The page of its object at which each mapping starts."""
        return self._table[_OFFSET, :-1]

    @property
    def protection(self) -> Ints:
        """`Protection` bits of each mapping."""
        return self.flags & PROTECTION_BITS

    @property
    def kind(self) -> Ints:
        """`Kind` of each mapping."""
        return np.where(self.has(MappingFlag.FILE), int(Kind.FILE), int(Kind.ANONYMOUS))

    @property
    def shared(self) -> Bools:
        """True for MAP_SHARED mappings."""
        return self.has(MappingFlag.SHARED)

    @property
    def anon_vma(self) -> Bools:
        """True where the mapping ever held private memory of its own, so that fork copies its entries."""
        return self.has(MappingFlag.ANON_VMA)

    @property
    def dont_fork(self) -> Bools:
        """True where a child gets no such mapping (MADV_DONTFORK)."""
        return self.has(MappingFlag.DONT_FORK)

    @property
    def wipe_on_fork(self) -> Bools:
        """True where a child gets the mapping empty (MADV_WIPEONFORK)."""
        return self.has(MappingFlag.WIPE_ON_FORK)

    def has(self, flag: MappingFlag) -> Bools:
        """True where a mapping has `flag`."""
        held: Bools = (self.flags & int(flag)) != 0
        return held

    def lookup(self, pages: Ints) -> Ints:
        """The row of the mapping that holds each page; -1 where none does."""
        rows: Ints = self._table[_START].searchsorted(pages, "right") - 1
        rows[pages >= self._table[_END][rows]] = -1
        return rows

    def flags_at(self, pages: Ints) -> Ints:
        """The flags of the mapping that holds each page; 0 where none does."""
        flags: Ints = self._table[_FLAGS][self.lookup(pages)]
        return flags

    def backing(self, pages: Ints) -> tuple[Ints, Ints]:
        """The page cache object behind each of `pages` (all mapped), and the page's offset in it."""
        start, _, _, _, objects, offset = self._table[:, self.lookup(pages)]
        return objects, pages - start + offset

    def note_anon_vma(self, pages: Ints) -> None:
        """The mappings that hold `pages` now have private memory of their own (`anon_vma_prepare`)."""
        self._table[_FLAGS, self.lookup(pages)] |= int(MappingFlag.ANON_VMA)
        self._table[_FLAGS, -1] = 0

    def within(self, start: int, end: int) -> slice:
        """The rows of the mappings that overlap the pages `start` to before `end`."""
        low = int(self.end.searchsorted(start, "right"))
        return slice(low, max(low, int(self.start.searchsorted(end, "left"))))

    def records(self, rows: slice) -> list[MappingRecord]:
        """The mappings in `rows`, as records."""
        return [MappingRecord(*column) for column in self._table[:, :-1][:, rows].T.tolist()]

    def clipped(self, start: int, end: int) -> list[MappingRecord]:
        """What lies between the pages `start` and `end`: mappings cut to the range, nothing changed."""
        part = Mappings()
        part._table = np.hstack((self._table[:, self.within(start, end)], _NO_MAPPING))
        part._carve(start, end)
        return part.records(part.within(start, end))

    def _carve(self, start: int, end: int) -> slice:
        self._split(start)
        self._split(end)
        return self.within(start, end)

    def _split(self, page: int) -> None:
        row = int(self.start.searchsorted(page, "left")) - 1
        if row < 0 or page >= self._table[_END, row]:
            return
        table = np.hstack((self._table[:, : row + 1], self._table[:, row:]))
        table[_END, row] = page
        table[_OFFSET, row + 1] += page - table[_START, row]
        table[_START, row + 1] = page
        self._table = table

    def insert(self, new: MappingRecord) -> None:
        """Put `new` where it says; what lay there is cut out."""
        rows = self._carve(new.start, new.end)
        column = np.array([[new.start], [new.end], [new.flags], [new.tag], [new.object], [new.offset]])
        self._table = np.hstack((self._table[:, : rows.start], column, self._table[:, rows.stop :]))

    def remove(self, start: int, end: int) -> None:
        """Cut the pages `start` to before `end` out of all mappings."""
        rows = self._carve(start, end)
        if rows.stop > rows.start:
            self._table = np.hstack((self._table[:, : rows.start], self._table[:, rows.stop :]))

    def update(self, start: int, end: int, *, clear: int = 0, add: int = 0) -> None:
        """Change the flags of what lies between `start` and `end`; mappings that have them stay unsplit."""
        for old in self.clipped(start, end):
            if (old.flags & ~clear) | add != old.flags:
                rows = self._carve(old.start, old.end)
                self._table[_FLAGS, rows] = (old.flags & ~clear) | add

    def inherited(self) -> Mappings:
        """The mappings that a child gets: a copy without those of MADV_DONTFORK.

        A mapping of MADV_WIPEONFORK starts without `anon_vma`.
        """
        child = Mappings()
        flags = self._table[_FLAGS]
        child._table = self._table[:, (flags & int(MappingFlag.DONT_FORK)) == 0]
        wiped = (child._table[_FLAGS] & int(MappingFlag.WIPE_ON_FORK)) != 0
        child._table[_FLAGS, wiped] &= ~int(MappingFlag.ANON_VMA)
        return child
