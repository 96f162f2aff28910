"""madvise: what a process may tell the kernel about its memory.

| advice | where | effect |
|---|---|---|
| DONTNEED | not locked | entries go, guard markers stay; the next read sees zeros, or the file |
| FREE | private anonymous, not locked | entries become clean, swap entries go; contents stay: memory never is short here |
| REMOVE | shared, may become writable | the pages go from the page cache, and their entries everywhere |
| DONTFORK, DOFORK | | a child gets no such mapping, or does again |
| WIPEONFORK | private anonymous | a child gets the mapping empty |
| KEEPONFORK | | or not empty again |
| POPULATE_READ, POPULATE_WRITE | | see `cowscope.vm.populate` |
| HUGEPAGE, NOHUGEPAGE | | marks the mapping, takes the other mark away |
| MERGEABLE, UNMERGEABLE | private | marks the mapping; takes the mark away, and pages apart that were merged |
| GUARD_INSTALL | not locked | entries go, every page gets a marker: accesses end in a signal |
| GUARD_REMOVE | | markers go |
| PAGEOUT | not locked | private pages that only this entry maps go to swap, if there is any |
| COLD | not locked | nothing |
| WILLNEED | | nothing |

hugetlb mappings take DONTNEED (of whole pages; the rest of the range is left), REMOVE (likewise; the rest is zeroed),
DONTFORK, DOFORK and POPULATE alone.

Advice goes mapping by mapping. A gap is skipped, and the call fails in the end, all the rest done; a mapping
that the advice does not fit ends the call, those before it done. So does lack of frames for pages to be taken apart:
those before stay so, and the mapping keeps its mark.

Source: `madvise_walk_vmas`, `madvise_vma_behavior`, `madvise_guard_install`, `ksm_madvise`, `hugepage_madvise`.
Not modelled: RANDOM and SEQUENTIAL, which steer readahead; COLLAPSE; pages given back under pressure.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import numpy as np

from cowscope.errors import Forbidden, InvalidArgument
from cowscope.vm import huge, hugetlb
from cowscope.vm.calls import Gap, change, check_range, covering
from cowscope.vm.entry import DIRTY, GUARD, SWAP, frames_of, without
from cowscope.vm.hugetlb import unit_of
from cowscope.vm.mappings import MappingRecord
from cowscope.vm.populate import populate_or_raise
from cowscope.vm.reverse import punch
from cowscope.vm.rules import MappingFlag
from cowscope.vm.same_page import enlist, unmerge
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.swap import swap_out


class Advice(IntEnum):
    """What may be advised, with the values of madvise(2)."""

    WILLNEED = 3
    DONTNEED = 4
    FREE = 8
    REMOVE = 9
    DONTFORK = 10
    DOFORK = 11
    MERGEABLE = 12
    UNMERGEABLE = 13
    HUGEPAGE = 14
    NOHUGEPAGE = 15
    WIPEONFORK = 18
    KEEPONFORK = 19
    COLD = 20
    PAGEOUT = 21
    POPULATE_READ = 22
    POPULATE_WRITE = 23
    GUARD_INSTALL = 102
    GUARD_REMOVE = 103


_FLAGS: dict[Advice, tuple[int, int]] = {
    # what is taken off, what is put on
    Advice.DONTFORK: (0, MappingFlag.DONT_FORK),
    Advice.DOFORK: (MappingFlag.DONT_FORK, 0),
    Advice.WIPEONFORK: (0, MappingFlag.WIPE_ON_FORK),
    Advice.KEEPONFORK: (MappingFlag.WIPE_ON_FORK, 0),
    Advice.HUGEPAGE: (MappingFlag.NO_HUGE_PAGE, MappingFlag.HUGE_PAGE),
    Advice.NOHUGEPAGE: (MappingFlag.HUGE_PAGE, MappingFlag.NO_HUGE_PAGE),
    Advice.MERGEABLE: (0, MappingFlag.MERGEABLE),
    Advice.UNMERGEABLE: (MappingFlag.MERGEABLE, 0),
}
_BACKED = int(MappingFlag.SHARED | MappingFlag.FILE)


def madvise(space: AddressSpace, address: int, length: int, advice: Advice | int) -> None:
    """Take advice about a range; see `Process.madvise`."""
    try:
        wanted = Advice(advice)
    except ValueError:
        raise InvalidArgument(f"no advice has the number {advice}") from None
    start, n_pages = check_range(space, address, length)
    end = start + n_pages
    if wanted in (Advice.POPULATE_READ, Advice.POPULATE_WRITE):
        populate_or_raise(space, start, end, write=wanted is Advice.POPULATE_WRITE)
        return
    gap = None
    while start < end:
        try:
            for part in covering(space, start, end):
                _apply(space, part, wanted)
                start = part.end
        except Gap as refusal:
            gap = gap or refusal
            after = space.mappings.clipped(start, end)
            start = after[0].start if after else end
    if gap is not None:
        raise gap


def _apply(space: AddressSpace, part: MappingRecord, advice: Advice) -> None:
    if advice in _FLAGS:
        clear, add = _FLAGS[advice]
        if advice is Advice.WIPEONFORK and part.flags & (_BACKED | MappingFlag.HUGETLB):
            raise InvalidArgument("only private anonymous memory can be wiped on fork")
        if advice is Advice.MERGEABLE and part.flags & (MappingFlag.SHARED | MappingFlag.HUGETLB):
            return
        if advice is Advice.MERGEABLE:
            enlist(space)
        if advice is Advice.UNMERGEABLE and part.flags & MappingFlag.MERGEABLE:
            unmerge(space, part.start, part.end)
        change(space, part, part.flags & ~clear | add)
    elif advice in _ACTIONS:
        _ACTIONS[advice](space, part)


def _dont_need(space: AddressSpace, part: MappingRecord) -> None:
    unit = unit_of(part.flags)
    if part.flags & MappingFlag.LOCKED or part.start % unit:
        raise InvalidArgument("locked memory, and from the midst of a huge page, cannot be discarded")
    n_pages = (part.end - part.start) // unit * unit
    if unit > 1:
        hugetlb.discard(space, part.start, part.start + n_pages, part.flags)
    else:
        space.discard(part.start, n_pages, keep_guards=True)


def _page_out(space: AddressSpace, part: MappingRecord) -> None:
    _cool(space, part)
    swap_out(space, part)


def _cool(space: AddressSpace, part: MappingRecord) -> None:
    if part.flags & (MappingFlag.LOCKED | MappingFlag.HUGETLB):
        raise InvalidArgument("locked memory and hugetlb pages are never reclaimed")


def _free(space: AddressSpace, part: MappingRecord) -> None:
    if part.flags & (_BACKED | MappingFlag.HUGETLB | MappingFlag.LOCKED):
        raise InvalidArgument("only private anonymous memory can be freed lazily")
    pages, slots = space.table.occupied(part.start, part.end)
    entries, folios = space.memory.tables.entries, space.memory.folios
    on_swap = (entries[slots] & SWAP) != 0
    space.zap(pages[on_swap])
    slots = slots[~on_swap]
    entries[slots] = without(entries[slots], DIRTY)
    if folios:
        for folio, count in folios.counted(frames_of(entries[slots])).items():
            if count < len(folio.frames) and not folio.shared and not folios.is_held(folio):
                huge.break_up(space, folio)


def _remove(space: AddressSpace, part: MappingRecord) -> None:
    in_a_file = part.object or part.flags & MappingFlag.HUGETLB
    if part.flags & MappingFlag.LOCKED or not in_a_file:
        raise InvalidArgument("only what lies in the page cache and is not locked can be removed")
    if not part.flags & MappingFlag.SHARED or part.flags & MappingFlag.NEVER_WRITE:
        raise Forbidden("only a shared mapping that may become writable may remove pages of its file")
    unit, start, end = unit_of(part.flags), part.offset, part.offset + part.end - part.start
    first, last = -(-start // unit) * unit, end // unit * unit
    punch(space.memory, part.object, first, max(first, last))
    if unit > 1:
        hugetlb.zero(space.memory, part.object, start, min(first, end))
        hugetlb.zero(space.memory, part.object, max(first, last), end)


def _guard(space: AddressSpace, part: MappingRecord) -> None:
    if part.flags & (MappingFlag.LOCKED | MappingFlag.HUGETLB):
        raise InvalidArgument("locked memory and hugetlb pages cannot be guarded")
    pages = np.arange(part.start, part.end)
    space.mappings.note_guard(part.start)
    if not part.flags & _BACKED:
        space.mappings.note_anon_vma(pages[:1])
    space.discard(part.start, part.end - part.start)
    slots = space.table.slots(pages, create=True)  # first: it may replace the pool
    space.memory.tables.entries[slots] = GUARD
    space.memory.guarded = True


def _unguard(space: AddressSpace, part: MappingRecord) -> None:
    if part.flags & MappingFlag.HUGETLB:
        raise InvalidArgument("hugetlb pages cannot be guarded")
    _, slots = space.table.occupied(part.start, part.end)
    entries = space.memory.tables.entries
    entries[slots[(entries[slots] & GUARD) != 0]] = 0
    space.table.prune(part.start, part.end)


_ACTIONS: dict[Advice, Callable[[AddressSpace, MappingRecord], None]] = {
    Advice.DONTNEED: _dont_need,
    Advice.FREE: _free,
    Advice.REMOVE: _remove,
    Advice.COLD: _cool,
    Advice.PAGEOUT: _page_out,
    Advice.GUARD_INSTALL: _guard,
    Advice.GUARD_REMOVE: _unguard,
}
