"""Faults on objects of which the length and the cached pages are known.

| access | page | effect |
|---|---|---|
| read | beyond the end | fault-around, then BUS_ERROR |
| write | beyond the end | BUS_ERROR |
| read | cached or not | fault-around, then the page itself, allocated where it was a hole |
| write, shared | | the page alone, allocated where it was a hole |
| write, private | | a copy of the cached page; a hole is allocated in the cache too |

Fault-around maps what is cached, of the pages without an entry in a window of 16 that begins at a multiple of
16, at the mapping's start, or at the leaf table's, whichever is last; and that ends with mapping, table or object.

Source: `do_fault_around`, `filemap_map_pages`, `do_cow_fault`, `shmem_fault`.
Not modelled: pages that are locked or being read in, folios of several pages (mapped whole by Linux 6.18).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.columns import Bools, Entries, Ints
from cowscope.vm.entry import READ, WRITABLE, entries_for
from cowscope.vm.rules import MappingFlag

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

_SHARED_WRITABLE = int(MappingFlag.SHARED | MappingFlag.WRITE)
_FILE = int(MappingFlag.FILE)
_UNTRACKED = int(MappingFlag.UNTRACKED)


def read_bits(flags: Ints) -> Entries:
    """Bits of an entry that a read makes: writable at once where shared memory is not tracked.

    >>> read_bits(np.array([3, 11])).tolist()
    [37, 39]
    """
    untracked = (flags & _SHARED_WRITABLE) == _SHARED_WRITABLE
    untracked &= ((flags & _FILE) == 0) | ((flags & _UNTRACKED) != 0)
    return np.where(untracked, np.uint64(READ | WRITABLE), np.uint64(READ))


def beyond_end(space: AddressSpace, pages: Ints) -> Bools:
    """True where what backs a page ends before it."""
    objects, offsets = space.mappings.backing(pages)
    past: Bools = offsets >= space.memory.cache.lengths(objects)
    return past


def map_around(space: AddressSpace, page: int) -> bool:
    """Resolve a read fault on `page`; False if no frame is left for it.

    Where `page` lies beyond the end of its object, only the pages around it are mapped.
    """
    mappings, cache = space.mappings, space.memory.cache
    row = mappings.lookup(np.array([page]))
    start, end, flags = int(mappings.start[row][0]), int(mappings.end[row][0]), mappings.flags[row]
    architecture = space.memory.architecture
    window, table = architecture.fault_around, architecture.entries
    low = max(page - page % window, start)
    high = min(low + window, end, page - page % table + table)
    pages = np.arange(low, high)
    objects, offsets = mappings.backing(pages)
    slots = space.table.slots(pages, create=True)
    frames = cache.peek(objects, offsets)
    vacant = space.memory.tables.entries[slots] == 0
    around = vacant & (frames != 0) & (offsets < cache.lengths(objects))
    here = page - low
    beyond = offsets[here] >= cache.lengths(objects[here : here + 1])[0]
    lacks = vacant[here] and not around[here] and not beyond
    if lacks and space.memory.frames.room(1):
        frames[here] = cache.fetch(objects[here : here + 1], offsets[here : here + 1])[0]
        around[here] = True
    space.memory.frames.map(frames[around])
    space.memory.tables.entries[slots[around]] = entries_for(frames[around], read_bits(flags))
    return bool(around[here] or not vacant[here] or beyond)
