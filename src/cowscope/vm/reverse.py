"""From an object of the page cache to whoever maps it: truncation, holes, writeback.

| operation | entries of all mappings | page cache |
|---|---|---|
| truncate | beyond the end: gone, private copies too | pages beyond the end go, the last one's tail is zeroed |
| punch (MADV_REMOVE) | of the range: gone, private copies stay | pages of the range go |
| write back (fsync) | of tracked shared mappings: read-only and clean, so that the next write faults | stays |

Source: `truncate_pagecache`, `unmap_mapping_range`, `shmem_fallocate`, `folio_mkclean`.
Not modelled: an index of mappings by object; every mapping of every space is looked at.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cowscope.vm.columns import Bools, Ints
from cowscope.vm.entry import DIRTY, WRITABLE, frames_of, without
from cowscope.vm.memory import Memory
from cowscope.vm.rules import FrameFlag, MappingFlag
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import END_OF_SPACE


def mapped_parts(
    memory: Memory, number: int, first: int, last: int
) -> Iterator[tuple[AddressSpace, int, int, int]]:
    """Space, start page, end page and flags of every mapped part of an object's pages `first` to before `last`."""
    for space in list(memory.spaces.values()):
        mappings = space.mappings
        for row in np.flatnonzero(mappings.object == number).tolist():
            start, end, offset = (int(c[row]) for c in (mappings.start, mappings.end, mappings.offset))
            low, high = max(start, start + first - offset), min(end, start + last - offset)
            if low < high:
                yield space, low, high, int(mappings.flags[row])


def truncate(memory: Memory, number: int, n_bytes: int) -> None:
    """Let an object of known length be `n_bytes` long."""
    known = memory.cache.known[number]
    shrinks, known.n_bytes = n_bytes < known.n_bytes, n_bytes
    if not shrinks:
        return
    for space, start, end, _ in mapped_parts(memory, number, known.n_pages, END_OF_SPACE):
        space.discard(start, end - start, keep_guards=True)
    memory.cache.drop(number, known.n_pages)
    tail = n_bytes % known.page_size
    frame = int(memory.cache.peek(np.array([number]), np.array([known.n_pages - 1]))[0])
    if tail and frame:
        memory.frames.write(frame, tail, bytes(known.page_size - tail))


def punch(memory: Memory, number: int, first: int, last: int) -> None:
    """Take the pages `first` to before `last` of an object out of the page cache."""
    for space, start, end, _ in mapped_parts(memory, number, first, last):
        pages, slots = space.table.occupied(start, end)
        space.zap(pages[_in_cache(memory, slots)])
    memory.cache.drop(number, first, last)


def write_back(memory: Memory, number: int) -> None:
    """Clean the pages of a tracked object: the next write to each faults again."""
    for space, start, end, flags in mapped_parts(memory, number, 0, END_OF_SPACE):
        if flags & MappingFlag.SHARED:
            _, slots = space.table.occupied(start, end)
            slots = slots[_in_cache(memory, slots)]
            memory.tables.entries[slots] = without(memory.tables.entries[slots], WRITABLE | DIRTY)


def _in_cache(memory: Memory, slots: Ints) -> Bools:
    frames = frames_of(memory.tables.entries[slots])
    found: Bools = (memory.frames.flags[frames] & int(FrameFlag.FILE)) != 0
    return found
