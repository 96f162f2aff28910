"""Page faults: one implementation for one page and for many, in one space and across several.

| step | for a whole batch |
|---|---|
| locate | each page's mapping flags and its slot in the page tables, space by space (`located`) |
| classify | the table in `cowscope.vm.rules` |
| settle | a second fault on the same page finds it resolved; the policy decides about shared pages |
| apply | fetch frames, copy contents, write entries, count |

A batch means the same as its faults one by one, in the order given. The k-th of the batch to write a frame
that m entries map sees a map count of m - k: earlier writers have left it, since no policy lets go on with
a frame that others map. Where memory may run out inside a batch, it is cut until it cannot; where large folios or
hugetlb pages are in play, into single faults, since each may change what the next one finds.

Source: `handle_pte_fault`, `do_wp_page`, `wp_page_copy`, `wp_page_reuse`, `do_anonymous_page`.
Not modelled: races.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.columns import Bools, Counts, Entries, Ints, Outcomes, all_set
from cowscope.vm.entry import (
    ACCESSED,
    DIRTY,
    INHERITED,
    OWNED,
    PRESENT,
    READ,
    SWAP,
    USER,
    WRITABLE,
    entries_for,
    frames_of,
    without,
)
from cowscope.vm.file_faults import beyond_end, map_around, read_bits
from cowscope.vm.huge import before_read, before_write
from cowscope.vm.hugetlb import before_access
from cowscope.vm.located import Located, locate
from cowscope.vm.memory import Memory
from cowscope.vm.policies import AtFork
from cowscope.vm.rules import (
    PROTECTION_BITS,
    UNDECIDED,
    FrameFlag,
    MappingFlag,
    Outcome,
    classify_reads,
    classify_writes,
    refuse_guards,
)
from cowscope.vm.swap import swap_in

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

CHUNK = 1 << 16
_TIME_BITS = CHUNK.bit_length()

_COPIED_OR_REUSED = np.array([Outcome.COPIED, Outcome.REUSED], np.int8)
_FILLS = np.zeros(16, np.bool_)
_FILLS[[Outcome.COPIED, Outcome.ZERO_FILLED, Outcome.COPIED_FROM_FILE]] = True
_KEEPS = np.zeros(16, np.bool_)
_KEEPS[[Outcome.REUSED, Outcome.WRITE_TRACKED]] = True

_SHARED = int(MappingFlag.SHARED)
_FILE = int(MappingFlag.FILE)
_WRITE = int(MappingFlag.WRITE)
_HUGETLB = int(MappingFlag.HUGETLB)
_ANON_VMA = int(MappingFlag.ANON_VMA)
_OWN_FRAME = int(FrameFlag.ANON | FrameFlag.EXCLUSIVE)
_OWNED = np.uint64(OWNED)
# Plain integers: numpy asks an enum member for its array interface each time, which costs microseconds.
_NO_FAULT = int(Outcome.NO_FAULT)
_COPIED = int(Outcome.COPIED)
_REUSED = int(Outcome.REUSED)
_MAPPED = int(Outcome.MAPPED)
_SEGMENTATION_FAULT = int(Outcome.SEGMENTATION_FAULT)
_COPIED_FROM_FILE = int(Outcome.COPIED_FROM_FILE)
_BUS_ERROR = int(Outcome.BUS_ERROR)
_OUT_OF_MEMORY = int(Outcome.OUT_OF_MEMORY)


def write_faults(
    memory: Memory,
    spaces: Mapping[int, AddressSpace],
    ids: Counts,
    pages: Ints,
    decided: Outcomes | None = None,
) -> Outcomes:
    """Resolve write faults; see `Machine.write_faults`."""
    if len(pages) == 1:
        outcomes = _write_part(memory, spaces, ids, pages, decided)
        memory.work.faults[outcomes[0]] += 1
        return outcomes
    outcomes = np.empty(len(pages), np.int8)
    for part in _parts(memory, len(pages)):
        imposed = None if decided is None else decided[part]
        outcomes[part] = _write_part(memory, spaces, ids[part], pages[part], imposed)
    memory.work.faults += np.bincount(outcomes, minlength=16)
    return outcomes


def read_faults(memory: Memory, spaces: Mapping[int, AddressSpace], ids: Counts, pages: Ints) -> Outcomes:
    """Resolve read faults; see `Machine.read_faults`."""
    outcomes = np.empty(len(pages), np.int8)
    for part in _parts(memory, len(pages)):
        outcomes[part] = _read_part(memory, spaces, ids[part], pages[part])
    memory.work.faults += np.bincount(outcomes, minlength=16)
    return outcomes


def _parts(memory: Memory, count: int) -> Iterator[slice]:
    """Cut a batch so that temporaries stay small, and that memory cannot run out inside a part."""
    start = 0
    while start < count:
        size = min(count - start, CHUNK)
        most = memory.most_frames
        stop = start + max(1, memory.frames.room(size * most) // most)
        if memory.one_by_one:
            stop = start + 1
        yield slice(start, stop)
        start = stop


def _write_part(
    memory: Memory,
    spaces: Mapping[int, AddressSpace],
    ids: Counts,
    pages: Ints,
    decided: Outcomes | None,
) -> Outcomes:
    found = locate(memory, spaces, ids, pages, _WRITE)
    if memory.one_by_one and (huge_outcome := _huge_fault(found, _WRITE)) is not None:
        return np.array([huge_outcome], np.int8)
    returned = _swap_in(memory, found, _WRITE) if memory.swap_pages else None
    outcomes = classify_writes(found.flags, found.entries, memory.frames.flags[found.frames])
    if not memory.policy.marks_exclusive:
        outcomes[outcomes == _REUSED] = UNDECIDED
    _signals(memory, found, outcomes)
    _resolved_before(memory, found, outcomes)
    asked = (outcomes == UNDECIDED).nonzero()[0]
    if asked.size:
        outcomes[asked] = _decide(memory, found, asked, decided)
    if memory.frames.limit is not None:
        _refuse_at_limit(memory, found, outcomes)
    filled = _FILLS[outcomes].nonzero()[0]
    if filled.size:
        _fill(memory, found, filled)
    if filled.size < len(outcomes):
        _keep(memory, found, outcomes)
        mapped = (outcomes == _MAPPED).nonzero()[0]
        if mapped.size:
            _map_cached(memory, found, mapped, _OWNED)
    if returned is not None:
        outcomes[(returned == _MAPPED) & (outcomes == _NO_FAULT)] = _REUSED
        outcomes[returned == _OUT_OF_MEMORY] = _OUT_OF_MEMORY
    return found.in_order_given(outcomes)


def _load_translations(memory: Memory, found: Located, outcomes: Outcomes) -> None:
    """What a child got by fork is there, but its first touch has to load it."""
    unloaded = (outcomes == _NO_FAULT) & ((found.entries & np.uint64(USER)) == 0)
    memory.tables.entries[found.slots[unloaded]] |= np.uint64(USER | ACCESSED)
    outcomes[unloaded] = _MAPPED


def _read_part(memory: Memory, spaces: Mapping[int, AddressSpace], ids: Counts, pages: Ints) -> Outcomes:
    found = locate(memory, spaces, ids, pages, PROTECTION_BITS)
    if memory.one_by_one and (huge_outcome := _huge_fault(found, PROTECTION_BITS)) is not None:
        return np.array([huge_outcome], np.int8)
    returned = _swap_in(memory, found, PROTECTION_BITS) if memory.swap_pages else None
    outcomes = classify_reads(found.flags, found.entries)
    if memory.policy.at_fork is AtFork.SHARE_UNLOADED:
        _load_translations(memory, found, outcomes)
    _signals(memory, found, outcomes)
    if memory.cache.known:
        _map_around(found, outcomes)
    _resolved_before(memory, found, outcomes)
    if memory.frames.limit is not None:
        _refuse_at_limit(memory, found, outcomes)
    mapped = (outcomes == _MAPPED) & (found.entries == 0)
    if memory.cache.known:
        mapped &= memory.tables.entries[found.slots] == 0
    cached = (found.flags & (_SHARED | _FILE)) != 0
    memory.tables.entries[found.slots[mapped & ~cached]] = READ
    at = (mapped & cached).nonzero()[0]
    if at.size:
        _map_cached(memory, found, at, read_bits(found.flags[at]))
    if returned is not None:
        outcomes[returned != _NO_FAULT] = returned[returned != _NO_FAULT]
    return found.in_order_given(outcomes)


def _huge_fault(found: Located, needed: int) -> Outcome | None:
    """What huge pages make of the one fault of this part; None if it goes on as a fault on a single page."""
    ((space, _),) = found.groups
    flags = int(found.flags[0])
    if not flags & needed:
        return None
    page, write = int(found.pages[0]), needed == _WRITE
    if flags & _HUGETLB:
        outcome = before_access(space, page, flags, write=write)
    else:
        outcome = (before_write if write else before_read)(space, page, flags)
    found.slots = space.table.slots(found.pages)
    found.entries = space.memory.tables.entries[found.slots]
    found.frames = frames_of(found.entries)
    return outcome


def _swap_in(memory: Memory, found: Located, needed: int) -> Outcomes:
    """Bring back what is on swap, in the order given: MAPPED, OUT_OF_MEMORY, or NO_FAULT where nothing was.

    Pages that find no frame are taken out of the batch: they look as if nothing might access them.
    """
    returned = np.zeros(len(found.pages), np.int8)
    wanted = ((found.entries & np.uint64(SWAP)) != 0) & ((found.flags & needed) != 0)
    at = wanted.nonzero()[0]
    for each in at[np.argsort(at if found.time is None else found.time[at])].tolist():
        slot = int(found.slots[each])
        if memory.tables.entries[slot] & np.uint64(SWAP):
            came = swap_in(memory, slot, int(found.flags[each]))
            returned[each] = _MAPPED if came else _OUT_OF_MEMORY
            if not came:
                found.flags[each] = 0
    found.entries = memory.tables.entries[found.slots]
    found.frames = frames_of(found.entries)
    return returned


def _signals(memory: Memory, found: Located, outcomes: Outcomes) -> None:
    """Accesses to guard markers, and beyond the end of what backs a mapping."""
    if memory.guarded:
        refuse_guards(found.entries, outcomes)
    if memory.cache.known:
        at = _on_absent_file_pages(found, outcomes)
        for space, part in found.chosen(at):
            past = part[beyond_end(space, found.pages[part])]
            # The kernel prepares for a copy (`do_cow_fault`) before it finds out that there is nothing to copy.
            in_vain = past[outcomes[past] == _COPIED_FROM_FILE]
            if in_vain.size:
                space.mappings.note_anon_vma(found.pages[in_vain])
            outcomes[past] = _BUS_ERROR


def _on_absent_file_pages(found: Located, outcomes: Outcomes) -> Ints:
    backed = (found.flags & (_SHARED | _FILE)) != 0
    wanted = (outcomes == _MAPPED) | (outcomes == _COPIED_FROM_FILE)
    at: Ints = (backed & wanted & (found.entries == 0)).nonzero()[0]
    return at


def _map_around(found: Located, outcomes: Outcomes) -> None:
    """Reads of known objects, in the order given, since each may resolve those after it."""
    at = np.union1d(_on_absent_file_pages(found, outcomes), (outcomes == _BUS_ERROR).nonzero()[0])
    known = [
        (int(found.time[each]) if found.time is not None else each, each, space)
        for space, part in found.chosen(at)
        for each in part[space.of_known(found.pages[part])].tolist()
    ]
    for _, each, space in sorted(known, key=lambda item: item[0]):
        if space.memory.tables.entries[found.slots[each]]:
            outcomes[each] = _NO_FAULT
        elif not map_around(space, int(found.pages[each])):
            outcomes[each] = _OUT_OF_MEMORY


def _resolved_before(memory: Memory, found: Located, outcomes: Outcomes) -> None:
    if len(outcomes) > 1:
        again = ~memory.tables.first_of_each(found.slots)
        again &= (outcomes != _SEGMENTATION_FAULT) & (outcomes != _BUS_ERROR)
        outcomes[again] = _NO_FAULT


def _refuse_at_limit(memory: Memory, found: Located, outcomes: Outcomes) -> None:
    """Where frames are short a part is a single fault, and that one may need more than there are."""
    most = len(outcomes) * memory.most_frames
    if memory.frames.room(most) == most:
        return
    wants_frame = _FILLS[outcomes] | (outcomes == _MAPPED)
    for at in np.flatnonzero(wants_frame).tolist():
        needed = int(_FILLS[outcomes[at]])
        if outcomes[at] in (_MAPPED, _COPIED_FROM_FILE):
            needed += _fetches(memory, found, at, copies=bool(needed))
        if needed and memory.frames.room(needed) < needed:
            outcomes[at] = _OUT_OF_MEMORY


def _fetches(memory: Memory, found: Located, at: int, *, copies: bool) -> bool:
    """Whether the fault needs a page of the page cache that is not there yet."""
    if found.entries[at]:
        return False
    ((space, _),) = found.groups
    pages = found.pages[at : at + 1]
    objects, offsets = space.mappings.backing(pages)
    if objects[0] == 0 or (copies and int(objects[0]) not in memory.cache.known):
        return False
    return bool(memory.cache.peek(objects, offsets)[0] == 0)


def _decide(memory: Memory, found: Located, asked: Ints, decided: Outcomes | None) -> Outcomes:
    """COPIED or REUSED for the anonymous pages `asked`, which are not marked exclusive."""
    frames = found.frames[asked]
    time = asked if found.time is None else found.time[asked]
    imposed = None if decided is None else decided[time]
    leaves = None if imposed is None else imposed != _REUSED
    counts = memory.frames.map_counts[frames]
    if len(frames) > 1:
        counts = counts - _left_earlier(frames, time, leaves)
    reuse = memory.policy.reusable(memory.frames, frames, counts)
    if memory.folios and (folio := memory.folios.of(int(frames[0]))) is not None:
        reuse = np.array([memory.policy.folio_owners and memory.folios.reusable(folio)])
    if imposed is not None:
        open_ = imposed == UNDECIDED
        memory.overruled += int(np.count_nonzero(~open_ & (reuse != (imposed == _REUSED))))
        memory.spared += int(np.count_nonzero(~reuse & (imposed == _REUSED)))
        reuse = np.where(open_, reuse, imposed == _REUSED)
        memory.frames.mark(frames[reuse & (counts > 1)], FrameFlag.DISPUTED)
    if np.count_nonzero(reuse):
        memory.frames.mark(frames[reuse & (counts == 1)], FrameFlag.EXCLUSIVE)
    outcomes: Outcomes = _COPIED_OR_REUSED[reuse.view(np.int8)]
    return outcomes


def _left_earlier(frames: Ints, time: Ints, leaves: Bools | None) -> Counts:
    """How many faults of the batch, earlier than each, left the same frame.

    Frame and time in one integer, so that a plain sort (the fast kind) is a stable one.
    """
    keys = np.sort((frames << _TIME_BITS) | time)
    frame, when = keys >> _TIME_BITS, keys & ((1 << _TIME_BITS) - 1)
    left: Counts = np.ones(len(keys), np.int32)
    by_time: Counts = np.zeros(int(np.max(time)) + 1, np.int32)
    if leaves is not None:
        by_time[time] = leaves
        left = by_time[when]
    before = np.cumsum(left, dtype=np.int32) - left
    starts = (np.concatenate(([True], frame[1:] != frame[:-1]))).nonzero()[0]
    before -= np.repeat(before[starts], np.diff(starts, append=len(keys)))
    by_time[when] = before
    return by_time[time]


def _fill(memory: Memory, found: Located, at: Ints) -> None:
    """Give the pages of the faults `at` a frame of their own, with the contents they had."""
    old, slots = found.frames[at], found.slots[at]
    fresh = memory.frames.allocate(len(at), _OWN_FRAME)
    memory.tables.entries[slots] = entries_for(fresh, OWNED)
    if memory.frames.contents or memory.cache.known:
        memory.frames.copy_contents(_sources(memory, found, at), fresh)
    for space, part in found.chosen(at):
        memory.tlb.flush_each(space, int(np.count_nonzero(found.entries[part])))
        if not all_set(found.flags[part] & _ANON_VMA):
            space.mappings.note_anon_vma(found.pages[part])
    left = old if all_set(old) else old[old != 0]
    if left.size:
        if memory.folios:
            memory.folios.unmapped(found.groups[0][0].id, left)
        memory.frames.unmap(left)
        memory.folios.settle()


def _sources(memory: Memory, found: Located, at: Ints) -> Ints:
    """The frame whose contents each of the faults `at` copies: the page's own, or the page cache's."""
    sources = found.frames[at]
    if all_set(sources):
        return sources
    none = at[(found.entries[at] == 0) & ((found.flags[at] & _FILE) != 0)]
    for space, part in found.chosen(none):
        objects, offsets = space.mappings.backing(found.pages[part])
        if memory.cache.known:
            known = space.of_known(found.pages[part])
            memory.cache.fetch(objects[known], offsets[known])
        sources[at.searchsorted(part)] = memory.cache.peek(objects, offsets)
    return sources


def _keep(memory: Memory, found: Located, outcomes: Outcomes) -> None:
    at = _KEEPS[outcomes].nonzero()[0]
    if at.size:
        kept = without(found.entries[at], INHERITED) | (WRITABLE | DIRTY | ACCESSED | PRESENT | USER)
        memory.tables.entries[found.slots[at]] = kept


def _map_cached(memory: Memory, found: Located, at: Ints, bits: np.uint64 | Entries) -> None:
    frames = np.empty(len(at), np.int64)
    for space, part in found.chosen(at):
        place = slice(*at.searchsorted((part[0], part[-1] + 1)).tolist())
        frames[place] = memory.cache.fetch(*space.mappings.backing(found.pages[part]))
    memory.frames.map(frames)
    memory.tables.entries[found.slots[at]] = entries_for(frames, bits)
