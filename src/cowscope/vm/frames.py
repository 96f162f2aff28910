"""Page frames: reference-counted units of memory, as columns.

| rule | |
|---|---|
| frame 0 | the zero page: read-only, shared by all, its mappings are never counted, never freed |
| map count | entries that name the frame; a fresh frame starts with the one it is fetched for |
| references | map count + others': the page cache's for each page it keeps, swap entries, holds and pins |
| hold | a reference from outside, as a pipe has after vmsplice: a write copies, though one entry maps the frame |
| pin | a hold of somebody who reads or writes the frame for long: fork copies it at once |
| swapped | has contents and a number, but takes no memory |
| freed | when no reference is left; freed frames are fetched again before new ones |
| contents | exist once somebody wrote; a frame without contents reads as zeros |

Source: `struct page` (`_mapcount`, `_refcount`), `wp_can_reuse_anon_folio`,
`folio_add_new_anon_rmap`, `folio_remove_rmap_pte`.
Not modelled: per-CPU batches of the LRU lists, which hold references for a while; NUMA, memory cgroups.
"""

from __future__ import annotations

import numpy as np

from cowscope.units import PAGE_SIZE
from cowscope.vm.columns import Bytes, Counts, Ints, first_of_each, grown
from cowscope.vm.rules import FrameFlag

ZERO_PAGE = 0

_EXCLUSIVE = int(FrameFlag.EXCLUSIVE)
_WRITTEN = int(FrameFlag.WRITTEN)
_WRITTEN_BIT = np.uint8(FrameFlag.WRITTEN)
_SWAPPED = int(FrameFlag.SWAPPED)


class Frames:
    """All frames of a machine; `limit` is how many may be in use at a time, the zero page not counted.

    `map_counts` and `others` (references that are not mappings) are int32, `flags` uint8 (`FrameFlag`).

    >>> frames = Frames()
    >>> both = frames.allocate(2, FrameFlag.ANON)
    >>> frames.in_use, frames.map_counts[both].tolist()
    (2, [1, 1])
    >>> frames.unmap(both)
    >>> frames.in_use
    0
    """

    def __init__(self, limit: int | None = None, page_size: int = PAGE_SIZE) -> None:
        """Start with the zero page alone."""
        self.limit = limit
        self.page_size = page_size
        self.map_counts: Counts = np.zeros(64, np.int32)
        self.others: Counts = np.zeros(64, np.int32)
        self.flags: Bytes = np.zeros(64, np.uint8)
        self.contents: dict[int, bytearray] = {}
        self.holds: dict[int, int] = {}
        """References from outside by frame, pins included; also counted in `others`."""
        self.pins: dict[int, int] = {}
        self.n_swapped = 0
        self._free: Ints = np.zeros(64, np.int64)
        self._n_free = 0
        self._n_ever = 1
        self.others[ZERO_PAGE] = 1
        self.flags[ZERO_PAGE] = FrameFlag.ZERO

    @property
    def allocated(self) -> int:
        """Frames that were ever fetched, in use or free; the zero page not counted."""
        return self._n_ever - 1

    @property
    def in_use(self) -> int:
        """Frames that take memory: somebody refers to them, and they are not on swap; the zero page not counted."""
        return self._n_ever - 1 - self._n_free - self.n_swapped

    @property
    def free(self) -> Ints:
        """The numbers of the frames that were freed and not fetched again."""
        return self._free[: self._n_free]

    def room(self, wanted: int) -> int:
        """How many of `wanted` frames the limit still allows.

        >>> Frames(limit=3).room(5), Frames().room(5)
        (3, 5)
        """
        return wanted if self.limit is None else max(0, min(wanted, self.limit - self.in_use))

    def allocate(self, count: int, flags: int) -> Ints:
        """Fetch `count` frames, each with `flags` and a map count of 1; who asks has looked at `room`."""
        recycled = min(count, self._n_free)
        self._n_free -= recycled
        if recycled:
            frames = self._free[self._n_free : self._n_free + recycled].copy()
        if not recycled:
            frames = self._extend(count)
        elif recycled < count:
            frames = np.concatenate((frames, self._extend(count - recycled)))
        self.map_counts[frames] = 1
        self.flags[frames] = flags
        return frames

    def _extend(self, count: int) -> Ints:
        fresh = np.arange(self._n_ever, self._n_ever + count)
        self._n_ever += count
        self.map_counts = grown(self.map_counts, self._n_ever)
        self.others = grown(self.others, self._n_ever)
        self.flags = grown(self.flags, self._n_ever)
        return fresh

    def map(self, frames: Ints) -> None:
        """Count one more entry for each of `frames`; a frame may occur several times."""
        np.add.at(self.map_counts, frames, np.int32(1))
        self.map_counts[ZERO_PAGE] = 0

    def unmap(self, frames: Ints) -> None:
        """Count one entry less for each of `frames`, and free those that nobody refers to any more."""
        if len(frames) == 1:
            frame = int(frames[0])
            self.map_counts[frame] -= 1
            self.map_counts[ZERO_PAGE] = 0
            if self.map_counts[frame] or self.others[frame]:
                return
        else:
            np.subtract.at(self.map_counts, frames, np.int32(1))
            self.map_counts[ZERO_PAGE] = 0
        self._free_unreferenced(frames)

    def forget(self, frames: Ints) -> None:
        """Drop one reference that is no mapping to each of `frames`, and free those that nobody refers to."""
        np.subtract.at(self.others, frames, np.int32(1))
        self._free_unreferenced(frames)

    def hold(self, frames: Ints, *, pin: bool = False) -> None:
        """Take a reference to each of `frames` from outside."""
        np.add.at(self.others, frames, np.int32(1))
        for frame in frames.tolist():
            self.holds[frame] = self.holds.get(frame, 0) + 1
            if pin:
                self.pins[frame] = self.pins.get(frame, 0) + 1

    def release(self, frames: Ints, *, pin: bool = False) -> None:
        """Give back what `hold` took."""
        for frame in frames.tolist():
            for kept in (self.holds, self.pins) if pin else (self.holds,):
                kept[frame] -= 1
                if not kept[frame]:
                    del kept[frame]
        self.forget(frames)

    def swap_out(self, frames: Ints) -> None:
        """Each entry of `frames`, one apiece, is a swap entry now, and the frame takes no memory."""
        self.map_counts[frames] -= 1
        self.others[frames] += 1
        self.flags[frames] |= np.uint8(_SWAPPED)
        self.n_swapped += len(frames)

    def swap_in(self, frame: int) -> None:
        """A swap entry of `frame` is an ordinary entry now, and the frame takes memory."""
        self.n_swapped -= bool(self.flags[frame] & _SWAPPED)
        self.flags[frame] &= np.uint8(0xFF ^ _SWAPPED)
        self.map_counts[frame] += 1
        self.others[frame] -= 1

    def _free_unreferenced(self, frames: Ints) -> None:
        dead = frames[(self.map_counts[frames] | self.others[frames]) == 0]
        if not dead.size:
            return
        # The dead frames' own counts serve as the scratch, and are zero again afterwards.
        dead = dead[first_of_each(dead, self.map_counts)]
        self.map_counts[dead] = 0
        for frame in dead[(self.flags[dead] & _WRITTEN) != 0].tolist():
            del self.contents[frame]
        if self.n_swapped:
            self.n_swapped -= int(np.count_nonzero(self.flags[dead] & _SWAPPED))
        self.flags[dead] = 0
        self._free = grown(self._free, self._n_free + len(dead))
        self._free[self._n_free : self._n_free + len(dead)] = dead
        self._n_free += len(dead)

    def share(self, frames: Ints) -> None:
        """Take the exclusive mark from `frames`, and count one more entry for each: what fork does."""
        self.flags[frames] &= 0xFF ^ _EXCLUSIVE
        self.map(frames)

    def share_swapped(self, frames: Ints) -> None:
        """Take the exclusive mark from `frames`, which swap entries name, and count one more such entry for each."""
        self.flags[frames] &= 0xFF ^ _EXCLUSIVE
        np.add.at(self.others, frames, np.int32(1))

    def mark(self, frames: Ints, flags: int) -> None:
        """Set `flags` on each of `frames`."""
        self.flags[frames] |= np.uint8(flags)

    def copy_contents(self, sources: Ints, targets: Ints) -> None:
        """Give each of `targets` the bytes of its source; sources that nobody wrote cost nothing."""
        if not self.contents:
            return
        if len(sources) == 1:
            held = self.contents.get(int(sources[0]))
            if held is not None:
                self.contents[int(targets[0])] = held.copy()
                self.flags[targets] |= _WRITTEN_BIT
            return
        written = (self.flags[sources] & _WRITTEN).nonzero()[0]
        if not written.size:
            return
        for source, target in zip(sources[written].tolist(), targets[written].tolist(), strict=True):
            self.contents[target] = self.contents[source].copy()
        self.mark(targets[written], _WRITTEN)

    def write(self, frame: int, offset: int, data: bytes) -> None:
        """Put `data` into `frame` at byte `offset`; it must fit."""
        held = self.contents.get(frame)
        if held is None:
            held = self.contents[frame] = bytearray(self.page_size)
            self.flags[frame] |= np.uint8(_WRITTEN)
        held[offset : offset + len(data)] = data

    def read(self, frame: int, offset: int, count: int) -> bytes:
        """`count` bytes of `frame` from byte `offset` on; zeros when nobody wrote it.

        >>> frames = Frames()
        >>> frame = int(frames.allocate(1, FrameFlag.ANON)[0])
        >>> frames.write(frame, 1, b"ab")
        >>> frames.read(frame, 0, 4)
        b'\\x00ab\\x00'
        """
        held = self.contents.get(frame)
        return bytes(count) if held is None else bytes(held[offset : offset + count])
