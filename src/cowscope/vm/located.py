"""Where the pages of a batch of faults lie: mapping flags, slots, entries and frames, grouped by space.

| step | |
|---|---|
| group | the faults of each space side by side, in the order given within it |
| look up | mapping flags; stacks grow down to pages below them; leaf tables come to be where an access is allowed |

Source: `lock_mm_and_find_vma`, `pgd_offset` to `pte_offset_map`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.columns import Counts, Entries, Ints, Outcomes, all_set
from cowscope.vm.entry import frames_of
from cowscope.vm.memory import Memory

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace


@dataclass(slots=True)
class Located:
    """Faults with all that there is to know about each; side by side, grouped by space.

    `time` is the place of each in the order given, None when that is the order here.
    """

    groups: list[tuple[AddressSpace, slice]]
    time: Ints | None
    pages: Ints
    flags: Ints
    slots: Ints
    entries: Entries
    frames: Ints

    def in_order_given(self, outcomes: Outcomes) -> Outcomes:
        """`outcomes`, which lie as the faults lie here, in the order that the faults were given in."""
        if self.time is None:
            return outcomes
        ordered = np.empty_like(outcomes)
        ordered[self.time] = outcomes
        return ordered

    def chosen(self, at: Ints) -> Iterator[tuple[AddressSpace, Ints]]:
        """The faults `at` (ascending), space by space."""
        for space, part in self.groups:
            low, high = (0, len(at)) if self.time is None else at.searchsorted((part.start, part.stop))
            if high > low:
                yield space, at[low:high]


def _grouped(
    spaces: Mapping[int, AddressSpace], ids: Counts
) -> tuple[list[tuple[AddressSpace, slice]], Ints | None]:
    count = len(ids)
    if count == 1 or (ids == ids[0]).all():
        return [(spaces[int(ids[0])], slice(0, count))], None
    # A stable sort of 16-bit integers is a radix sort; ids beyond that take the slower way.
    time = (ids.astype(np.uint16) if int(np.max(ids)) < 1 << 16 else ids).argsort(kind="stable")
    sorted_ids = ids[time]
    borders = np.flatnonzero(sorted_ids[1:] != sorted_ids[:-1]) + 1
    starts, stops = [0, *borders.tolist()], [*borders.tolist(), count]
    return [
        (spaces[int(sorted_ids[start])], slice(start, stop))
        for start, stop in zip(starts, stops, strict=True)
    ], time


def locate(
    memory: Memory, spaces: Mapping[int, AddressSpace], ids: Counts, pages: Ints, needed: int
) -> Located:
    """Look everything up; pages that a mapping with `needed` protection holds get their leaf tables."""
    groups, time = _grouped(spaces, ids)
    if time is None:
        flags, slots = _look_up(groups[0][0], pages, needed)
    else:
        pages = pages[time]
        flags, slots = np.empty_like(pages), np.empty_like(pages)
        for space, part in groups:
            flags[part], slots[part] = _look_up(space, pages[part], needed)
    entries = memory.tables.entries[slots]
    return Located(groups, time, pages, flags, slots, entries, frames_of(entries))


def _look_up(space: AddressSpace, pages: Ints, needed: int) -> tuple[Ints, Ints]:
    flags = space.mappings.flags_at(pages)
    if space.has_stack and not all_set(flags) and space.grow_stack(pages[flags == 0]):
        flags = space.mappings.flags_at(pages)
    if all_set(flags & needed):
        return flags, space.table.slots(pages, create=True)
    allowed = (flags & needed) != 0
    slots = np.zeros(len(pages), np.int64)
    slots[allowed] = space.table.slots(pages[allowed], create=True)
    return flags, slots
