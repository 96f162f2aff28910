"""Faults that the kernel takes on behalf of a call, for whole ranges.

| who asks | faults |
|---|---|
| MADV_POPULATE_READ | read faults where there is no entry; refused where only writing is allowed |
| MADV_POPULATE_WRITE | write faults where the entry is not writable; copies what is shared |
| MAP_POPULATE, MAP_LOCKED, mlock, mprotect of locked memory | as for writing where private and writable, else reading |

Source: `populate_vma_page_range`, `faultin_page_range`, `__mm_populate`.
"""

from __future__ import annotations

import numpy as np

from cowscope.errors import BadAddress, InvalidArgument, NoMemory
from cowscope.vm import faults
from cowscope.vm.columns import Ints, Outcomes
from cowscope.vm.rules import MappingFlag, Outcome
from cowscope.vm.spaces import AddressSpace

_READ = int(MappingFlag.READ)
_WRITE = int(MappingFlag.WRITE)
_SHARED = int(MappingFlag.SHARED)


def populate(space: AddressSpace, start: int, end: int) -> None:
    """Fault the pages `start` to before `end` in, in each mapping as far as it goes."""
    for part in space.mappings.clipped(start, end):
        pages = np.arange(part.start, part.end)
        _fault(space, pages, write=part.flags & (_WRITE | _SHARED) == _WRITE)


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
    for page, outcome in zip(pages.tolist(), _fault(space, pages, write=write).tolist(), strict=True):
        if outcome in (Outcome.SEGMENTATION_FAULT, Outcome.BUS_ERROR):
            raise BadAddress(f"no memory can be had at {page << space.layout.page_shift:#x}")
        if outcome == Outcome.OUT_OF_MEMORY:
            raise NoMemory("no frame is left")


def _fault(space: AddressSpace, pages: Ints, *, write: bool) -> Outcomes:
    """Outcomes up to the first page that cannot be faulted in."""
    ids, spaces = np.full(len(pages), space.id, np.int32), {space.id: space}
    resolve = faults.write_faults if write else faults.read_faults
    states = space.page_states(pages)
    blocked = np.flatnonzero(states.guard)
    until = int(blocked[0]) if blocked.size else len(pages)
    outcomes = resolve(space.memory, spaces, ids[:until], pages[:until])
    if blocked.size:
        outcomes = np.append(outcomes, np.int8(Outcome.SEGMENTATION_FAULT))
    return outcomes
