"""Fork: what a child gets.

| mapping of the parent | child's mapping | entries |
|---|---|---|
| private, `anon_vma` | same | all copied: anonymous, zero page and page cache alike |
| private, never written | same | none |
| shared | same | none: the child faults again |
| MADV_WIPEONFORK | same, without `anon_vma` | none; the parent stays exclusive |
| MADV_DONTFORK | none | none; the parent stays exclusive |
| guard markers were once installed in it | same | all copied, markers and shared pages too |

A copied entry of a private mapping loses W in parent and child, its frame the exclusive mark; the map count
rises by one. The child's entry is not accessed but keeps dirty, and is marked inherited where its frame is
anonymous. A copied entry of a shared mapping keeps W, and is clean.

Source: `dup_mmap`, `vma_needs_copy`, `copy_present_ptes`, `folio_try_dup_anon_rmap_pte`.
Other policies leave the child's entries unloaded, or copy all (`cowscope.vm.policies`).
A pinned, exclusive page is copied at once: the child gets a frame of its own, writable if its mapping is, and the
parent's entry stays as it is (a hugetlb page, pinned in any part: a whole one). Swap entries are copied, and are
exclusive no more. When no frame is left for a copy, `NoMemory` is raised and nothing has changed.
Not modelled: userfaultfd. vfork and threads have the same space (`cowscope.vm.process`).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from cowscope.errors import NoMemory
from cowscope.vm import huge, hugetlb, on_demand, same_page
from cowscope.vm.columns import Bools, Entries, Ints
from cowscope.vm.entry import (
    ACCESSED,
    DIRTY,
    INHERITED,
    OWNED,
    PRESENT,
    SWAP,
    USER,
    WRITABLE,
    entries_for,
    frames_of,
    without,
)
from cowscope.vm.memory import Memory
from cowscope.vm.policies import AtFork
from cowscope.vm.rules import PROTECTION_BITS, FrameFlag, MappingFlag
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import LEAF_MASK, LEAF_SHIFT

_SHARED, _HUGETLB = int(MappingFlag.SHARED), int(MappingFlag.HUGETLB)
_ANON_VMA = int(MappingFlag.ANON_VMA)
_MAYBE_GUARD = int(MappingFlag.MAYBE_GUARD)
_LEFT_OUT = int(MappingFlag.DONT_FORK | MappingFlag.WIPE_ON_FORK)


def fork(parent: AddressSpace, number: int) -> AddressSpace:
    """A child of `parent`, as space `number`; costs the parent's present pages, not its mappings' size."""
    _make_sure_of_frames(parent)
    huge_pages = hugetlb.copied_at_fork(parent)
    child = AddressSpace(parent.memory, number)
    child.layout, child.brk, child.has_stack = parent.layout, parent.brk, parent.has_stack
    child.mappings = parent.mappings.inherited()
    mappings = child.mappings
    parent.memory.cache.show(mappings.object, mappings.end - mappings.start)
    if parent.memory.policy.at_fork is AtFork.SHARE_TABLES:
        on_demand.connect(child, inherits=True)
        on_demand.connect(parent, inherits=False)
        on_demand.share_tables(parent, child, _needs_copy(parent.mappings.flags))
    shared = set(child.table.leaves)
    anon = [
        _copy_entries(parent, child, pages, slots, flags) for pages, slots, flags in _pieces(parent, shared)
    ]
    if anon or shared:
        parent.memory.tlb.flush_all(parent)
    for page in huge_pages:
        hugetlb.copy_at_fork(parent, child, page)
    if parent.memory.policy.shadows:
        parent.memory.shadows.fork(parent.id, child.id, np.concatenate([np.zeros(0, np.int64), *anon]))
    child.shared_at_fork += sum(map(len, anon)) - sum(len(page.entries) for page in huge_pages)
    parent.memory.work.fork_tables += len(child.table.leaves)
    if parent.ksm_turn is not None:
        same_page.enlist(child)
    return child


def _pieces(parent: AddressSpace, shared: set[int]) -> Iterator[tuple[Ints, Ints, Ints]]:
    """Pages, slots and mapping flags of the entries that fork copies, piece by piece."""
    mappings = parent.mappings
    for pages, slots in parent.table.pieces(shared):
        rows = mappings.within(int(pages[0]), int(pages[-1]) + 1)
        flags = mappings.flags[rows]
        held = pages.searchsorted(mappings.end[rows]) - pages.searchsorted(mappings.start[rows])
        copied = np.repeat(_needs_copy(flags), held)
        if copied.all():
            yield pages, slots, np.repeat(flags, held)
        elif copied.any():
            yield pages[copied], slots[copied], np.repeat(flags, held)[copied]


def _make_sure_of_frames(parent: AddressSpace) -> None:
    """`NoMemory`, before anything is changed, if there are too few frames for what is copied at once.

    Leaf tables that will be shared may be looked at too: nothing in them is copied.
    """
    memory = parent.memory
    if memory.frames.limit is None or not (memory.frames.pins or memory.policy.at_fork is AtFork.COPY):
        return
    entries = memory.tables.entries
    needed = sum(
        len(_copied_at_once(memory, entries[slots], flags)) for _, slots, flags in _pieces(parent, set())
    )
    if memory.frames.room(needed) < needed:
        raise NoMemory(f"fork needs {needed} frames for what it must copy at once")


def _needs_copy(flags: Ints) -> Bools:
    """True for mappings of which fork copies the entries."""
    written = (flags & (_ANON_VMA | _SHARED)) == _ANON_VMA
    needs: Bools = ((flags & _LEFT_OUT) == 0) & (written | ((flags & _MAYBE_GUARD) != 0))
    return needs


def _copy_entries(parent: AddressSpace, child: AddressSpace, pages: Ints, slots: Ints, flags: Ints) -> Ints:
    """Copy some entries; the anonymous frames that both share now."""
    memory = parent.memory
    copied = _copied_at_once(memory, memory.tables.entries[slots], flags)
    targets = _child_slots(child, pages)
    entries = memory.tables.entries[slots]
    frames = frames_of(entries)
    anon = (memory.frames.flags[frames] & int(FrameFlag.ANON)) != 0
    inherited = without(entries, WRITABLE | ACCESSED | INHERITED)
    inherited[anon] |= np.uint64(INHERITED)
    shared = (flags & _SHARED) != 0
    if shared.any():
        inherited[shared] = without(entries[shared], ACCESSED | DIRTY)
        memory.tables.entries[slots[~shared]] = without(entries[~shared], WRITABLE)
    else:
        memory.tables.entries[slots] = without(entries, WRITABLE)
    if memory.policy.at_fork is AtFork.SHARE_UNLOADED:
        inherited = without(inherited, USER)
    memory.tables.entries[targets] = inherited
    if memory.swap_pages:
        on_swap = (entries & SWAP) != 0
        memory.frames.share_swapped(frames[on_swap])
        frames, anon = frames[~on_swap], anon[~on_swap]
    memory.frames.share(frames)
    if memory.folios or memory.tables.huge:
        huge.shared_by_fork(parent, child, slots, targets, frames_of(entries))
    if copied.size:
        for space, places in ((parent, slots[copied]), (child, targets[copied])):
            for row in memory.tables.huge.intersection(np.unique(places >> LEAF_SHIFT).tolist()):
                huge.split(space, row)
        memory.folios.unmapped(child.id, frames_of(entries[copied]))
        _copy_at_once(memory, slots[copied], targets[copied], entries[copied], flags[copied])
    memory.work.fork_entries += len(entries)
    memory.work.fork_copies += len(copied)
    shared_frames: Ints = frames[anon]
    return shared_frames if not copied.size else np.setdiff1d(shared_frames, frames_of(entries[copied]))


def _copied_at_once(memory: Memory, entries: Entries, flags: Ints) -> Ints:
    """Places of the entries whose frames the child gets a copy of: pinned and exclusive, or all that is private.

    Those of hugetlb pages are copied as such, afterwards.
    """
    eager = memory.policy.at_fork is AtFork.COPY
    if not eager and not (memory.frames.pins and memory.policy.counts_holds):
        return np.zeros(0, np.int64)
    frames = frames_of(entries)
    chosen = ((entries & PRESENT) != 0) & ((memory.frames.flags[frames] & int(FrameFlag.ANON)) != 0)
    if not eager:
        chosen &= (memory.frames.flags[frames] & int(FrameFlag.EXCLUSIVE)) != 0
        chosen &= np.isin(frames, memory.folios.together(list(memory.frames.pins)))
    return np.flatnonzero(chosen & ((flags & (_SHARED | _HUGETLB)) == 0))


def _copy_at_once(memory: Memory, slots: Ints, targets: Ints, entries: Entries, flags: Ints) -> None:
    """Undo the sharing of some pages: the parent's entries as they were, the child's name copies."""
    frames = frames_of(entries)
    fresh = memory.frames.allocate(len(frames), FrameFlag.ANON | FrameFlag.EXCLUSIVE)
    memory.frames.copy_contents(frames, fresh)
    memory.frames.unmap(frames)
    alone = memory.frames.map_counts[frames] == 1
    memory.frames.mark(frames[alone], FrameFlag.EXCLUSIVE)
    memory.tables.entries[slots] = entries
    bits = without(np.full(len(fresh), OWNED, np.uint64), ACCESSED)
    bits[(flags & int(MappingFlag.WRITE)) == 0] &= ~np.uint64(WRITABLE)
    bits[(flags & PROTECTION_BITS) == 0] &= ~np.uint64(USER)
    memory.tables.entries[targets] = entries_for(fresh, bits)


def _child_slots(child: AddressSpace, pages: Ints) -> Ints:
    """Slots of `pages` (ascending) in fresh leaf tables of the child."""
    leaf = pages >> LEAF_SHIFT
    starts = np.flatnonzero(np.concatenate(([True], leaf[1:] != leaf[:-1])))
    rows = child.table.add(leaf[starts])
    return (np.repeat(rows, np.diff(starts, append=len(leaf))) << LEAF_SHIFT) | (pages & LEAF_MASK)
