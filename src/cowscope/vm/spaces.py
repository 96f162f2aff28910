"""Address spaces (mm): mappings, a page table, and what a process does to its own memory.

| operation on a range | mappings | entries |
|---|---|---|
| map | a new one; what lay there goes | dropped |
| map, keep_entries | a new one; what lay there goes | kept, W as `protect` would leave it |
| unmap | split at the borders, gone inside | dropped |
| discard (MADV_DONTNEED) | stay, and keep `anon_vma` | dropped |
| move (mremap) | at the new place; what lay there goes | moved unchanged |
| protect | split where the protection differs | W cleared, or set at once where no copy can be due |

`protect`: without WRITE, W goes and the exclusive mark stays. With WRITE, W comes back at once for anonymous
exclusive pages and for shared memory (a shared file's page only if it is dirty already); all others trap
first. Under PROT_NONE entries stay, but every access traps.

All addresses are page numbers, except in `load` and `store`. A range costs what is touched in it. Neighbours
stay apart here, and nothing is refused: that is for the calls of a process (`cowscope.vm.calls`, `remap`, `advice`),
which are built on these operations. Who replays a recording uses them as they are.

Source: `mmap_region`, `zap_page_range_single`, `change_pte_range`, `can_change_pte_writable`, `expand_stack`.
Not modelled: userfaultfd, protection keys.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cowscope.vm import huge, hugetlb, installing, trap
from cowscope.vm.columns import Bools, Entries, Ints
from cowscope.vm.entry import (
    ACCESSED,
    DIRTY,
    GUARD,
    INHERITED,
    PRESENT,
    SWAP,
    USER,
    WRITABLE,
    frames_of,
    without,
)
from cowscope.vm.layout import Layout
from cowscope.vm.mappings import MappingRecord, Mappings
from cowscope.vm.memory import Memory
from cowscope.vm.policies import AtFork
from cowscope.vm.rules import PROTECTION_BITS, FrameFlag, Kind, MappingFlag, Protection
from cowscope.vm.states import Dropped, PageStates, Taken
from cowscope.vm.tables import END_OF_SPACE, LEAF_SHIFT, SparseTable

_WRITE = int(MappingFlag.WRITE)
_SHARED = int(MappingFlag.SHARED)
_FILE = int(MappingFlag.FILE)
_GROWS_DOWN = int(MappingFlag.GROWS_DOWN)
STACK_GAP = 256
"""Pages that a growing stack leaves free below it (`stack_guard_gap`)."""
_KEPT = int(
    MappingFlag.ANON_VMA
    | MappingFlag.FORK_CHILD
    | MappingFlag.MAYBE_GUARD
    | MappingFlag.DONT_FORK
    | MappingFlag.WIPE_ON_FORK
)
"""What a mapping keeps when its record is replaced."""


class AddressSpace:
    """One process's memory.

    >>> space = AddressSpace(Memory(), 0)
    >>> space.map(16, 4, protection=Protection.READ | Protection.WRITE)
    Dropped(entries=0, inherited_shared=0, inherited_alone=0, own=0)
    >>> space.store(16 * 4096 + 1, b"cow")
    >>> space.load(16 * 4096, 5)
    b'\\x00cow\\x00'
    >>> space.unmap(0, 1 << 35).own
    1
    """

    def __init__(self, memory: Memory, number: int) -> None:
        """Start empty, as space `number` of the machine that has `memory`."""
        self.id = number
        self.ids = np.array([number], np.int32)
        """The same as an array, for faults."""
        self.memory = memory
        self.mappings = Mappings()
        self.table = SparseTable(memory.tables)
        self.reserves: dict[int, int] = {}
        """hugetlb pages promised to this space and not touched yet: first page, and base pages in each."""
        self.ksm_turn: int | None = None
        """When ksmd comes to this space: by these numbers; None if it does not."""
        self.cpus = {0}
        """Processors that this space ran on."""
        self.has_stack = False
        """Whether a mapping may grow downwards, so that faults below it must be looked at."""
        self.layout = Layout.of(memory.architecture)
        self.brk = self.layout.heap_start
        """The end of the heap, in bytes."""
        self.shared_at_fork = 0
        """Anonymous pages that this space shared with its parent right after the fork that made it."""

    def load(self, address: int, count: int) -> bytes:
        """The `count` bytes at byte `address`; traps as often as it must.

        Raises `SegmentationFault`, `BusError` or `OutOfMemory`.
        """
        return trap.load(self, address, count)

    def store(self, address: int, data: bytes) -> None:
        """Write `data` at byte `address`; traps as often as it must.

        Raises `SegmentationFault`, `BusError` or `OutOfMemory`; then no byte of `data` was written.
        """
        trap.store(self, address, data)

    def map(
        self,
        start_page: int,
        n_pages: int,
        *,
        protection: Protection | int,
        shared: bool = False,
        kind: Kind = Kind.ANONYMOUS,
        tag: int = 0,
        file: int = 0,
        offset: int = 0,
        keep_entries: bool = False,
    ) -> Dropped:
        """Put a mapping there and say what that dropped (mmap with MAP_FIXED).

        `file` (1 and up) and `offset` (pages) name what backs it; with 0, memory or a file of its own.
        `tag` is the caller's, to know the mapping by. With `keep_entries` the mapping replaces records only,
        for callers who learn afterwards that borders or protection changed; entries are dropped only where
        private turned to shared or back. It keeps `anon_vma` and the advice of what lay there.
        """
        end = start_page + n_pages
        flags = int(protection) | _SHARED * shared | int(MappingFlag.FILE) * (kind == Kind.FILE)
        old = self.mappings.clipped(start_page, end)
        new = MappingRecord(start_page, end, flags, tag, file, offset)
        if keep_entries:
            return self._adopt(new, old)
        dropped = self.unmap(start_page, n_pages) if old else Dropped()
        object_, offset = self._backing(new, [])
        self.insert(replace(new, object=object_, offset=offset))
        return dropped

    def grow_stack(self, pages: Ints) -> bool:
        """Let the stacks above `pages`, where no mapping is, reach down to them; whether any did.

        A stack grows by a touch below it, up to the layout's limit, and keeps a distance to what it grows
        towards (`expand_stack`).
        """
        grown = False
        for page in np.unique(pages)[::-1].tolist():
            row = int(self.mappings.start.searchsorted(page, "right"))
            if row == len(self.mappings) or not self.mappings.flags[row] & _GROWS_DOWN:
                continue
            start, end = int(self.mappings.start[row]), int(self.mappings.end[row])
            shift = self.layout.page_shift
            floor = max(end - (self.layout.stack_limit >> shift), self.layout.lowest >> shift)
            if row and self.mappings.protection[row - 1] and not self.mappings.flags[row - 1] & _GROWS_DOWN:
                floor = max(floor, int(self.mappings.end[row - 1]) + STACK_GAP)
            if floor <= page < start:
                self.mappings.extend_down(row, page)
                grown = True
        return grown

    def insert(self, new: MappingRecord) -> None:
        """Add a mapping where none lies."""
        self.has_stack |= bool(new.flags & _GROWS_DOWN)
        if new.object:
            self.memory.cache.show(np.array([new.object]), np.array([new.end - new.start]))
        self.mappings.insert(new)

    def _adopt(self, new: MappingRecord, old: list[MappingRecord]) -> Dropped:
        alike = [record for record in old if (record.flags ^ new.flags) & _SHARED == 0]
        dropped = Dropped()
        for record in old:
            if record not in alike:
                dropped += self.discard(record.start, record.end - record.start)
        flags, anon_vma = new.flags, 0
        for record in alike:
            flags |= record.flags & _KEPT
            anon_vma = anon_vma or record.anon_vma
        object_, offset = self._backing(new, alike)
        self.insert(replace(new, flags=flags, object=object_, offset=offset, anon_vma=anon_vma))
        self._hide(old)
        self.reprotect(new.start, new.end, flags)
        return dropped

    def _backing(self, new: MappingRecord, known: list[MappingRecord]) -> tuple[int, int]:
        """What backs `new`, and from which page on: as it says, else what backs `known`, else a new object.

        A new object's pages have the numbers of the addresses, so that the mapping can grow both ways.
        """
        if not new.flags & (_SHARED | _FILE):
            return 0, new.start
        if new.object:
            return new.object, new.offset
        for record in known:
            offset = record.offset - record.start + new.start
            if record.object and offset >= 0:
                return record.object, offset
        return self.memory.cache.new_object(), new.start

    def _hide(self, gone: list[MappingRecord]) -> None:
        backed = [record for record in gone if record.object]
        if backed:
            objects = np.array([record.object for record in backed])
            self.memory.cache.hide(objects, np.array([record.end - record.start for record in backed]))

    def unmap(self, start_page: int, n_pages: int) -> Dropped:
        """Remove all mappings of the range (munmap) and say what that dropped."""
        end = start_page + n_pages
        old = self.mappings.clipped(start_page, end)
        dropped = self.discard(start_page, n_pages)
        if self.reserves:
            hugetlb.cancel(self, start_page, end)
        self.mappings.remove(start_page, end)
        self._hide(old)
        return dropped

    def discard(self, start_page: int, n_pages: int, *, keep_guards: bool = False) -> Dropped:
        """Drop the entries of the range and keep the mappings; says what that dropped.

        MADV_DONTNEED and truncation keep guard markers, whoever takes the mapping away does not.
        """
        _, slots = self.table.occupied(start_page, start_page + n_pages)
        if keep_guards:
            slots = slots[(self.memory.tables.entries[slots] & GUARD) == 0]
        dropped = self._drop(slots)
        if slots.size:
            self.table.prune(start_page, start_page + n_pages)
        return dropped

    def move(self, start_page: int, n_pages: int, to_page: int) -> Dropped:
        """Move mappings and entries of the range to `to_page` (mremap with MREMAP_FIXED); what lay there goes.

        Entries move unchanged, so sharing and write protection stay as they are (`move_page_tables`).
        Says what the place they went to dropped; the ranges must not overlap.
        """
        end, shift = start_page + n_pages, to_page - start_page
        dropped = self.unmap(to_page, n_pages)
        records = self.mappings.clipped(start_page, end)
        taken = self.take(start_page, end)
        self.mappings.remove(start_page, end)
        for record in records:
            self.mappings.insert(replace(record, start=record.start + shift, end=record.end + shift))
        self.give(shift, taken)
        return dropped

    def take(self, start: int, end: int) -> Taken:
        """Take the entries of the pages `start` to before `end` out of the table."""
        pages, slots = self.table.occupied(start, end)
        huge.before_change(self, slots)
        whole = huge.taken(self, slots)
        entries = self.memory.tables.entries[slots]
        self.memory.tables.entries[slots] = 0
        self.memory.tlb.flush(len(pages), n_cpus=len(self.cpus))
        if pages.size:
            self.table.prune(start, end)
        return Taken(pages, entries, whole)

    def give(self, shift: int, taken: Taken) -> None:
        """Put what `take` took `shift` pages further, where no entry is."""
        if taken.pages.size:
            slots = self.table.slots(taken.pages + shift, create=True)  # first: it may replace the pool
            self.memory.tables.entries[slots] = taken.entries
            huge.given(self, taken.huge_leaves, shift)

    def zap(self, pages: Ints) -> Dropped:
        """Drop the entries of `pages`, in any order, and keep the mappings; says what that dropped."""
        pages = np.unique(pages)
        slots = self.table.slots(pages)
        dropped = self._drop(slots[self.memory.tables.entries[slots] != 0])
        if dropped.entries:
            self.table.prune(int(pages[0]), int(pages[-1]) + 1)
        return dropped

    def _drop(self, slots: Ints) -> Dropped:
        if not slots.size:
            return Dropped()
        frames = self.memory.frames
        huge.before_change(self, slots)
        entries = self.memory.tables.entries[slots]
        numbers = frames_of(entries)
        if self.memory.folios or self.memory.tables.huge:
            huge.dropped(self, slots, numbers)
        inherited = (entries & INHERITED) != 0
        shared = inherited & (frames.map_counts[numbers] > 1)
        own = ((frames.flags[numbers] & int(FrameFlag.ANON)) != 0) & ~inherited
        n_inherited, n_shared = int(np.count_nonzero(inherited)), int(np.count_nonzero(shared))
        self.memory.tables.entries[slots] = 0
        if self.memory.swap_pages:
            swapped = (entries & SWAP) != 0
            frames.forget(numbers[swapped])
            numbers = numbers[~swapped]
        frames.unmap(numbers)
        self.memory.folios.settle()
        n_present = int(np.count_nonzero(entries & PRESENT))
        self.memory.tlb.flush(n_present, n_cpus=len(self.cpus))
        return Dropped(n_present, n_shared, n_inherited - n_shared, int(np.count_nonzero(own)))

    def protect(self, start_page: int, n_pages: int, protection: Protection | int) -> None:
        """Change what the range allows (mprotect); parts that no mapping holds are left out."""
        end = start_page + n_pages
        for old in self.mappings.clipped(start_page, end):
            flags = old.flags & ~PROTECTION_BITS | int(protection)
            if flags != old.flags:
                self.mappings.update(old.start, old.end, clear=PROTECTION_BITS, add=int(protection))
                self.reprotect(old.start, old.end, flags)

    def reprotect(self, start: int, end: int, flags: int) -> None:
        """Make the entries fit a mapping of `flags`, whose protection changed (`change_pte_range`)."""
        _, slots = self.table.occupied(start, end)
        slots = slots[(self.memory.tables.entries[slots] & PRESENT) != 0]
        if not slots.size:
            return
        huge.before_change(self, slots)
        entries = without(self.memory.tables.entries[slots], WRITABLE | USER)
        if flags & PROTECTION_BITS:
            entries |= np.uint64(USER)
        if flags & _WRITE:
            entries[self._writable_at_once(entries, flags)] |= np.uint64(WRITABLE)
        lost = self.memory.tables.entries[slots] & ~entries & np.uint64(WRITABLE | USER)
        self.memory.tlb.flush(int(np.count_nonzero(lost)), n_cpus=len(self.cpus))
        self.memory.tables.entries[slots] = entries

    def _writable_at_once(self, entries: Entries, flags: int) -> Bools:
        if flags & _SHARED:
            untracked = not flags & _FILE or bool(flags & int(MappingFlag.UNTRACKED))
            clean_too: Bools = ((entries & DIRTY) != 0) | untracked
            return clean_too
        if not self.memory.policy.marks_exclusive or flags & int(MappingFlag.HUGETLB):
            return np.zeros(len(entries), np.bool_)
        wanted = int(FrameFlag.ANON | FrameFlag.EXCLUSIVE)
        owned: Bools = (self.memory.frames.flags[frames_of(entries)] & wanted) == wanted
        return owned

    def advise(
        self,
        start_page: int,
        n_pages: int,
        *,
        dont_fork: bool | None = None,
        wipe_on_fork: bool | None = None,
    ) -> None:
        """Say what fork shall do with the range (MADV_DONTFORK, MADV_WIPEONFORK and their opposites)."""
        wanted = {MappingFlag.DONT_FORK: dont_fork, MappingFlag.WIPE_ON_FORK: wipe_on_fork}
        for flag, value in wanted.items():
            if value is not None:
                add = int(flag) if value else 0
                self.mappings.update(start_page, start_page + n_pages, clear=int(flag), add=add)

    def install(self, pages: Ints, *, exclusive: bool) -> Bools:
        """Give anonymous frames to `pages` that a census found present; True where one was given.

        A page that is present here already, that no private mapping holds, or that occurs before in `pages`
        is left as it is. `exclusive` pages are writable where their mapping is; others trap first.
        The frame limit does not hold here: the pages are there.
        """
        return installing.install(self, pages, exclusive=exclusive)

    def of_known(self, pages: Ints) -> Bools:
        """True where the length and the cached pages of what backs a page are known."""
        objects, _ = self.mappings.backing(pages)
        return np.isin(objects, list(self.memory.cache.known))

    def present_pages(self, start: int = 0, end: int = END_OF_SPACE) -> Ints:
        """The pages from `start` to before `end` that have an entry, ascending."""
        pages, slots = self.table.occupied(start, end, look=True)
        present: Ints = pages[(self.memory.tables.entries[slots] & PRESENT) != 0]
        return present

    def page_states(self, pages: Ints) -> PageStates:
        """The state of each of `pages`."""
        frames = self.memory.frames
        slots = self.table.slots(pages)
        entries = self.memory.tables.entries[slots]
        present = (entries & PRESENT) != 0
        if self.memory.policy.at_fork is AtFork.SHARE_UNLOADED:
            present &= (entries & USER) != 0  # the object knows the page, and no translation is loaded
        numbers = np.where(present, frames_of(entries), 0)
        flags = np.where(present, frames.flags[numbers], np.uint8(0))
        others = self._others_in_tables(slots)
        return PageStates(
            present=present,
            anon=(flags & int(FrameFlag.ANON)) != 0,
            zero=(flags & int(FrameFlag.ZERO)) != 0,
            exclusive=((flags & int(FrameFlag.EXCLUSIVE)) != 0) & (others == 0),
            writable=((entries & WRITABLE) != 0) & (others == 0),
            inherited=(entries & INHERITED) != 0,
            map_count=np.where(numbers > 0, frames.map_counts[numbers] + others, 0),
            guard=(entries & GUARD) != 0,
            swapped=(entries & SWAP) != 0,
            frame=numbers,
            large=huge.is_large(self.memory, slots, numbers),
            accessed=(entries & ACCESSED) != 0,
            dirty=(entries & DIRTY) != 0,
        )

    def _others_in_tables(self, slots: Ints) -> Ints:
        """How many other spaces have the leaf table of each slot in common with this one: none, but for on-demand fork.

        What stands in such a table may not be written through it, and is mapped once for each of them.
        """
        sharers = self.memory.tables.sharers
        if not sharers:
            return np.zeros(len(slots), np.int64)
        return np.array([sharers.get(row, 1) - 1 for row in (slots >> LEAF_SHIFT).tolist()], np.int64)

    def clear(self) -> Dropped:
        """Drop everything: what exit and exec do to an address space."""
        self.table.leave_shared()
        dropped = self.discard(0, END_OF_SPACE)
        hugetlb.cancel(self, 0, END_OF_SPACE)
        self.table.prune()
        self.memory.cache.hide(self.mappings.object, self.mappings.end - self.mappings.start)
        self.mappings = Mappings()
        self.ksm_turn = None
        if self.memory.policy.shadows:
            self.memory.shadows.leave(self.id)
        return dropped
