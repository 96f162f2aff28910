"""Undo: what an access that fails did before is taken back, as if it had never begun.

| the access | fails | afterwards |
|---|---|---|
| of one page or of many | OUT_OF_MEMORY | the machine is as it was |
| of many pages | SEGMENTATION_FAULT, BUS_ERROR, not on the first page | likewise |
| | the same, on the first page | what the kernel's own fault leaves: a grown stack, an `anon_vma`, pages around |

Counters of faults, flushes and fork's work go back too. Who listens hears the trap that failed, and nothing of those
that were undone. The kernel leaves what it faulted in; but there the program has written to it, and here an access
moves all of its bytes or none.

A checkpoint costs a copy of all columns of the machine (no contents: faults write to no frame that was there). So it
is made only where an access may fail: its pages that trap might need more frames than are left, or not all may be
accessed.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.columns import all_set
from cowscope.vm.entry import GUARD
from cowscope.vm.file_faults import beyond_end
from cowscope.vm.memory import Memory
from cowscope.vm.rules import MappingFlag
from cowscope.vm.tables import LEAF_SHIFT

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

_BACKED, _HUGETLB = int(MappingFlag.SHARED | MappingFlag.FILE), int(MappingFlag.HUGETLB)
_WORTHLESS = {"_scratch"}


class Checkpoint:
    """The state of all that faults may change.

    >>> memory = Memory()
    >>> before = Checkpoint(memory)
    >>> int(memory.frames.allocate(1, 0)[0]), memory.frames.in_use
    (1, 1)
    >>> before.restore()
    >>> memory.frames.in_use
    0
    """

    def __init__(self, memory: Memory) -> None:
        """Keep it."""
        self._kept = [
            (part, {name: _copy(getattr(part, name)) for name in _names(part)}) for part in _parts(memory)
        ]

    def restore(self) -> None:
        """Put it back; once."""
        for part, kept in self._kept:
            for name, value in kept.items():
                _put_back(part, name, value)


def _parts(memory: Memory) -> Iterator[object]:
    yield from (memory.frames, memory.tables, memory.tlb, memory.work, memory.folios)
    yield from memory.folios.every()
    yield from memory.pools.values()
    yield from memory.cache.parts()
    for space in memory.spaces.values():
        yield from (space, space.mappings, space.table)


def _names(part: object) -> list[str]:
    names = getattr(type(part), "__slots__", None) or vars(part)
    return [name for name in names if name not in _WORTHLESS]


def _copy(value: object) -> object:
    return copy(value) if isinstance(value, np.ndarray | dict | set | list) else value


def _put_back(part: object, name: str, value: object) -> None:
    held = getattr(part, name)
    if isinstance(held, dict | set) and isinstance(value, dict | set):
        held.clear()  # others may know it by reference
        held.update(value)
    else:
        setattr(part, name, value)


def may_fail(space: AddressSpace, pages: range, allowing: int, protection: int) -> bool:
    """Whether an access to `pages` may fail in a way that must be undone.

    It succeeds without a trap where an entry has all of the bits `allowing`, and its mapping needs some of `protection`.
    """
    entries, slot, sharers = space.memory.tables.entries, space.table.slot, space.memory.tables.sharers
    trapping = (
        page
        for page in pages
        if int(entries[at := slot(page)]) & allowing != allowing or (sharers and at >> LEAF_SHIFT in sharers)
    )
    first = next(trapping, None)
    if first is None:
        return False
    rest = range(first, pages.stop)
    if len(pages) > 1 and _may_be_refused(space, rest, protection):
        return True
    room, most = space.memory.frames.room, space.memory.most_frames
    if room(len(rest) * most) == len(rest) * most:
        return False
    wanted = (1 + sum(1 for _ in trapping)) * most
    return room(wanted) < wanted


def _may_be_refused(space: AddressSpace, pages: range, protection: int) -> bool:
    """Whether some page of a range may end the access in a signal."""
    memory, rows = space.memory, space.mappings.within(pages.start, pages.stop)
    start, end, flags = space.mappings.start[rows], space.mappings.end[rows], space.mappings.flags[rows]
    is_covered = (
        flags.size and start[0] <= pages.start and end[-1] >= pages.stop and (start[1:] == end[:-1]).all()
    )
    if not is_covered or not all_set(flags & protection) or (flags & _HUGETLB).any():
        return True
    if not memory.guarded and not (flags & _BACKED).any():
        return False
    numbers = np.arange(pages.start, pages.stop)
    backed = numbers[(space.mappings.flags_at(numbers) & _BACKED) != 0]
    guards = (memory.tables.entries[space.table.slots(numbers)] & GUARD) != 0
    return bool(guards.any() or (backed.size and beyond_end(space, backed).any()))
