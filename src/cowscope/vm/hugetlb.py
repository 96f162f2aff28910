"""hugetlb: huge pages from a pool, 2 MiB or 1 GiB, shared and copied whole.

| event | effect |
|---|---|
| mmap | reserves all pages for the one who maps (`NoMemory` if the pool has too few left), or none (MAP_NORESERVE) |
| any first touch | a zeroed page, exclusive, read-only if it was a read; no page left: BUS_ERROR |
| fork | as all private memory; the reserve stays with the parent |
| write, read-only, nobody else maps it | reused, whoever refers to it besides |
| write, others map it | the whole page is copied, to one that nobody has reserved |
| likewise, none left, by the one who mapped it | the others lose the page (their next touch: BUS_ERROR), it is reused |
| likewise, by a child | BUS_ERROR |
| mprotect | never gives W back at once |
| munmap, mprotect | only at borders of huge pages |

Kept as huge rows (`cowscope.vm.huge`), a 1 GiB page as 512 of them.
Source: `hugetlb_fault`, `hugetlb_no_page`, `hugetlb_wp`, `unmap_ref_private`, `hugetlb_reserve_pages`.
Not modelled: MAP_SHARED, pins and unsharing, surplus pages, files on hugetlbfs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cowscope.errors import InvalidArgument, NoMemory, NotModelled
from cowscope.vm.columns import Ints
from cowscope.vm.entry import ACCESSED, OWNED, WRITABLE, entries_for, frames_of, without
from cowscope.vm.folios import Folio
from cowscope.vm.rules import FrameFlag, MappingFlag, Outcome
from cowscope.vm.tables import LEAF_SHIFT, LEAF_SIZE

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

HUGE, GIGANTIC = 1 << 9, 1 << 18
"""Base pages in a page of 2 MiB and of 1 GiB."""

_HUGETLB, _GIGANTIC = int(MappingFlag.HUGETLB), int(MappingFlag.GIGANTIC)
_WRITE, _OWNER = int(MappingFlag.WRITE), int(MappingFlag.RESERVE_OWNER)
_EXCLUSIVE = int(FrameFlag.EXCLUSIVE)


@dataclass(slots=True)
class Pool:
    """The pages of one size: `free` ones, of which `reserved` are promised to somebody."""

    free: int
    reserved: int = 0


def unit_of(flags: int) -> int:
    """Base pages in a page of a mapping with `flags`; 1 for ordinary mappings.

    >>> unit_of(3), unit_of(MappingFlag.HUGETLB), unit_of(MappingFlag.HUGETLB | MappingFlag.GIGANTIC)
    (1, 512, 262144)
    """
    if not flags & _HUGETLB:
        return 1
    return GIGANTIC if flags & _GIGANTIC else HUGE


def flags_for(space: AddressSpace, unit: int, *, plain: bool) -> int:
    """The flags of a new mapping of pages of `unit` base pages; only `plain` (private anonymous) ones are modelled."""
    if not plain:
        raise NotModelled("hugetlb memory that is shared, or of a file")
    _pool(space, unit)
    return _HUGETLB | _OWNER | _GIGANTIC * (unit == GIGANTIC)


def check_room(space: AddressSpace, wanted: int, unit: int) -> None:
    """`NoMemory` unless that many pages are left that nobody was promised."""
    pool = _pool(space, unit)
    if pool.free - pool.reserved < wanted:
        raise NoMemory(f"{wanted} huge pages are wanted, and {pool.free - pool.reserved} left")


def reserve(space: AddressSpace, start: int, end: int, unit: int) -> None:
    """Promise a page for each `unit` of a new mapping; who asks has looked for room."""
    _pool(space, unit).reserved += (end - start) // unit
    space.reserves.update(dict.fromkeys(range(start, end, unit), unit))


def cancel(space: AddressSpace, start: int, end: int) -> None:
    """Nobody will need the promises between two pages any more."""
    for first in [first for first in space.reserves if start <= first < end]:
        _pool(space, space.reserves.pop(first)).reserved -= 1


def check_borders(space: AddressSpace, start: int, end: int) -> None:
    """`InvalidArgument` if a range begins or ends within a huge page."""
    if space.memory.pools:
        for page in (start, end):
            row = int(space.mappings.lookup(np.array([page]))[0])
            if row >= 0 and page % unit_of(int(space.mappings.flags[row])):
                raise InvalidArgument(f"page {page:#x} lies within a huge page")


def _pool(space: AddressSpace, unit: int) -> Pool:
    pool = space.memory.pools.get(unit)
    if pool is None:
        raise NoMemory(f"there is no pool of pages of {unit} base pages")
    return pool


def before_access(space: AddressSpace, page: int, flags: int, *, write: bool) -> Outcome | None:
    """Resolve a fault in a hugetlb mapping; None if it was resolved already."""
    memory, unit = space.memory, unit_of(flags)
    first = page - page % unit
    slots = space.table.slots(np.arange(first, first + unit), create=True)
    entries = memory.tables.entries[slots]
    if not entries[0]:
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
    pool = _pool(space, unit)
    if first in space.reserves:
        del space.reserves[first]
        pool.reserved -= 1
    elif pool.free <= pool.reserved:
        return None
    pool.free -= 1
    order = unit.bit_length() - 1
    return space.memory.folios.allocate(order, space=space.id, count=unit // LEAF_SIZE, pool=pool)


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
        if hit.any():
            space.zap(pages[hit])
