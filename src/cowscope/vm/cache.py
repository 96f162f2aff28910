"""The page cache: which frame holds which page of which object.

An object is a file, or the unnamed memory behind one shared anonymous mapping. Its frames belong to all who
map them; each mapping of a frame counts, and the cache itself holds one reference.

| object | when its frames go |
|---|---|
| named by the caller (1 and up) | never: the cache keeps them |
| unnamed (below 0) | when no mapping of any space shows a page of the object any more |
| hugetlb | likewise; whole huge pages, which go back to their pool |

Of some objects more is known, by `known`: how long they are, so that pages beyond can be refused, and which
pages are cached, so that faults may map neighbours. Of the others nobody here knows what they hold (who replays
a recording): they read as zeros, have no end, and a fault maps one page.

Source: `struct address_space`, `filemap_get_folio`, `shmem_get_folio`, `truncate_inode_pages_range`.
Not modelled: eviction, readahead, folios of several pages but those of hugetlb (`cowscope.vm.hugetlb`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cowscope.units import PAGE_SIZE
from cowscope.vm.columns import Ints, grown
from cowscope.vm.entry import PRESENT, entries_for, frames_of
from cowscope.vm.folios import Folios, Pool
from cowscope.vm.frames import Frames
from cowscope.vm.rules import FrameFlag
from cowscope.vm.tables import END_OF_SPACE, PageTables, SparseTable


@dataclass(slots=True)
class KnownObject:
    """What is known of an object: its length, and whether a file system wants to know of first writes."""

    n_bytes: int
    tracked: bool = False
    page_size: int = PAGE_SIZE
    pool: Pool | None = None
    """The hugetlb pool that its pages come from."""
    promised: set[int] = field(default_factory=set)
    """First base pages of the huge pages that it was promised and does not have yet."""

    @property
    def n_pages(self) -> int:
        """Pages that may be accessed; the last one may be partial."""
        return -(-self.n_bytes // self.page_size)


_FIRST_FILE = 1 << 32


class PageCache:
    """The cached pages of all objects of a machine.

    >>> cache = PageCache(Frames())
    >>> first = cache.fetch(np.array([1, 1]), np.array([0, 5]))
    >>> bool((cache.fetch(np.array([1, 1]), np.array([0, 5])) == first).all())
    True
    """

    def __init__(self, frames: Frames, folios: Folios | None = None) -> None:
        """Start with nothing cached; `folios` are those of `frames`."""
        self._frames = frames
        self._folios = Folios(frames) if folios is None else folios
        self.tables = PageTables()
        self._pages: dict[int, SparseTable] = {}
        self._shown: Ints = np.zeros(16, np.int64)
        self._n_unnamed = 0
        self._n_files = 0
        self.known: dict[int, KnownObject] = {}

    def parts(self) -> list[object]:
        """All that changes when a page is fetched: the cache itself, its tables, each object and its table."""
        return [self, self.tables, *self._pages.values(), *self.known.values()]

    def new_file(self, known: KnownObject) -> int:
        """The number of a new file of known length, far above those that callers name files by."""
        self._n_files += 1
        number = _FIRST_FILE + self._n_files
        self.known[number] = known
        return number

    def new_object(self, known: KnownObject | None = None) -> int:
        """The number of a new unnamed object."""
        self._n_unnamed += 1
        if known is not None:
            self.known[-self._n_unnamed] = known
        self._shown = grown(self._shown, self._n_unnamed + 1)
        return -self._n_unnamed

    def show(self, objects: Ints, n_pages: Ints) -> None:
        """Mappings that show `n_pages` pages of each of `objects` came to be."""
        unnamed = objects < 0
        np.add.at(self._shown, -objects[unnamed], n_pages[unnamed])

    def hide(self, objects: Ints, n_pages: Ints) -> None:
        """Mappings that showed `n_pages` pages of each of `objects` went; what none shows is dropped."""
        unnamed = -objects[objects < 0]
        np.subtract.at(self._shown, unnamed, n_pages[objects < 0])
        if not self._pages and not self.known:
            return
        for number in unnamed[self._shown[unnamed] == 0].tolist():
            self._drop(-number)

    def _drop(self, number: int) -> None:
        self.drop(number, 0)
        self._pages.pop(number, None)
        known = self.known.pop(number, None)
        if known is not None and known.pool is not None:
            known.pool.reserved -= len(known.promised)

    def drop(self, number: int, start: int, end: int = END_OF_SPACE) -> None:
        """Forget the cached pages `start` to before `end` of an object; nobody maps them any more."""
        table = self._pages.get(number)
        if table is not None:
            _, slots = table.occupied(start, end)
            frames = frames_of(self.tables.entries[slots])
            self._frames.forget(frames)
            self._folios.uncached(frames)
            self.tables.entries[slots] = 0
            table.prune(start, end)

    def cached(self) -> Ints:
        """The frames of all cached pages."""
        slots = [table.occupied()[1] for table in self._pages.values()]
        return frames_of(self.tables.entries[np.concatenate([np.zeros(0, np.int64), *slots])])

    def lengths(self, objects: Ints) -> Ints:
        """How many pages each of `objects` has; those of which that is not known have no end."""
        lengths = np.full(len(objects), END_OF_SPACE)
        for number in np.unique(objects).tolist():
            if number in self.known:
                lengths[objects == number] = self.known[number].n_pages
        return lengths

    def cached_pages(self, number: int) -> list[int]:
        """The cached pages of an object, ascending."""
        table = self._pages.get(number)
        return [] if table is None else table.occupied()[0].tolist()

    def peek(self, objects: Ints, offsets: Ints) -> Ints:
        """The frame that holds each page, 0 where it is not cached."""
        return frames_of(self.tables.entries[self._slots(objects, offsets, create=False)])

    def fetch(self, objects: Ints, offsets: Ints) -> Ints:
        """The frame that holds each page, allocated where it was not cached; who asks has looked for room."""
        slots = self._slots(objects, offsets, create=True)
        missing = np.unique(slots[self.tables.entries[slots] == 0])
        fresh = self._frames.allocate(len(missing), FrameFlag.FILE)
        self._frames.map_counts[fresh] = 0
        self._frames.others[fresh] = 1
        self.tables.entries[missing] = entries_for(fresh, PRESENT)
        return frames_of(self.tables.entries[slots])

    def keep(self, objects: Ints, offsets: Ints, frames: Ints) -> None:
        """Let `frames`, which nobody maps yet, hold the pages, which were not cached."""
        slots = self._slots(objects, offsets, create=True)  # first: it may replace the pool
        self._frames.others[frames] += 1
        self.tables.entries[slots] = entries_for(frames, PRESENT)

    def _slots(self, objects: Ints, offsets: Ints, *, create: bool) -> Ints:
        slots = np.zeros(len(objects), np.int64)
        for number in np.unique(objects).tolist():
            if create or number in self._pages:
                table = self._pages.setdefault(number, SparseTable(self.tables))
                chosen = objects == number
                slots[chosen] = table.slots(offsets[chosen], create=create)
        return slots
