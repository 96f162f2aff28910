"""Pages that were there before anybody looked: anonymous frames put where a census found pages.

| page | gets |
|---|---|
| mapped once in the whole system | a frame of its own, exclusive, writable where its mapping is |
| shared with others | one frame for all; the first stands for the process that wrote it, the others inherited it |
| present here already, in no private mapping, or named before in the same call | nothing |

The frame limit does not hold here. For those who replay a recording; no kernel function does such a thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.columns import Bools, Counts, Ints
from cowscope.vm.entry import DIRTY, INHERITED, OWNED, READ, USER, WRITABLE, entries_for
from cowscope.vm.memory import Memory
from cowscope.vm.rules import PROTECTION_BITS, FrameFlag, MappingFlag

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

_WRITE, _SHARED = int(MappingFlag.WRITE), int(MappingFlag.SHARED)


def install(space: AddressSpace, pages: Ints, *, exclusive: bool) -> Bools:
    """Give frames to `pages`; see `AddressSpace.install`."""
    chosen, slots = _vacant(space, pages)
    bits = FrameFlag.ANON | (FrameFlag.EXCLUSIVE if exclusive else 0)
    fresh = space.memory.frames.allocate(len(slots), bits)
    _attach(space, pages[chosen], slots, fresh, exclusive=exclusive)
    return chosen


def install_shared(memory: Memory, ids: Counts, pages: Ints, groups: Ints) -> int:
    """Let equal groups share a frame; see `Machine.install_shared`."""
    slots, frames = np.zeros(len(ids), np.int64), np.zeros(len(ids), np.int64)
    for space_id in np.unique(ids).tolist():
        at = np.flatnonzero(ids == space_id)
        chosen, found = _vacant(memory.spaces[space_id], pages[at])
        slots[at[chosen]] = found
    at = np.flatnonzero(slots)
    _, first, member = np.unique(groups[at], return_index=True, return_inverse=True)
    fresh = memory.frames.allocate(len(first), FrameFlag.ANON)
    memory.frames.map_counts[fresh] = np.bincount(member, minlength=len(first))
    frames[at] = fresh[member]
    for space_id in np.unique(ids[at]).tolist():
        own = at[ids[at] == space_id]
        _attach(memory.spaces[space_id], pages[own], slots[own], frames[own], exclusive=False)
    memory.tables.entries[slots[np.delete(at, first)]] |= np.uint64(INHERITED)
    return len(at)


def _vacant(space: AddressSpace, pages: Ints) -> tuple[Bools, Ints]:
    """True where a page may get a frame, and the slots of those pages."""
    held = space.mappings.lookup(pages) >= 0
    chosen: Bools = held & ((space.mappings.flags_at(pages) & _SHARED) == 0)
    slots = np.zeros(len(pages), np.int64)
    slots[chosen] = space.table.slots(pages[chosen], create=True)
    chosen &= space.memory.tables.entries[slots] == 0
    chosen &= space.memory.tables.first_of_each(slots)
    return chosen, slots[chosen]


def _attach(space: AddressSpace, pages: Ints, slots: Ints, frames: Ints, *, exclusive: bool) -> None:
    """Let the empty `slots` of `pages` name `frames`, whose map counts are right already."""
    flags = space.mappings.flags_at(pages)
    entries = entries_for(frames, OWNED if exclusive else READ | DIRTY)
    entries[(flags & _WRITE) == 0] &= ~np.uint64(WRITABLE)
    entries[(flags & PROTECTION_BITS) == 0] &= ~np.uint64(USER)
    space.memory.tables.entries[slots] = entries
    space.mappings.note_anon_vma(pages)
