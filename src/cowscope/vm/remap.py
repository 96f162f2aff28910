"""mremap: memory that grows, shrinks or moves, entries and all.

| asked for | effect |
|---|---|
| shorter | the tail is unmapped, whatever lies there; then the rest as for its length |
| longer, room behind | the mapping grows, and may meet its next neighbour |
| a given place, the old length | all mappings of the range move there, gaps between them and all |
| longer, no room, or a given place | all moves: mapping, entries (unchanged: same frames, W, marks), history |
| the same, merged pages (KSM) | taken apart first |
| MREMAP_DONTUNMAP | as a move, but the old mapping stays, empty and unlocked; moved whole, it has no `anon_vma` left |
| old length 0, shared | a second mapping of the same object |
| hugetlb | whole huge pages, lengths rounded up; never longer, no MREMAP_DONTUNMAP; promises move along |

What moves keeps its place in its backing (private memory that was never written takes the new address for one),
and is merged with its neighbours there while the old place is still mapped, even with that.

Source: `do_mremap`, `check_mremap_params`, `remap_move`, `expand_vma_in_place`, `move_vma`, `copy_vma`, `move_page_tables`.
Not modelled: a part of private hugetlb memory that moves away from a rest with pages promised and not touched (the
kernel forgets those promises), limits.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cowscope.errors import BadAddress, InvalidArgument, NoMemory
from cowscope.vm import hugetlb, layout
from cowscope.vm.calls import choose
from cowscope.vm.mappings import MappingRecord
from cowscope.vm.merging import merge
from cowscope.vm.populate import populate
from cowscope.vm.rules import MappingFlag
from cowscope.vm.same_page import unmerge
from cowscope.vm.spaces import AddressSpace

_LOCKED, _HUGETLB = int(MappingFlag.LOCKED), int(MappingFlag.HUGETLB)
_BACKED = int(MappingFlag.SHARED | MappingFlag.FILE)


def mremap(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    *,
    may_move: bool = False,
    new_address: int | None = None,
    dont_unmap: bool = False,
) -> int:
    """Resize or move memory and say where it is now; see `Process.mremap`."""
    old, new = space.layout.pages(old_length), space.layout.pages(new_length)
    _check(space, address, old_length, new_length, new_address, may_move, dont_unmap)
    start = address >> space.layout.page_shift
    if new_address is not None and old == new:
        _move_all(space, start, start + old, new_address >> space.layout.page_shift, dont_unmap)
        return new_address
    to = start if new_address is None else new_address >> space.layout.page_shift
    _record(space, start, 1)
    old, new = _in_huge_pages(space, start, old, new, to, dont_unmap)
    stays = new_address is None and not dont_unmap
    if new_address is not None:
        hugetlb.check_borders(space, to, to + new)
    if new < old:
        hugetlb.check_borders(space, start + new, start + old)
        _record(space, start, 1 if stays else new)
        space.unmap(start + new, old - new)
        old = new
    if stays and old == new:
        _record(space, start, 1)
        return address
    record = _record(space, start, old)
    if stays and old and _grown_in_place(space, record, start + old, new - old):
        return address
    if not may_move:
        raise NoMemory(f"no room for {new} pages at {address:#x}, and it may not move")
    if new_address is None:
        to = choose(space, 0, new, anonymous=not record.flags & _BACKED)
    space.unmap(to, new)
    _move(space, start, old, new, to, dont_unmap)
    return to << space.layout.page_shift


def _check(
    space: AddressSpace,
    address: int,
    old_length: int,
    new_length: int,
    new_address: int | None,
    may_move: bool,
    dont_unmap: bool,
) -> None:
    end = space.layout.end
    if address % space.layout.page_size or not 0 <= address <= end or not 0 <= old_length <= end:
        raise InvalidArgument(f"{old_length:#x} bytes at {address:#x} are no range of pages")
    if not 0 < new_length <= end:
        raise InvalidArgument(f"a new length of {new_length:#x} bytes")
    if dont_unmap and (not may_move or space.layout.pages(old_length) != space.layout.pages(new_length)):
        raise InvalidArgument("memory that shall not be unmapped must be allowed to move, at its old length")
    if new_address is None:
        return
    if not may_move:
        raise InvalidArgument("a given place means that the memory may move")
    if new_address % space.layout.page_size or not space.layout.lowest <= new_address <= end - new_length:
        raise InvalidArgument(f"{new_length:#x} bytes at {new_address:#x} are no range of pages")
    if address < new_address + new_length and new_address < address + old_length:
        raise InvalidArgument("the old and the new place overlap")


def _record(space: AddressSpace, start: int, n_pages: int) -> MappingRecord:
    """The mapping at `start`, which must hold all of the `n_pages` pages."""
    found = space.mappings.clipped(start, start + max(n_pages, 1))
    if not found or found[0].start != start or len(found) > 1 or found[0].end < start + n_pages:
        raise BadAddress(f"no single mapping holds {n_pages} pages at {start << space.layout.page_shift:#x}")
    if not n_pages and not found[0].flags & MappingFlag.SHARED:
        raise InvalidArgument("only shared memory can be mapped a second time")
    return found[0]


def _move_all(space: AddressSpace, start: int, end: int, to: int, dont_unmap: bool) -> None:
    """Move every mapping between two pages, gaps and all; there must be one at `start`."""
    parts = space.mappings.clipped(start, end)
    if not parts or parts[0].start != start:
        raise BadAddress(f"nothing is mapped at {start << space.layout.page_shift:#x}")
    for part in parts:
        there, n_pages = part.start - start + to, part.end - part.start
        n_pages, _ = _in_huge_pages(space, part.start, n_pages, n_pages, there, dont_unmap)
        hugetlb.check_borders(space, there, there + n_pages)
        space.unmap(there, n_pages)
        _move(space, part.start, n_pages, n_pages, there, dont_unmap)


def _in_huge_pages(
    space: AddressSpace, start: int, old: int, new: int, to: int, dont_unmap: bool
) -> tuple[int, int]:
    """Both lengths, in whole pages of the mapping at `start`; hugetlb memory moves only as such (`align_hugetlb`)."""
    unit = hugetlb.unit_of(int(space.mappings.flags_at(np.array([start]))[0]))
    if unit == 1:
        return old, new
    old, new = -(-old // unit) * unit, -(-new // unit) * unit
    if start % unit or to % unit or new > old:
        raise InvalidArgument(f"hugetlb memory moves by pages of {unit} base pages, and does not grow")
    if dont_unmap:
        raise InvalidArgument("hugetlb memory that moves does not stay")
    if to != start:
        hugetlb.check_rest(space, start, start + old)
    return old, new


def _grown_in_place(space: AddressSpace, record: MappingRecord, end: int, more: int) -> bool:
    row = int(space.mappings.lookup(np.array([end - 1]))[0])
    ends_there = int(space.mappings.end[row]) == end
    if not ends_there or not layout.free_at(space.mappings, space.layout, end, more):
        return False
    offset = record.offset + end - record.start
    space.insert(replace(record, start=end, end=end + more, offset=offset))
    merge(space.mappings, end)
    if record.flags & _LOCKED:
        populate(space, end, end + more)
    return True


def _move(space: AddressSpace, start: int, old: int, new: int, to: int, dont_unmap: bool) -> None:
    record = _record(space, start, old)
    if record.flags & MappingFlag.MERGEABLE:
        unmerge(space, start, start + old)
    row = int(space.mappings.lookup(np.array([start]))[0])
    whole = int(space.mappings.start[row]) == start and int(space.mappings.end[row]) == start + old
    offset = record.offset
    if not record.flags & _BACKED and not record.anon_vma:
        offset = to
    taken = space.take(start, start + old)
    space.insert(replace(record, start=to, end=to + new, offset=offset))
    space.give(to - start, taken)
    if record.flags & _HUGETLB:
        hugetlb.hand_over(space, start, start + old, to)
    merge(space.mappings, to)
    if old and dont_unmap:
        merged_with_itself = len(set(space.mappings.lookup(np.array([start, to])).tolist())) == 1
        if whole and not merged_with_itself:
            space.mappings.forget_anon_vma(start, start + old)
        space.mappings.update(start, start + old, clear=_LOCKED)
    elif old:
        space.unmap(start, old)
    if record.flags & _LOCKED:
        populate(space, to + old, to + new)
