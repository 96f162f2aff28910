"""Same-page merging (KSM): pages of equal contents become one, in mappings that are marked for it.

| event | effect |
|---|---|
| MADV_MERGEABLE, fork of a process that is on the list | the process is put at the end of the list that ksmd walks |
| merge | equal anonymous pages of marked mappings: all entries name one frame, read-only, not exclusive |
| which frame is kept | one that was merged before; else the second that ksmd meets, by list and address |
| a frame that others refer to (pinned, in a pipe) | left out |
| a frame that several entries name, none equal to it | stays as it is |
| write | always a copy, even of the last mapper |
| MADV_UNMERGEABLE | a copy for each entry of the range, which stays read-only; in mappings that are marked |
| mremap to another place | likewise, before the entries move |

Source: `cmp_and_merge_page`, `try_to_merge_two_pages`, `replace_page`, `unmerge_ksm_pages`, `wp_can_reuse_anon_folio`.
Not modelled: ksmd's pace (a scan goes on until nothing more merges), merging with the zero page, more than 256 entries
of one page, pages of large folios, and equal pages of which the first that ksmd meets is held (it copies all others
at each pass, in vain).
"""

from __future__ import annotations

import numpy as np

from cowscope.errors import NoMemory, NotModelled
from cowscope.vm import faults
from cowscope.vm.columns import Ints
from cowscope.vm.entry import INHERITED, PRESENT, WRITABLE, entries_for, frames_of, without
from cowscope.vm.memory import Memory
from cowscope.vm.rules import FrameFlag, MappingFlag, Outcome
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import END_OF_SPACE

_WRITE, _MERGEABLE = int(MappingFlag.WRITE), int(MappingFlag.MERGEABLE)
_SAME_PAGE = int(FrameFlag.SAME_PAGE)
MOST_SHARERS = 256
"""Entries that may name one merged frame (`max_page_sharing`); the next ones get another."""


def enlist(space: AddressSpace) -> None:
    """Put a space at the end of the list that ksmd walks, unless it is on it (`ksm_enter`)."""
    if space.ksm_turn is None:
        space.ksm_turn = 1 + max((other.ksm_turn or 0 for other in space.memory.spaces.values()), default=0)


def merge_equal(memory: Memory) -> int:
    """Let every set of equal pages in marked mappings be one page; how many frames that freed.

    Raises `NotModelled`, and nothing has changed.
    """
    before = memory.frames.in_use
    listed = [space for space in memory.spaces.values() if space.ksm_turn is not None]
    by_contents: dict[bytes, list[int]] = {}
    for space in sorted(listed, key=lambda space: space.ksm_turn or 0):
        if not (space.mappings.flags & _MERGEABLE).any():
            space.ksm_turn = None
        slots = _marked_slots(space)
        for slot, frame in zip(slots.tolist(), frames_of(memory.tables.entries[slots]).tolist(), strict=True):
            by_contents.setdefault(_contents(memory, frame), []).append(slot)
    merged = np.flatnonzero(memory.frames.flags & _SAME_PAGE).tolist()
    kept = {_contents(memory, frame): frame for frame in merged}
    joins = [_joined(memory, np.array(slots), kept.get(held)) for held, slots in by_contents.items()]
    for slots, frame in joins:
        if frame:
            _join(memory, slots, frame)
    return before - memory.frames.in_use


def _contents(memory: Memory, frame: int) -> bytes:
    return bytes(memory.frames.contents.get(frame, b"")).rstrip(b"\0")


def _marked_slots(space: AddressSpace) -> Ints:
    """Slots of the anonymous pages that lie in marked mappings, by address."""
    memory = space.memory
    pages, slots = space.table.occupied(0, END_OF_SPACE)
    entries = memory.tables.entries[slots]
    chosen = (space.mappings.flags_at(pages) & _MERGEABLE) != 0
    chosen &= (memory.frames.flags[frames_of(entries)] & int(FrameFlag.ANON)) != 0
    chosen &= (entries & np.uint64(PRESENT)) != 0
    marked: Ints = slots[chosen]
    return marked


def _joined(memory: Memory, slots: Ints, merged: int | None) -> tuple[Ints, int]:
    """Which of `slots`, whose pages are equal, will name one frame, and which frame that is (0: none)."""
    frames = frames_of(memory.tables.entries[slots])
    distinct = list(dict.fromkeys(frames.tolist()))
    if len(distinct) == 1 and merged in (None, distinct[0]):
        return slots[:0], 0
    if any(memory.folios.of(frame) is not None for frame in distinct):
        raise NotModelled("merging of pages that are parts of large folios")
    free = [frame for frame in distinct if not memory.frames.others[frame]]
    if merged is None and free and distinct[0] not in free:
        raise NotModelled("merging of equal pages of which the first is held from outside")
    if merged is None:
        merged = free[1] if len(free) > 1 else 0
    chosen: Ints = slots[np.isin(frames, free)]
    if len(chosen) > MOST_SHARERS:
        raise NotModelled(f"merging of more than {MOST_SHARERS} pages into one")
    return chosen, merged


def _join(memory: Memory, slots: Ints, kept: int) -> None:
    entries = memory.tables.entries[slots]
    frames = frames_of(entries)
    memory.frames.flags[kept] &= np.uint8(0xFF ^ int(FrameFlag.EXCLUSIVE | FrameFlag.DISPUTED))
    memory.frames.mark(np.array([kept]), _SAME_PAGE)
    bits = without(entries, WRITABLE | INHERITED) & np.uint64(0xFFF)
    memory.tables.entries[slots] = entries_for(np.full(len(slots), kept), bits)
    others = frames[frames != kept]
    memory.frames.map(np.full(len(others), kept))
    memory.frames.unmap(others)


def unmerge(space: AddressSpace, start: int, end: int) -> None:
    """Give each merged page of the range a frame of its own again, read-only; `NoMemory` if there are too few."""
    memory = space.memory
    pages, slots = space.table.occupied(start, end)
    entries = memory.tables.entries[slots]
    merged = (memory.frames.flags[frames_of(entries)] & _SAME_PAGE) != 0
    for page in pages[merged & ((entries & np.uint64(PRESENT)) != 0)].tolist():
        row = int(space.mappings.lookup(np.array([page]))[0])
        lent = _WRITE & ~int(space.mappings.flags[row])
        space.mappings.flags[row] |= lent
        outcome = faults.write_faults(memory, {space.id: space}, space.ids, np.array([page]))[0]
        space.mappings.flags[row] &= ~lent
        if outcome == Outcome.OUT_OF_MEMORY:
            raise NoMemory("no frame is left to take merged pages apart")
        slot = space.table.slot(page)
        memory.tables.entries[slot] = without(memory.tables.entries[slot], WRITABLE)
