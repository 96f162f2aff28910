"""Large folios: frames that were fetched together, and who maps how much of them.

| rule | |
|---|---|
| large map count | entries that map any page of the folio; a huge row counts once |
| slots | two, each for one address space and its count; a third space is not tracked |
| shared | set when a second space takes a slot; cleared when one slot's count is the large map count again |
| freed | all pages together, when nothing maps any of them; until then unmapped pages are dead weight |
| cached (shared hugetlb) | freed when the page cache has let go of it, too |
| of hugetlb, held from outside | likewise, when whoever holds a page of it lets go |
| write to a page that is not exclusive | reused iff large map count > 1, not shared, and nobody holds any page of it |

So a page copied by one side is copied by the other too, while both map other pages of the folio; and a space
that never got a slot copies everything, even as the only one left. The count of a large folio with one entry left
says "copy", which frees the folio.

Source: `folio_add_return_large_mapcount`, `folio_sub_return_large_mapcount`, `__wp_can_reuse_large_anon_folio`.
Not modelled: splitting of folios under memory pressure (`deferred_split_folio`).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cowscope.vm.columns import Ints
from cowscope.vm.frames import Frames
from cowscope.vm.rules import FrameFlag

_OWN = int(FrameFlag.ANON | FrameFlag.EXCLUSIVE)


@dataclass(slots=True)
class Pool:
    """hugetlb pages of one size: `free` ones, of which `reserved` are promised to somebody."""

    free: int
    reserved: int = 0

    def take(self, *, promised: bool) -> bool:
        """Take a page out for somebody who was `promised` one or not; False if none is left.

        >>> pool = Pool(free=2, reserved=2)
        >>> pool.take(promised=False), pool.take(promised=True), pool
        (False, True, Pool(free=1, reserved=1))
        """
        if not promised and self.free <= self.reserved:
            return False
        self.free -= 1
        self.reserved -= promised
        return True


@dataclass(slots=True, eq=False)
class Folio:
    """One large folio; `slots` maps an address space to its count, two at most."""

    frames: Ints
    large_map_count: int = 0
    slots: dict[int, int] = field(default_factory=dict)
    shared: bool = False
    pool: Pool | None = None
    """The hugetlb pool that it comes from."""
    cached: bool = False
    """Whether the page cache keeps it, mapped or not."""

    def add(self, space: int, count: int) -> None:
        """`count` more entries of `space` map pages of it.

        >>> folio = Folio(np.arange(4))
        >>> folio.add(0, 4)
        >>> folio.add(1, 4)
        >>> folio.add(2, 4)
        >>> folio.slots, folio.shared
        ({0: 4, 1: 4}, True)
        """
        if space in self.slots or len(self.slots) < 2:
            if space not in self.slots and self.large_map_count:
                self.shared = True
            self.slots[space] = self.slots.get(space, 0) + count
        self.large_map_count += count

    def remove(self, space: int, count: int) -> None:
        """`count` entries of `space` less."""
        self.large_map_count -= count
        if space in self.slots:
            self.slots[space] -= count
            if self.slots[space]:
                return
            del self.slots[space]
        if self.large_map_count in (*self.slots.values(), 0):
            self.shared = False


class Folios:
    """All large folios of a machine.

    >>> frames = Frames()
    >>> folios = Folios(frames)
    >>> pages = folios.allocate(2, space=0, count=4)
    >>> folios.unmapped(0, pages[:3])
    >>> frames.unmap(pages[:3])
    >>> frames.in_use
    4
    >>> folios.unmapped(0, pages[3:])
    >>> frames.unmap(pages[3:])
    >>> folios.settle()
    >>> frames.in_use
    0
    """

    def __init__(self, frames: Frames) -> None:
        """Start with none."""
        self._frames = frames
        self._of: dict[int, Folio] = {}
        self._doomed: list[Folio] = []

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self._of)

    def allocate(self, order: int, *, space: int, count: int, pool: Pool | None = None) -> Ints:
        """The frames of a new folio of `2**order` pages, which `space` maps by `count` entries; all exclusive."""
        frames = self._frames.allocate(1 << order, _OWN)
        self._frames.others[frames] += 1
        folio = Folio(frames, pool=pool)
        folio.add(space, count)
        self._of.update(dict.fromkeys(frames.tolist(), folio))
        return frames

    def allocate_cached(self, order: int, pool: Pool) -> Ints:
        """The frames of a new folio for the page cache, which nobody maps yet."""
        frames = self._frames.allocate(1 << order, int(FrameFlag.FILE))
        self._frames.map_counts[frames] = 0
        self._frames.others[frames] += 1
        self._of.update(dict.fromkeys(frames.tolist(), Folio(frames, pool=pool, cached=True)))
        return frames

    def uncached(self, frames: Ints) -> None:
        """The page cache let go of `frames`; folios among them that nobody else has are freed."""
        for folio in self.counted(frames):
            folio.cached = False
        self.released(frames)

    def released(self, frames: Ints) -> None:
        """Somebody let go of `frames`; folios among them that nobody else has are freed."""
        self._doomed += [folio for folio in self.counted(frames) if not folio.large_map_count]
        self.settle()

    def of(self, frame: int) -> Folio | None:
        """The folio that a frame is part of."""
        return self._of.get(frame)

    def together(self, frames: list[int]) -> list[int]:
        """`frames`, and all others that are part of the same folios."""
        found = set(frames)
        for frame in frames:
            if frame in self._of:
                found.update(self._of[frame].frames.tolist())
        return list(found)

    def members(self) -> Ints:
        """All frames that are part of a folio."""
        return np.fromiter(self._of, np.int64, len(self._of))

    def every(self) -> list[Folio]:
        """All folios."""
        return list(dict.fromkeys(self._of.values()))

    def mapped(self, space: int, frames: Ints) -> None:
        """One more entry of `space` for each of `frames`."""
        for folio, count in self.counted(frames).items():
            folio.add(space, count)

    def unmapped(self, space: int, frames: Ints) -> None:
        """One entry of `space` less for each of `frames`; `settle` frees folios that nothing maps then."""
        for folio, count in self.counted(frames).items():
            folio.remove(space, count)
            if not folio.large_map_count:
                self._doomed.append(folio)

    def counted(self, frames: Ints) -> dict[Folio, int]:
        """How many of `frames` are part of each folio."""
        counts: dict[Folio, int] = {}
        if self._of:
            for frame in frames.tolist():
                folio = self._of.get(frame)
                if folio is not None:
                    counts[folio] = counts.get(folio, 0) + 1
        return counts

    def settle(self) -> None:
        """Free the folios that nothing maps any more, once map counts are right."""
        for folio in self._doomed:
            if not self.is_wanted(folio) and int(folio.frames[0]) in self._of:
                self.forget(folio)
                if folio.pool is not None:
                    folio.pool.free += 1
        self._doomed.clear()

    def forget(self, folio: Folio) -> None:
        """Its pages are on their own from now on; those that nobody maps are freed."""
        for frame in folio.frames.tolist():
            del self._of[frame]
        self._frames.forget(folio.frames)

    def is_wanted(self, folio: Folio) -> bool:
        """Whether it must stay whole: mapped, cached, or hugetlb and held from outside."""
        return bool(folio.large_map_count or folio.cached or (folio.pool is not None and self.is_held(folio)))

    def is_held(self, folio: Folio) -> bool:
        """Whether somebody outside refers to any page of it."""
        return any(frame in self._frames.holds for frame in folio.frames.tolist())

    def reusable(self, folio: Folio) -> bool:
        """Whether a page of it that is not exclusive may be reused by a space that maps it."""
        return folio.large_map_count > 1 and not folio.shared and not self.is_held(folio)
