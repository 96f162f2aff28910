"""On-demand fork: parent and child have leaf tables in common until one of them changes something there.

| event | effect |
|---|---|
| fork | a leaf table of nothing but copied private entries, of small pages, none pinned, is shared; others: as ever |
| load | goes through a shared table |
| store, or any change of entries | traps: the table is copied (W and exclusive marks go, map counts rise), then as ever |
| the last other one leaves | the table is the space's own again, W and all: no fault is due |

Source: Zhao, Gong, Fonseca: "On-Demand-Fork: A Microsecond Fork for Memory-Intensive and Latency-Sensitive
Applications", EuroSys 2021.
Not modelled: their reference counts in `struct page` of the table; huge pages shared by their upper tables.
"""

from __future__ import annotations

import numpy as np

from cowscope.vm import huge
from cowscope.vm.columns import Bools
from cowscope.vm.entry import ACCESSED, INHERITED, SWAP, WRITABLE, frames_of, without
from cowscope.vm.rules import FrameFlag
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import LEAF_SHIFT


def connect(space: AddressSpace, *, inherits: bool) -> None:
    """Have `space` copy shared leaf tables before it changes them; a child's copies are inherited."""
    if space.table.unshare is None:
        space.table.unshare = lambda numbers: _unshare(space, numbers, inherits)


def share_tables(parent: AddressSpace, child: AddressSpace, copied: Bools) -> None:
    """Give `child` the leaf tables of `parent` that hold only entries of the `copied` mappings."""
    pages, slots = parent.table.occupied(look=True)
    entries = parent.memory.tables.entries[slots]
    frames = frames_of(entries)
    flags = parent.memory.frames.flags[frames]
    fit = copied[parent.mappings.lookup(pages)] & ((flags & int(FrameFlag.FILE)) == 0)
    fit &= ~huge.is_large(parent.memory, slots, frames)
    fit &= ~np.isin(frames, list(parent.memory.frames.pins))
    mixed = set((pages[~fit] >> LEAF_SHIFT).tolist())
    numbers = [number for number in sorted(parent.table.leaves) if number not in mixed]
    parent.table.share(numbers, child.table)
    in_shared = np.isin(pages >> LEAF_SHIFT, numbers) & ((entries & SWAP) == 0)
    child.shared_at_fork += int(np.count_nonzero(flags[in_shared] & int(FrameFlag.ANON)))


def _unshare(space: AddressSpace, numbers: list[int], inherits: bool) -> None:
    memory = space.memory
    for number in numbers:
        memory.tlb.flush_all(space)
        old, new = space.table.replace(number)
        before = memory.tables.rows[old]
        on_swap = (before & SWAP) != 0
        memory.frames.share_swapped(frames_of(before[on_swap]))
        memory.frames.share(frames_of(before[(before != 0) & ~on_swap]))
        memory.tables.rows[old] = without(before, WRITABLE)
        after = without(before, WRITABLE | ACCESSED)
        if inherits:
            anon = (memory.frames.flags[frames_of(after)] & int(FrameFlag.ANON)) != 0
            after[anon & (after != 0)] |= np.uint64(INHERITED)
        memory.tables.rows[new] = after
        memory.work.fork_entries += int(np.count_nonzero(after))
        memory.work.fork_tables += 1
