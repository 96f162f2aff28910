"""hugetlb: huge pages from a pool, 2 MiB or 1 GiB, shared and copied whole.

| event, private memory | effect |
|---|---|
| mmap | reserves all pages for the one who maps (`NoMemory` if the pool has too few left), or none (MAP_NORESERVE) |
| any first touch | a zeroed page, exclusive, read-only if it was a read; no page left: BUS_ERROR |
| fork | as all private memory; the reserve stays with the parent |
| fork, exclusive, any part of it pinned | the child gets a copy, to a page that nobody has reserved, or fork fails |
| process_vm_readv, others map it | copied whole (or reused) as by a write, and stays read-only |
| write, read-only, nobody else maps it | reused, whoever refers to it besides |
| write, others map it | the whole page is copied, to one that nobody has reserved |
| likewise, none left, by the one who mapped it | the others lose the page, it is reused |
| any touch of an absent page in a mapping that lost one so | BUS_ERROR, even when there are pages again |
| likewise, by a child | BUS_ERROR |
| mprotect | never gives W back at once |
| MADV_DONTNEED by the one who mapped it, nobody else maps the page | back to the pool, and reserved again |
| munmap, mprotect | only at borders of huge pages |
| mremap | promises and the right to take pages from children move along; a rest of the mapping loses that right |

| event, shared memory | effect |
|---|---|
| mmap | likewise, but the promise is the object's: kept until nothing shows the object any more |
| any first touch | the object's page, out of the pool if it has none there; writable at once where the mapping is |
| fork | the child has no entries, and maps the same pages when it touches them |
| MADV_DONTNEED, munmap of a part | the object keeps its pages |
| MADV_REMOVE | pages that lie whole in the range go back to the pool, reserved no more; parts of others are zeroed |
| nothing shows any page of the object | pages go back to the pool, promises are given up |

Kept as huge rows (`cowscope.vm.huge`), a 1 GiB page as 512 of them; shared ones in the page cache, too.
Source: `hugetlb_no_page`, `hugetlb_wp`, `unmap_ref_private`, `hugetlb_reserve_pages`, `hugetlbfs_punch_hole`.
Not modelled: surplus pages, files on hugetlbfs; that Linux 6.18 counts one promise too few as
long as a child maps, or somebody holds, a page that the one who mapped it has let go of (HugePages_Rsvd falls below
zero); a page taken from a child that has moved it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cowscope.errors import InvalidArgument, NoMemory, NotModelled
from cowscope.vm.cache import KnownObject
from cowscope.vm.columns import Entries, Ints
from cowscope.vm.entry import ACCESSED, OWNED, READ, USER, WRITABLE, entries_for, frames_of, without
from cowscope.vm.folios import Folio, Pool
from cowscope.vm.policies import AtFork
from cowscope.vm.rules import PROTECTION_BITS, FrameFlag, MappingFlag, Outcome
from cowscope.vm.tables import LEAF_SHIFT, LEAF_SIZE

if TYPE_CHECKING:
    from cowscope.vm.memory import Memory
    from cowscope.vm.spaces import AddressSpace

HUGE, GIGANTIC = 1 << 9, 1 << 18
"""Base pages in a page of 2 MiB and of 1 GiB."""

_HUGETLB, _GIGANTIC = int(MappingFlag.HUGETLB), int(MappingFlag.GIGANTIC)
_WRITE, _SHARED = int(MappingFlag.WRITE), int(MappingFlag.SHARED)
_OWNER, _TAKEN = int(MappingFlag.RESERVE_OWNER), int(MappingFlag.PAGES_TAKEN)
_LEFT_OUT = int(MappingFlag.DONT_FORK | MappingFlag.WIPE_ON_FORK)
_EXCLUSIVE = int(FrameFlag.EXCLUSIVE)


def unit_of(flags: int) -> int:
    """Base pages in a page of a mapping with `flags`; 1 for ordinary mappings.

    >>> unit_of(3), unit_of(MappingFlag.HUGETLB), unit_of(MappingFlag.HUGETLB | MappingFlag.GIGANTIC)
    (1, 512, 262144)
    """
    if not flags & _HUGETLB:
        return 1
    return GIGANTIC if flags & _GIGANTIC else HUGE


def flags_for(space: AddressSpace, unit: int, *, shared: bool) -> int:
    """The flags of a new mapping of pages of `unit` base pages."""
    _pool(space.memory, unit)
    return _HUGETLB | _OWNER * (not shared) | _GIGANTIC * (unit == GIGANTIC)


def check_room(space: AddressSpace, wanted: int, unit: int) -> None:
    """`NoMemory` unless that many pages are left that nobody was promised."""
    pool = _pool(space.memory, unit)
    if pool.free - pool.reserved < wanted:
        raise NoMemory(f"{wanted} huge pages are wanted, and {pool.free - pool.reserved} left")


def reserve(space: AddressSpace, start: int, end: int, unit: int) -> None:
    """Promise a page for each `unit` of a new private mapping; who asks has looked for room."""
    _pool(space.memory, unit).reserved += (end - start) // unit
    space.reserves.update(dict.fromkeys(range(start, end, unit), unit))


def shared_object(memory: Memory, n_pages: int, unit: int, *, reserved: bool) -> KnownObject:
    """What is behind a new shared mapping, with a page promised for each `unit`; who asks has looked for room."""
    size, pool = memory.frames.page_size, _pool(memory, unit)
    promised = set(range(0, n_pages, unit)) if reserved else set()
    pool.reserved += len(promised)
    return KnownObject(n_pages * size, page_size=size, pool=pool, promised=promised)


def cancel(space: AddressSpace, start: int, end: int) -> None:
    """Nobody will need the promises between two pages any more."""
    for first in [first for first in space.reserves if start <= first < end]:
        _pool(space.memory, space.reserves.pop(first)).reserved -= 1


def check_rest(space: AddressSpace, start: int, end: int) -> None:
    """`NotModelled` if what lies beside the range in the same mapping was promised pages that it has not touched."""
    row = int(space.mappings.lookup(np.array([start]))[0])
    whole = range(int(space.mappings.start[row]), int(space.mappings.end[row]))
    if any(first in whole and not start <= first < end for first in space.reserves):
        raise NotModelled("hugetlb memory that moves away from a rest with untouched pages")


def hand_over(space: AddressSpace, start: int, end: int, to: int) -> None:
    """What a part of a mapping showed is shown by a mapping at `to` now (`clear_vma_resv_huge_pages`)."""
    for first in [first for first in space.reserves if start <= first < end]:
        space.reserves[first - start + to] = space.reserves.pop(first)
    row = int(space.mappings.lookup(np.array([start]))[0])
    space.mappings.update(int(space.mappings.start[row]), int(space.mappings.end[row]), clear=_OWNER)


@dataclass(frozen=True, slots=True)
class CopiedAtFork:
    """A page that a child gets a copy of: its first base page, the parent's entries, its mapping's flags."""

    first: int
    entries: Entries
    flags: int


def copied_at_fork(parent: AddressSpace) -> list[CopiedAtFork]:
    """The pages that fork copies at once; `NoMemory`, before anything is changed, if too few are left."""
    memory, found = parent.memory, []
    eager = memory.policy.at_fork is AtFork.COPY
    pins = memory.frames.pins if memory.policy.counts_holds else {}
    if not memory.pools or not (eager or pins):
        return []
    pinned = {memory.folios.of(frame) for frame in pins}
    for part in parent.mappings.records(slice(None)):
        if part.flags & (_HUGETLB | _SHARED | _LEFT_OUT) != _HUGETLB:
            continue
        unit = unit_of(part.flags)
        for first in np.unique(parent.present_pages(part.start, part.end) // unit * unit).tolist():
            entries = memory.tables.entries[parent.table.slots(np.arange(first, first + unit))]
            frame = int(frames_of(entries[:1])[0])
            exclusive = int(memory.frames.flags[frame]) & _EXCLUSIVE
            if eager or (exclusive and memory.folios.of(frame) in pinned):
                found.append(CopiedAtFork(first, entries, part.flags))
    for unit, pool in memory.pools.items():
        wanted = sum(len(page.entries) == unit for page in found)
        if wanted > pool.free - pool.reserved:
            raise NoMemory(f"fork must copy {wanted} huge pages, and {pool.free - pool.reserved} are left")
    return found


def copy_at_fork(parent: AddressSpace, child: AddressSpace, page: CopiedAtFork) -> None:
    """Undo the sharing of a page: the parent's entries as they were, the child's name a copy."""
    memory, frames = parent.memory, frames_of(page.entries)
    numbers = np.arange(page.first, page.first + len(frames))
    targets = child.table.slots(numbers)
    _let_go(child, targets, frames)
    fresh = _take(child, page.first, len(frames))
    assert fresh is not None, page.first
    memory.frames.copy_contents(frames, fresh)
    _map(child, targets, fresh, writable=bool(page.flags & _WRITE))
    if not page.flags & PROTECTION_BITS:
        memory.tables.entries[targets] &= ~np.uint64(USER)
    if memory.frames.map_counts[frames[0]] == 1:
        memory.frames.mark(frames, _EXCLUSIVE)
    memory.tables.entries[parent.table.slots(numbers)] = page.entries
    memory.work.fork_copies += len(frames)


def discard(space: AddressSpace, start: int, end: int, flags: int) -> None:
    """MADV_DONTNEED: the owner of private memory is promised the pages again that go back to the pool."""
    unit = unit_of(flags)
    touched = np.unique(space.present_pages(start, end) // unit * unit).tolist() if flags & _OWNER else []
    pool = _pool(space.memory, unit)
    for first in touched:
        free = pool.free
        space.discard(first, unit)
        if pool.free > free:
            reserve(space, first, first + unit, unit)
    space.discard(start, end - start)


def zero(memory: Memory, number: int, start: int, end: int) -> None:
    """Fill what an object has there with zeros; its pages stay (`hugetlbfs_zero_partial_page`)."""
    offsets = np.arange(start, end)
    frames = memory.cache.peek(np.full(len(offsets), number), offsets)
    for frame in frames[frames != 0].tolist():
        if frame in memory.frames.contents:
            memory.frames.write(frame, 0, bytes(memory.frames.page_size))


def check_borders(space: AddressSpace, start: int, end: int) -> None:
    """`InvalidArgument` if a range begins or ends within a huge page."""
    if space.memory.pools:
        for page in (start, end):
            row = int(space.mappings.lookup(np.array([page]))[0])
            if row >= 0 and page % unit_of(int(space.mappings.flags[row])):
                raise InvalidArgument(f"page {page:#x} lies within a huge page")


def _pool(memory: Memory, unit: int) -> Pool:
    pool = memory.pools.get(unit)
    if pool is None:
        raise NoMemory(f"there is no pool of pages of {unit} base pages")
    return pool


def before_access(space: AddressSpace, page: int, flags: int, *, write: bool) -> Outcome | None:
    """Resolve a fault in a hugetlb mapping; None if it was resolved already."""
    memory, unit = space.memory, unit_of(flags)
    first = page - page % unit
    slots = space.table.slots(np.arange(first, first + unit), create=True)
    entries = memory.tables.entries[slots]
    if flags & _SHARED:
        return None if entries[0] else _map_shared(space, first, slots, flags)
    if not entries[0]:
        if flags & _TAKEN:
            return Outcome.BUS_ERROR
        fresh = _take(space, first, unit)
        if fresh is None:
            return Outcome.BUS_ERROR
        _map(space, slots, fresh, writable=write)
        space.mappings.note_anon_vma(np.array([first]))
        return Outcome.ZERO_FILLED
    if not write or int(entries[0]) & WRITABLE:
        return None
    frames = frames_of(entries)
    folio = memory.folios.of(int(frames[0]))
    assert folio is not None, (page, "no folio")
    if folio.large_map_count * LEAF_SIZE > unit:
        fresh = _take(space, first, unit)
        if fresh is not None:
            memory.frames.copy_contents(frames, fresh)
            _let_go(space, slots, frames)
            _map(space, slots, fresh, writable=True)
            return Outcome.COPIED
        if not flags & _OWNER:
            return Outcome.BUS_ERROR
        _take_from_others(space, folio)
    memory.frames.mark(frames, _EXCLUSIVE)
    memory.tables.entries[slots] = entries_for(frames, OWNED)
    return Outcome.REUSED


def _take(space: AddressSpace, first: int, unit: int) -> Ints | None:
    """The frames of a huge page out of the pool, promised or not."""
    pool = _pool(space.memory, unit)
    if not pool.take(promised=space.reserves.pop(first, 0) > 0):
        return None
    order = unit.bit_length() - 1
    return space.memory.folios.allocate(order, space=space.id, count=unit // LEAF_SIZE, pool=pool)


def _map_shared(space: AddressSpace, first: int, slots: Ints, flags: int) -> Outcome:
    memory = space.memory
    objects, offsets = space.mappings.backing(np.arange(first, first + len(slots)))
    frames = memory.cache.peek(objects, offsets)
    if not frames[0]:
        known, offset = memory.cache.known[int(objects[0])], int(offsets[0])
        pool, promised = _pool(memory, len(slots)), offset in known.promised
        if not pool.take(promised=promised):
            return Outcome.BUS_ERROR
        known.promised.discard(offset)
        frames = memory.folios.allocate_cached(len(slots).bit_length() - 1, pool)
        memory.cache.keep(objects, offsets, frames)
    memory.frames.map(frames)
    memory.folios.mapped(space.id, frames[::LEAF_SIZE])
    memory.tables.entries[slots] = entries_for(frames, OWNED if flags & _WRITE else READ)
    memory.tables.huge.update((slots[::LEAF_SIZE] >> LEAF_SHIFT).tolist())
    return Outcome.MAPPED


def _map(space: AddressSpace, slots: Ints, frames: Ints, *, writable: bool) -> None:
    bits = np.uint64(OWNED) if writable else without(np.array(OWNED, np.uint64), WRITABLE)
    space.memory.tables.entries[slots] = entries_for(frames, bits | np.uint64(ACCESSED))
    space.memory.tables.huge.update((slots[::LEAF_SIZE] >> LEAF_SHIFT).tolist())


def _let_go(space: AddressSpace, slots: Ints, frames: Ints) -> None:
    memory = space.memory
    memory.tables.entries[slots] = 0
    memory.folios.unmapped(space.id, frames[::LEAF_SIZE])
    memory.frames.unmap(frames)
    memory.folios.settle()


def _take_from_others(owner: AddressSpace, folio: Folio) -> None:
    """Nobody but `owner` maps the page any more."""
    for space in list(owner.memory.spaces.values()):
        if space is owner:
            continue
        pages, slots = space.table.occupied()
        hit = np.isin(frames_of(owner.memory.tables.entries[slots]), folio.frames)
        for row in np.unique(space.mappings.lookup(pages[hit])).tolist():
            start, end = int(space.mappings.start[row]), int(space.mappings.end[row])
            space.mappings.update(start, end, add=_TAKEN)
        space.zap(pages[hit])
