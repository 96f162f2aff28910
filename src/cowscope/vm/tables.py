"""Page tables: leaf tables as rows of one pool, and the sparse map from a space's pages to them.

| rule | |
|---|---|
| leaf table | 512 entries, one row of the pool; it covers the pages `number * 512` to `number * 512 + 511` |
| slot | the place of one entry in the flat pool: `row * 512 + page % 512` |
| row 0 | stands for "no table": always empty, never handed out |
| cost | a space costs one row for each 2 MiB that holds an entry, whatever its mappings span |
| release | a row whose last entry is gone goes back to the pool |
| shared row | several spaces may have a row in common (on-demand fork); who changes it gets one of its own first |

Source: `struct mm_struct.pgd`, `pte_offset_map`, `free_pgtables`.
The upper levels (a dictionary stands for them) are counted by `cowscope.vm.architecture`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np

from cowscope.vm.columns import Bools, Counts, Entries, Ints, first_of_each, grown

LEAF_SHIFT = 9
LEAF_SIZE = 1 << LEAF_SHIFT
LEAF_MASK = LEAF_SIZE - 1
PIECE = 64
"""Leaf tables that are worked on at a time, where a whole address space is."""
END_OF_SPACE = 1 << 52
"""A page number beyond every address space."""


class PageTables:
    """The pool: `entries` is uint64[rows * 512], in the layout of `cowscope.vm.entry`."""

    def __init__(self) -> None:
        """Start with the empty row 0."""
        self.entries: Entries = np.zeros(LEAF_SIZE, np.uint64)
        self._scratch: Counts = np.empty(0, np.int32)
        self._free: list[int] = []
        self._n_ever = 1
        self.huge: set[int] = set()
        """Rows that stand for one entry of the last but one level, which maps a huge page."""
        self.sharers: dict[int, int] = {}
        """How many spaces have a row in common, by row; rows of one space are not in it."""

    @property
    def in_use(self) -> int:
        """Rows that some space uses.

        >>> PageTables().in_use
        0
        """
        return self._n_ever - 1 - len(self._free)

    @property
    def rows(self) -> Entries:
        """The pool as uint64[rows, 512]: a view, valid until the pool grows."""
        return self.entries.reshape(-1, LEAF_SIZE)

    def allocate(self, count: int) -> list[int]:
        """The numbers of `count` empty rows.

        >>> pool = PageTables()
        >>> pool.allocate(2)
        [1, 2]
        """
        keep = max(len(self._free) - count, 0)
        rows = self._free[keep:]
        del self._free[keep:]
        fresh = range(self._n_ever, self._n_ever + count - len(rows))
        self._n_ever += len(fresh)
        if self._n_ever * LEAF_SIZE > len(self.entries):
            self._grow()
        return rows + list(fresh)

    def _grow(self) -> None:
        n_rows = max(self._n_ever, len(self.entries) // LEAF_SIZE * 2)
        larger: Entries = np.zeros(n_rows * LEAF_SIZE, np.uint64)
        larger[: len(self.entries)] = self.entries
        self.entries = larger

    def leave(self, row: int) -> None:
        """One space less has the shared `row`."""
        self.sharers[row] -= 1
        if self.sharers[row] == 1:
            del self.sharers[row]

    def release(self, rows: Iterable[int]) -> None:
        """Take back `rows`, which are empty."""
        self._free.extend(rows)

    def first_of_each(self, slots: Ints) -> Bools:
        """True where a slot occurs for the first time in `slots`."""
        self._scratch = grown(self._scratch, len(self.entries))
        return first_of_each(slots, self._scratch)


class SparseTable:
    """One space's page table, or one file's page cache: a sparse map from pages to slots of a pool.

    >>> table = SparseTable(PageTables())
    >>> table.slots(np.array([5, 1 << 34]), create=True).tolist()
    [517, 1024]
    >>> table.slots(np.array([5, 600])).tolist()
    [517, 88]
    """

    def __init__(self, pool: PageTables) -> None:
        """Start empty; `pool` is where the leaf tables live."""
        self.pool = pool
        self.leaves: dict[int, int] = {}
        self._sorted: tuple[Ints, Ints] | None = None
        self.unshare: Callable[[list[int]], None] | None = None
        """Called with the numbers of shared leaf tables before they are changed."""

    def own(self, numbers: Iterable[int]) -> None:
        """Make sure that the leaf tables `numbers`, where there are any, are this space's alone."""
        if self.pool.sharers and self.unshare is not None:
            shared = [n for n in numbers if self.leaves.get(n, 0) in self.pool.sharers]
            if shared:
                self.unshare(shared)

    def share(self, numbers: list[int], other: SparseTable) -> None:
        """Let `other`, which lacks them, have the leaf tables `numbers` of this one in common."""
        for number in numbers:
            row = other.leaves[number] = self.leaves[number]
            self.pool.sharers[row] = self.pool.sharers.get(row, 1) + 1
        other._sorted = None

    def replace(self, number: int) -> tuple[int, int]:
        """Leave a shared leaf table for a new, empty one; the old row and the new one."""
        old = self.leaves.pop(number)
        self.pool.leave(old)
        self.add(np.array([number]))
        return old, self.leaves[number]

    def leave_shared(self) -> None:
        """Let go of all leaf tables that others have too."""
        if self.pool.sharers:
            for number in [n for n, row in self.leaves.items() if row in self.pool.sharers]:
                self.pool.leave(self.leaves.pop(number))
            self._sorted = None

    def slot(self, page: int) -> int:
        """The slot of one page; a slot of row 0, which is empty, when no table covers it."""
        return self.leaves.get(page >> LEAF_SHIFT, 0) << LEAF_SHIFT | page & LEAF_MASK

    def slots(self, pages: Ints, *, create: bool = False) -> Ints:
        """The slot of each page; slots of row 0 where no table covers it, unless `create` adds the tables."""
        if len(pages) == 1:
            return self._one_slot(int(pages[0]), create)
        numbers, rows = self._in_order()
        leaf = pages >> LEAF_SHIFT
        at = numbers.searchsorted(leaf)
        missing = numbers[at] != leaf
        if missing.any():
            if create:
                self.add(np.unique(leaf[missing]))
                return self.slots(pages, create=True)
            at[missing] = len(numbers) - 1
        if create and self.pool.sharers:
            self.own(np.unique(leaf).tolist())
            rows = self._in_order()[1]
        return (rows[at] << LEAF_SHIFT) | (pages & LEAF_MASK)

    def _one_slot(self, page: int, create: bool) -> Ints:
        slot = self.slot(page)
        if create and slot < LEAF_SIZE:
            self.add(np.array([page >> LEAF_SHIFT]))
            slot = self.slot(page)
        elif create and self.pool.sharers:
            self.own([page >> LEAF_SHIFT])
            slot = self.slot(page)
        return np.array([slot])

    def add(self, numbers: Ints) -> Ints:
        """Add empty tables with the leaf `numbers`, which are all missing; their rows."""
        rows = self.pool.allocate(len(numbers))
        self.leaves.update(zip(numbers.tolist(), rows, strict=True))
        self._sorted = None
        return np.array(rows, np.int64)

    def _in_order(self) -> tuple[Ints, Ints]:
        """Leaf numbers and rows by number; a last number beyond all others, with row 0, ends them."""
        if self._sorted is None:
            numbers = np.fromiter((*self.leaves, END_OF_SPACE), np.int64, len(self.leaves) + 1)
            rows = np.fromiter((*self.leaves.values(), 0), np.int64, len(numbers))
            order = numbers.argsort()
            self._sorted = numbers[order], rows[order]
        return self._sorted

    def _leaves_within(self, start: int, end: int) -> tuple[Ints, Ints]:
        numbers, rows = self._in_order()
        if start <= 0 and end >= END_OF_SPACE:
            return numbers[:-1], rows[:-1]
        low, high = numbers.searchsorted((start >> LEAF_SHIFT, ((end - 1) >> LEAF_SHIFT) + 1)).tolist()
        return numbers[low:high], rows[low:high]

    def occupied(self, start: int = 0, end: int = END_OF_SPACE, *, look: bool = False) -> tuple[Ints, Ints]:
        """Pages from `start` to before `end` that have an entry, ascending, and their slots.

        Whoever is going to change the entries must not `look` only: shared tables are made this space's own.
        """
        if self.pool.sharers and not look:
            self.own(self._leaves_within(start, end)[0].tolist())
        numbers, rows = self._leaves_within(start, end)
        if not len(numbers):
            return numbers, rows
        pages, slots = self._occupied_in(numbers, rows)
        inside = slice(*pages.searchsorted((start, end)).tolist())
        return pages[inside], slots[inside]

    def _occupied_in(self, numbers: Ints, rows: Ints) -> tuple[Ints, Ints]:
        at = np.flatnonzero(self.pool.rows[rows] != 0)
        leaf, within = at >> LEAF_SHIFT, at & LEAF_MASK
        return (numbers[leaf] << LEAF_SHIFT) | within, (rows[leaf] << LEAF_SHIFT) | within

    def pieces(self, without: Iterable[int] = ()) -> Iterator[tuple[Ints, Ints]]:
        """As `occupied`, to look only, a few leaf tables at a time, but for those with a number in `without`.

        Arrays of this size stay in the processor's cache.
        """
        numbers, rows = self._leaves_within(0, END_OF_SPACE)
        left_out = list(without)
        if left_out:
            chosen = ~np.isin(numbers, left_out)
            numbers, rows = numbers[chosen], rows[chosen]
        for low in range(0, len(numbers), PIECE):
            pages, slots = self._occupied_in(numbers[low : low + PIECE], rows[low : low + PIECE])
            if pages.size:
                yield pages, slots

    def prune(self, start: int = 0, end: int = END_OF_SPACE) -> None:
        """Give back the tables between `start` and `end` that hold no entry any more."""
        numbers, rows = self._leaves_within(start, end)
        empty = ~self.pool.rows[rows].any(axis=1)
        self.pool.release(rows[empty].tolist())
        for number in numbers[empty].tolist():
            del self.leaves[number]
        self._sorted = None
