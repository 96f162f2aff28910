"""Merging: when two neighbouring mappings become one.

| what must hold | |
|---|---|
| alike | same protection, flags and backing (what happened to them does not count) |
| contiguous | one begins where the other ends, in the space and in what backs it |
| `anon_vma` | the same one, or only one of them has any, and that one hangs below no parent's |

Tried once for each mapping that a call made or changed, with both neighbours at once; a mapping between two
that fit it but not each other joins the one before. What is merged was touched by guards if any part was.

Source: `vma_merge_existing_range`, `vma_merge_new_range`, `is_mergeable_anon_vma`, `dup_anon_vma`.
Not modelled: mappings of devices, memory policies, userfaultfd, names of anonymous mappings.
"""

from __future__ import annotations

from dataclasses import replace

from cowscope.vm.mappings import MappingRecord, Mappings
from cowscope.vm.rules import MappingFlag

_FORK_CHILD = int(MappingFlag.FORK_CHILD)


def merge(mappings: Mappings, page: int, *, only_before: bool = False) -> None:
    """Merge the mapping that begins at `page` with its neighbours, as far as they fit.

    >>> mappings = Mappings()
    >>> mappings.insert(MappingRecord(0, 4, flags=3, offset=0))
    >>> mappings.insert(MappingRecord(4, 6, flags=3, offset=4))
    >>> merge(mappings, 4)
    >>> mappings.records(slice(0, 9))
    [MappingRecord(start=0, end=6, flags=3, tag=0, object=0, offset=0, anon_vma=0)]
    """
    row = int(mappings.start.searchsorted(page))
    (middle,) = mappings.records(slice(row, row + 1))
    before = mappings.records(slice(row - 1, row)) if row else []
    after = [] if only_before else mappings.records(slice(row + 1, row + 2))
    joins_before = bool(before) and _fits(before[0], middle)
    joins_after = bool(after) and _fits(middle, after[0])
    if joins_before and joins_after:
        joins_after = before[0].anon_vma in (0, after[0].anon_vma) or not after[0].anon_vma
    parts = [*before * joins_before, middle, *after * joins_after]
    if len(parts) > 1:
        mappings.insert(_joined(parts))


def _fits(low: MappingRecord, high: MappingRecord) -> bool:
    if not (high.continues(low) and low.alike(high)) or low.flags & MappingFlag.HUGETLB:
        return False
    if bool(low.anon_vma) != bool(high.anon_vma):
        return not (low if low.anon_vma else high).flags & _FORK_CHILD
    return low.anon_vma == high.anon_vma


def _joined(parts: list[MappingRecord]) -> MappingRecord:
    flags = 0
    for part in parts:
        flags |= part.flags
    anon_vma = next((part.anon_vma for part in parts if part.anon_vma), 0)
    return replace(parts[0], end=parts[-1].end, flags=flags, anon_vma=anon_vma)
