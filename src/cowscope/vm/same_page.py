"""Same-page merging (KSM): pages of equal contents become one, in mappings that are marked for it.

| event | effect |
|---|---|
| merge | equal anonymous pages of marked mappings: all entries name one frame, read-only, not exclusive |
| write | always a copy, even of the last mapper |
| MADV_UNMERGEABLE | a copy for each entry of the range |

Source: `try_to_merge_with_ksm_page`, `replace_page`, `unmerge_ksm_pages`, `wp_can_reuse_anon_folio`.
Not modelled: ksmd's pace and its two trees (a scan looks at everything at once), merging with the zero page.
"""

from __future__ import annotations

import numpy as np

from cowscope.errors import NoMemory
from cowscope.vm import faults
from cowscope.vm.columns import Ints
from cowscope.vm.entry import INHERITED, PRESENT, WRITABLE, entries_for, frames_of, without
from cowscope.vm.memory import Memory
from cowscope.vm.rules import FrameFlag, MappingFlag, Outcome
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import END_OF_SPACE

_WRITE = int(MappingFlag.WRITE)
_SAME_PAGE = int(FrameFlag.SAME_PAGE)


def merge_equal(memory: Memory) -> int:
    """Let every set of equal pages in marked mappings be one page; how many frames that freed."""
    before = memory.frames.in_use
    by_contents: dict[bytes, list[int]] = {}
    for space in memory.spaces.values():
        slots = _marked_slots(space)
        for slot, frame in zip(slots.tolist(), frames_of(memory.tables.entries[slots]).tolist(), strict=True):
            by_contents.setdefault(bytes(memory.frames.contents.get(frame, b"")).rstrip(b"\0"), []).append(
                slot
            )
    for equal in by_contents.values():
        if len(equal) > 1:
            _join(memory, np.array(equal))
    return before - memory.frames.in_use


def _marked_slots(space: AddressSpace) -> Ints:
    """Slots of the anonymous pages, held by nobody, that lie in marked mappings."""
    memory = space.memory
    pages, slots = space.table.occupied(0, END_OF_SPACE)
    entries = memory.tables.entries[slots]
    frames = frames_of(entries)
    chosen = (space.mappings.flags_at(pages) & int(MappingFlag.MERGEABLE)) != 0
    chosen &= (memory.frames.flags[frames] & int(FrameFlag.ANON)) != 0
    chosen &= (memory.frames.others[frames] == 0) & ((entries & np.uint64(PRESENT)) != 0)
    marked: Ints = slots[chosen]
    return marked


def _join(memory: Memory, slots: Ints) -> None:
    entries = memory.tables.entries[slots]
    frames = frames_of(entries)
    merged = (memory.frames.flags[frames] & _SAME_PAGE) != 0
    kept = int(frames[np.argmax(merged)] if merged.any() else frames[0])
    memory.frames.flags[kept] &= np.uint8(0xFF ^ int(FrameFlag.EXCLUSIVE | FrameFlag.DISPUTED))
    memory.frames.mark(np.array([kept]), _SAME_PAGE)
    bits = without(entries, WRITABLE | INHERITED) & np.uint64(0xFFF)
    memory.tables.entries[slots] = entries_for(np.full(len(slots), kept), bits)
    others = frames[frames != kept]
    memory.frames.map(np.full(len(others), kept))
    memory.frames.unmap(others)


def unmerge(space: AddressSpace, start: int, end: int) -> None:
    """Give each merged page of the range a frame of its own again; `NoMemory` if there are too few."""
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
        if lent:
            slot = space.table.slot(page)
            memory.tables.entries[slot] = without(memory.tables.entries[slot], WRITABLE)
