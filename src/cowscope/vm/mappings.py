"""Mappings (VMAs) of one address space: columns sorted by start page, never overlapping.

| operation on a range of pages | effect on the mappings |
|---|---|
| insert | whatever lay in the range is cut out; one new mapping takes its place |
| remove | mappings are split at both borders; those inside go |
| update | mappings are split at both borders; the flags of those inside change |
| inherited | a child's copy: its own `anon_vma` for each mapping that had one, below the parent's |

A split copies every column to both halves, so both keep `anon_vma`, tag and object; the second half's
offset moves along. A private anonymous mapping's offset is the page at which it was first put.
`anon_vma` is a number, 0 for none; a mapping that needs one takes a neighbour's, if it will merge with that once
their protection is equal. Neighbours merge only where `cowscope.vm.merging` is asked to: who replays says which
borders the kernel reported.

Source: `struct vm_area_struct`, `__split_vma`, `vma_lookup`, `dup_mmap`, `find_mergeable_anon_vma`.
Not modelled: reuse of a dead ancestor's `anon_vma` by a child, limits on the number of mappings.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, replace

import numpy as np

from cowscope.vm.columns import Bools, Ints
from cowscope.vm.rules import PROTECTION_BITS, Kind, MappingFlag
from cowscope.vm.tables import END_OF_SPACE

_START, _END, _FLAGS, _TAG, _OBJECT, _OFFSET, _ANON = range(7)
_NO_MAPPING = np.array([[END_OF_SPACE], [0], [0], [-1], [0], [0], [0]], np.int64)

_ANON_HISTORY = int(MappingFlag.ANON_VMA | MappingFlag.FORK_CHILD)
_HISTORY = int(MappingFlag.ANON_VMA | MappingFlag.FORK_CHILD | MappingFlag.MAYBE_GUARD)
"""Flags that tell what happened to a mapping; two that differ in nothing else may be merged."""


@dataclass(frozen=True, slots=True)
class MappingRecord:
    """One mapping: pages `start` to before `end`; `object` is the page cache that backs it (0: none).

    `anon_vma` numbers the list that its private pages are on; 0 as long as it needs none.
    """

    start: int
    end: int
    flags: int
    tag: int = 0
    object: int = 0
    offset: int = 0
    anon_vma: int = 0

    def alike(self, other: MappingRecord) -> bool:
        """Whether both show the same object in the same way, whatever happened to either.

        >>> MappingRecord(0, 1, flags=3).alike(MappingRecord(5, 6, flags=3 | MappingFlag.ANON_VMA))
        True
        """
        same_flags = (self.flags ^ other.flags) & ~_HISTORY == 0
        return same_flags and (self.tag, self.object) == (other.tag, other.object)

    def continues(self, other: MappingRecord) -> bool:
        """Whether this one begins where `other` ends, in the space and in what backs it."""
        return self.start == other.end and self.offset == other.offset + other.end - other.start


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
        self._n_anon_vmas = 0

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
        table = self._table
        rows = table[_START].searchsorted(pages, "right") - 1
        flags: Ints = table[_FLAGS][rows] * (pages < table[_END][rows])
        return flags

    def backing(self, pages: Ints) -> tuple[Ints, Ints]:
        """The page cache object behind each of `pages` (all mapped), and the page's offset in it."""
        table, rows = self._table, self.lookup(pages)
        return table[_OBJECT, rows], pages - table[_START, rows] + table[_OFFSET, rows]

    def note_anon_vma(self, pages: Ints) -> None:
        """The mappings that hold `pages` need an `anon_vma` now, in this order (`anon_vma_prepare`)."""
        rows = self.lookup(pages)
        rows = rows[(rows >= 0) & ((self._table[_FLAGS, rows] & int(MappingFlag.ANON_VMA)) == 0)]
        for row in dict.fromkeys(rows.tolist()):
            self._table[_ANON, row] = self._mergeable_anon_vma(row) or self.new_anon_vma()
            self._table[_FLAGS, row] |= int(MappingFlag.ANON_VMA)

    def note_guard(self, page: int) -> None:
        """The mapping that holds `page`, the whole of it, got guard markers."""
        self._table[_FLAGS, self.lookup(np.array([page]))] |= int(MappingFlag.MAYBE_GUARD)

    def forget_anon_vma(self, start: int, end: int) -> None:
        """What lies between two pages has no private memory any more, nor ever had (`unlink_anon_vmas`)."""
        rows = self._carve(start, end)
        self._table[_FLAGS, rows] &= ~_ANON_HISTORY
        self._table[_ANON, rows] = 0

    def new_anon_vma(self) -> int:
        """A number that no mapping of this space has."""
        self._n_anon_vmas += 1
        return self._n_anon_vmas

    def _mergeable_anon_vma(self, row: int) -> int:
        """The `anon_vma` of a neighbour that differs in nothing but protection; the next one is asked first."""
        beside = self.records(slice(max(row - 1, 0), row + 2))
        mine = beside.pop(min(row, 1))
        for other in reversed(beside):
            low, high = sorted((mine, other), key=lambda record: record.start)
            flags = mine.flags & ~PROTECTION_BITS | other.flags & PROTECTION_BITS
            singular = other.anon_vma and not other.flags & int(MappingFlag.FORK_CHILD)
            if singular and high.continues(low) and replace(mine, flags=flags).alike(other):
                return other.anon_vma
        return 0

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
        table: Ints = np.hstack((self._table[:, : row + 1], self._table[:, row:]))
        table[_END, row] = page
        table[_OFFSET, row + 1] += page - table[_START, row]
        table[_START, row + 1] = page
        self._table = table

    def insert(self, new: MappingRecord) -> None:
        """Put `new` where it says; what lay there is cut out."""
        rows = self._carve(new.start, new.end)
        column = np.array([astuple(new)], np.int64).T
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

    def extend_down(self, row: int, start: int) -> None:
        """Let the mapping in `row`, which nothing backs, begin at page `start` already."""
        self._table[_OFFSET, row] -= self._table[_START, row] - start
        self._table[_START, row] = start

    def inherited(self) -> Mappings:
        """The mappings that a child gets: a copy without those of MADV_DONTFORK, none locked.

        A mapping of MADV_WIPEONFORK starts without `anon_vma`, any other that had one with its own.
        """
        child = Mappings()
        flags = self._table[_FLAGS]
        child._table = self._table[:, (flags & int(MappingFlag.DONT_FORK)) == 0]
        flags = child._table[_FLAGS]
        flags &= ~int(MappingFlag.LOCKED | MappingFlag.RESERVE_OWNER | MappingFlag.PAGES_TAKEN)
        flags[(flags & int(MappingFlag.WIPE_ON_FORK)) != 0] &= ~_ANON_HISTORY
        had_one = (flags & int(MappingFlag.ANON_VMA)) != 0
        child._n_anon_vmas = int(np.count_nonzero(had_one))
        flags[had_one] |= int(MappingFlag.FORK_CHILD)
        child._table[_ANON] = np.where(had_one, np.cumsum(had_one), 0)
        return child
