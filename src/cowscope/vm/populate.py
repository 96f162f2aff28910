"""Faults that the kernel takes on behalf of a call, for whole ranges.

| who asks | faults |
|---|---|
| MADV_POPULATE_READ | read faults where there is no entry; refused where only writing is allowed |
| MADV_POPULATE_WRITE | write faults where the entry is not writable; copies what is shared |
| mlock | as for writing where private and writable, else reading |
| MAP_POPULATE, MAP_LOCKED, mprotect and mremap of locked memory | likewise, but a failure only ends it in that mapping |

What was faulted in before a page that cannot be had (or for which no frame is left) stays so, as in the kernel.

Source: `populate_vma_page_range`, `faultin_page_range`, `__mm_populate`, `__mlock_posix_error_return`.
"""

from __future__ import annotations

import numpy as np

from cowscope.errors import BadAddress, InvalidArgument, NoMemory
from cowscope.vm import faults
from cowscope.vm.columns import Ints, Outcomes
from cowscope.vm.mappings import MappingRecord
from cowscope.vm.rules import MappingFlag, Outcome
from cowscope.vm.spaces import AddressSpace

_READ = int(MappingFlag.READ)
_WRITE = int(MappingFlag.WRITE)
_SHARED = int(MappingFlag.SHARED)


def populate(space: AddressSpace, start: int, end: int) -> None:
    """Fault the pages `start` to before `end` in, in each mapping as far as it goes."""
    for part in space.mappings.clipped(start, end):
        _fault(space, np.arange(part.start, part.end), write=_for_writing(part))


def populate_locked(space: AddressSpace, start: int, end: int) -> None:
    """Fault the pages `start` to before `end`, all mapped, in; `NoMemory` at the first that cannot be."""
    for part in space.mappings.clipped(start, end):
        outcomes = _fault(space, np.arange(part.start, part.end), write=_for_writing(part))
        if outcomes[-1] >= Outcome.SEGMENTATION_FAULT:
            failed = part.start + len(outcomes) - 1 << space.layout.page_shift
            why = "no frame is left" if outcomes[-1] == Outcome.OUT_OF_MEMORY else "no memory can be had"
            raise NoMemory(f"{why} at {failed:#x}")


def _for_writing(part: MappingRecord) -> bool:
    return part.flags & (_WRITE | _SHARED) == _WRITE


def populate_or_raise(space: AddressSpace, start: int, end: int, *, write: bool) -> None:
    """MADV_POPULATE_READ and MADV_POPULATE_WRITE: stops at what cannot be faulted in, and says why.

    Raises `NoMemory` at a gap or without frames, `InvalidArgument` where the mapping forbids it, `BadAddress` at
    guard markers and beyond the end of a file.
    """
    page = start
    for part in [*space.mappings.clipped(start, end), None]:
        if part is None or part.start > page:
            if page < end:
                raise NoMemory(f"nothing is mapped at {page << space.layout.page_shift:#x}")
            return
        if not part.flags & (_WRITE if write else _READ):
            raise InvalidArgument(f"the mapping at {page << space.layout.page_shift:#x} forbids the access")
        _part_or_raise(space, np.arange(part.start, part.end), write)
        page = part.end


def _part_or_raise(space: AddressSpace, pages: Ints, write: bool) -> None:
    outcomes = _fault(space, pages, write=write)
    failed = int(pages[len(outcomes) - 1]) << space.layout.page_shift
    if outcomes[-1] == Outcome.OUT_OF_MEMORY:
        raise NoMemory(f"no frame is left at {failed:#x}")
    if outcomes[-1] >= Outcome.SEGMENTATION_FAULT:
        raise BadAddress(f"no memory can be had at {failed:#x}")


def _fault(space: AddressSpace, pages: Ints, *, write: bool) -> Outcomes:
    """Outcomes up to the first page that cannot be faulted in, that one included."""
    blocked = np.flatnonzero(space.page_states(pages).guard)
    until = int(blocked[0]) if blocked.size else len(pages)
    outcomes = np.zeros(0, np.int8)
    for part in _parts(space, pages[:until]):
        resolve = faults.write_faults if write else faults.read_faults
        found = resolve(space.memory, {space.id: space}, np.full(len(part), space.id, np.int32), part)
        failed = np.flatnonzero(found >= Outcome.SEGMENTATION_FAULT)
        outcomes = np.append(outcomes, found[: failed[0] + 1] if failed.size else found)
        if failed.size:
            return outcomes
    return np.append(outcomes, np.int8(Outcome.SEGMENTATION_FAULT)) if blocked.size else outcomes


def _parts(space: AddressSpace, pages: Ints) -> list[Ints]:
    """All pages at once, but one by one where something may run out before the last."""
    most = len(pages) * space.memory.most_frames
    if space.memory.frames.room(most) == most and not space.memory.pools:
        return [pages] if pages.size else []
    return np.split(pages, len(pages)) if pages.size else []
