"""Swap: anonymous pages that leave memory, and come back when somebody touches them.

| event | effect |
|---|---|
| out (MADV_PAGEOUT) | of pages that one entry maps and nobody holds: a swap entry, which keeps the exclusive mark |
| fork | the swap entry is copied, and exclusive no more |
| any access, exclusive | the page comes back exclusive, and writable at once where the mapping is, even by a read |
| any access, not exclusive | it comes back read-only; a write goes on as to any shared page |
| one came back, another's swap entry still stands | the write copies: the swap entry is a reference too |

Source: `do_swap_page`, `copy_nonpresent_pte`, `pageout`, `should_try_to_free_swap`.
Not modelled: readahead, shared pages that reclaim takes from all their mappers, devices that want stable pages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.entry import (
    ACCESSED,
    DIRTY,
    FRAME_BITS,
    INHERITED,
    PRESENT,
    SWAP,
    USER,
    WRITABLE,
    frames_of,
    without,
)
from cowscope.vm.mappings import MappingRecord
from cowscope.vm.memory import Memory
from cowscope.vm.rules import PROTECTION_BITS, FrameFlag, MappingFlag

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

_UNFIT = int(FrameFlag.SAME_PAGE | FrameFlag.DISPUTED)


def swap_out(space: AddressSpace, part: MappingRecord) -> None:
    """Let private pages of a part of a mapping go to swap, lowest first, as far as there is room."""
    memory = space.memory
    room = memory.swap_pages - memory.frames.n_swapped
    _, slots = space.table.occupied(part.start, part.end)
    entries = memory.tables.entries[slots]
    frames = frames_of(entries)
    flags = memory.frames.flags[frames]
    fit = (
        ((flags & int(FrameFlag.ANON)) != 0) & ((flags & _UNFIT) == 0) & ((entries & np.uint64(PRESENT)) != 0)
    )
    fit &= (memory.frames.map_counts[frames] == 1) & (memory.frames.others[frames] == 0)
    chosen = np.flatnonzero(fit)[: max(room, 0)]
    kept = entries[chosen] & np.uint64(FRAME_BITS | INHERITED | USER)
    memory.tables.entries[slots[chosen]] = kept | np.uint64(SWAP)
    memory.frames.swap_out(frames[chosen])


def swap_in(memory: Memory, slot: int, mapping_flags: int) -> bool:
    """Turn the swap entry in `slot` into an ordinary one; False if no frame is left for its contents."""
    entry = memory.tables.entries[slot : slot + 1]
    frame = int(frames_of(entry)[0])
    flags = int(memory.frames.flags[frame])
    if flags & FrameFlag.SWAPPED and memory.frames.room(1) < 1:
        return False
    memory.frames.swap_in(frame)
    bits = PRESENT | ACCESSED | DIRTY | USER * bool(mapping_flags & PROTECTION_BITS)
    if flags & FrameFlag.EXCLUSIVE and mapping_flags & MappingFlag.WRITE:
        bits |= WRITABLE
    entry[:] = without(entry, SWAP | USER) | np.uint64(bits)
    return True
