"""The calls by bytes: split and merge as the kernel does, addresses, mremap, brk, stack, advice."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cowscope.errors import (
    AlreadyMapped,
    BadAddress,
    CallRefused,
    Forbidden,
    InvalidArgument,
    NoChild,
    NoMemory,
    NotRunning,
)
from cowscope.vm import Advice, BusError, Machine, Process, Protection, SegmentationFault
from cowscope.vm.laws import check

R, RW, NONE = Protection.READ, Protection.READ | Protection.WRITE, Protection.NONE
PAGE = 4096
AT = 0x10000000


@pytest.fixture
def process() -> Iterator[Process]:
    """A process; the laws hold after each test."""
    started = Machine().start()
    yield started
    check(started.machine)


def put(process: Process, first: int, n: int, protection: Protection = RW, **more: object) -> int:
    """Map `n` pages, `first` pages after AT."""
    return process.mmap(n * PAGE, protection, address=AT + first * PAGE, fixed=True, **more)  # type: ignore[arg-type]


def borders(process: Process) -> list[tuple[int, int]]:
    """Mappings as page ranges after AT."""
    return [((m.start - AT) // PAGE, (m.end - AT) // PAGE) for m in process.mappings()]


def codes(process: Process, page: int) -> tuple[int, int, int, int]:
    """Error code and signal code of a load and of a store that fail."""
    found = []
    for access in (lambda: process.load(AT + page * PAGE), lambda: process.store(AT + page * PAGE, b"x")):
        with pytest.raises((SegmentationFault, BusError)) as caught:
            access()
        found += [caught.value.error_code, caught.value.signal_code]
    return found[0], found[1], found[2], found[3]


# --- merging ---


def test_anonymous_neighbours_become_one(process: Process) -> None:
    put(process, 0, 2)
    put(process, 4, 2)
    put(process, 2, 2)
    assert borders(process) == [(0, 6)]


def test_mprotect_splits_and_its_undoing_merges(process: Process) -> None:
    put(process, 0, 6)
    process.mprotect(AT + 2 * PAGE, 2 * PAGE, R)
    assert borders(process) == [(0, 2), (2, 4), (4, 6)]
    process.mprotect(AT + 2 * PAGE, 2 * PAGE, RW)
    assert borders(process) == [(0, 6)]


def test_read_only_memory_that_was_writable_once_keeps_its_account(process: Process) -> None:
    """Written memory keeps VM_ACCOUNT when it turns read-only, so that it differs from memory that never had it."""
    put(process, 0, 2)
    process.store(AT, b"x")
    process.mprotect(AT, 2 * PAGE, R)
    put(process, 2, 2, R)
    assert borders(process) == [(0, 2), (2, 4)]


def test_never_written_read_only_memory_loses_its_account(process: Process) -> None:
    put(process, 0, 2)
    process.mprotect(AT, 2 * PAGE, R)
    put(process, 2, 2, R)
    assert borders(process) == [(0, 4)]


def test_memory_written_on_both_sides_of_a_gap_stays_apart(process: Process) -> None:
    """Each has an `anon_vma` of its own; what closes the gap joins the one before."""
    put(process, 0, 2)
    put(process, 4, 2)
    process.store(AT, b"x")
    process.store(AT + 4 * PAGE, b"x")
    put(process, 2, 2)
    assert borders(process) == [(0, 4), (4, 6)]


def test_a_neighbour_that_differs_in_protection_shares_its_anon_vma(process: Process) -> None:
    """So that both merge once their protection is equal."""
    put(process, 0, 4)
    process.mprotect(AT + 2 * PAGE, 2 * PAGE, RW | Protection.EXECUTE)
    process.store(AT, b"x")
    process.store(AT + 2 * PAGE, b"x")
    process.mprotect(AT + 2 * PAGE, 2 * PAGE, RW)
    assert borders(process) == [(0, 4)]


def test_a_childs_mapping_that_hangs_below_its_parents_does_not_merge(process: Process) -> None:
    put(process, 0, 2)
    process.store(AT, b"x")
    child = process.fork()
    put(child, 2, 2)
    put(process, 2, 2)
    assert borders(child) == [(0, 2), (2, 4)]
    assert borders(process) == [(0, 4)]


def test_the_same_protection_again_does_not_split(process: Process) -> None:
    put(process, 0, 4)
    process.mprotect(AT + PAGE, PAGE, RW)
    process.madvise(AT + PAGE, PAGE, Advice.DOFORK)
    assert borders(process) == [(0, 4)]


def test_shared_anonymous_mappings_are_objects_of_their_own(process: Process) -> None:
    put(process, 0, 2, shared=True)
    put(process, 2, 2, shared=True)
    assert borders(process) == [(0, 2), (2, 4)]


def test_parts_of_one_file_merge_where_they_continue(process: Process) -> None:
    file = process.machine.file(8 * PAGE)
    put(process, 0, 2, file=file)
    put(process, 2, 2, file=file, offset=2 * PAGE)
    put(process, 4, 2, file=file)
    assert borders(process) == [(0, 4), (4, 6)]


# --- addresses ---


def test_mappings_without_an_address_grow_downwards(process: Process) -> None:
    first = process.mmap(PAGE, RW)
    second = process.mmap(3 * PAGE, R)
    assert second == first - 3 * PAGE
    process.munmap(first, PAGE)
    assert process.mmap(PAGE, RW) == first, "the highest gap that is long enough"


def test_a_hint_is_taken_where_nothing_lies(process: Process) -> None:
    assert process.mmap(PAGE, RW, address=AT + 5) == AT
    assert process.mmap(PAGE, RW, address=AT) != AT


def test_huge_anonymous_memory_begins_at_a_huge_page(process: Process) -> None:
    assert process.mmap(2 << 20, RW) % (2 << 20) == 0


def test_no_replace_refuses_what_is_mapped(process: Process) -> None:
    put(process, 1, 1)
    with pytest.raises(AlreadyMapped, match="EEXIST"):
        put(process, 0, 4, replace=False)
    assert put(process, 2, 4, replace=False) == AT + 2 * PAGE


# --- mremap ---


def test_growth_in_place_and_shrinking(process: Process) -> None:
    put(process, 0, 2)
    process.store(AT, b"stays")
    assert process.mremap(AT, 2 * PAGE, 4 * PAGE) == AT
    process.store(AT + 3 * PAGE, b"new")
    assert process.mremap(AT, 4 * PAGE, PAGE) == AT
    assert (borders(process), process.load(AT, 5)) == ([(0, 1)], b"stays")


def test_growth_without_room_moves_or_is_refused(process: Process) -> None:
    put(process, 0, 2)
    put(process, 2, 1, R)
    process.store(AT + PAGE, b"moves")
    with pytest.raises(NoMemory):
        process.mremap(AT, 2 * PAGE, 4 * PAGE, may_move=False)
    to = process.mremap(AT, 2 * PAGE, 4 * PAGE)
    assert process.load(to + PAGE, 5) == b"moves"
    assert borders(process)[0] == (2, 3)


def test_shared_memory_survives_its_move(process: Process) -> None:
    put(process, 0, 2, shared=True)
    process.store(AT, b"object")
    process.mremap(AT, 2 * PAGE, 2 * PAGE, new_address=AT + 8 * PAGE)
    assert process.load(AT + 8 * PAGE, 6) == b"object"
    again = process.mremap(AT + 8 * PAGE, 0, 2 * PAGE)
    process.store(again + PAGE, b"twice")
    assert process.load(AT + 9 * PAGE, 5) == b"twice"


def test_memory_that_keeps_its_old_mapping_leaves_it_empty(process: Process) -> None:
    put(process, 0, 2)
    process.store(AT, b"goes")
    to = process.mremap(AT, 2 * PAGE, 2 * PAGE, keep_old=True)
    assert (process.load(to, 4), process.load(AT, 4)) == (b"goes", bytes(4))


def test_a_moved_half_still_shows_its_part_of_the_file(process: Process) -> None:
    file = process.machine.file(4 * PAGE)
    file.write(3 * PAGE, b"fourth")
    put(process, 0, 4, file=file)
    to = process.mremap(AT + 2 * PAGE, 2 * PAGE, 2 * PAGE, new_address=AT + 16 * PAGE)
    assert process.load(to + PAGE, 6) == b"fourth"
    assert borders(process) == [(0, 2), (16, 18)]


def test_a_move_to_a_given_place_takes_all_mappings_of_the_range(process: Process) -> None:
    """Linux 6.17: with the gap between them; but the range must begin with one."""
    put(process, 0, 2)
    put(process, 3, 1, R, shared=True)
    process.store(AT + PAGE, b"first")
    process.mremap(AT + PAGE, 3 * PAGE, 3 * PAGE, new_address=AT + 20 * PAGE)
    assert borders(process) == [(0, 1), (20, 21), (22, 23)]
    assert process.load(AT + 20 * PAGE, 5) == b"first"
    with pytest.raises(BadAddress):
        process.mremap(AT + 21 * PAGE, 2 * PAGE, 2 * PAGE, new_address=AT + 40 * PAGE)


def test_what_moves_merges_before_the_old_place_is_unmapped(process: Process) -> None:
    """Found on the live kernel: page 0, never written, shares the `anon_vma` of page 5 through page 4 for a moment."""
    put(process, 0, 6)
    process.store(AT, b"x")
    process.mremap(AT, PAGE, PAGE, new_address=AT + 4 * PAGE)
    put(process, 0, 4)
    process.mremap(AT + PAGE, PAGE, PAGE, new_address=AT + 4 * PAGE)
    process.load(AT)
    assert borders(process) == [(0, 1), (2, 6)]
    assert process.fork().pages(AT, PAGE).zero.all()


def test_a_shrinking_move_is_refused_before_it_unmaps_where_no_single_mapping_holds_the_rest(
    process: Process,
) -> None:
    """What is cut off may lie in other mappings, or nowhere."""
    put(process, 0, 2)
    put(process, 2, 2, R)
    with pytest.raises(BadAddress):
        process.mremap(AT + PAGE, 3 * PAGE, 2 * PAGE, new_address=AT + 20 * PAGE)
    assert borders(process) == [(0, 2), (2, 4)]
    process.mremap(AT + PAGE, 9 * PAGE, PAGE, new_address=AT + 20 * PAGE)
    assert borders(process) == [(0, 1), (20, 21)]


def test_shrinking_unmaps_whatever_lies_in_the_tail(process: Process) -> None:
    put(process, 0, 2)
    put(process, 2, 2, R)
    process.mremap(AT, 6 * PAGE, PAGE)
    assert borders(process) == [(0, 1)]


# --- heap and stack ---


def test_the_heap_grows_shrinks_and_forgets(process: Process) -> None:
    start = process.brk()
    process.brk(start + 3 * PAGE)
    process.brk(start + 5 * PAGE)
    process.store(start + 4 * PAGE, b"x")
    assert len(process.mappings()) == 1
    process.brk(start + PAGE)
    process.brk(start + 5 * PAGE)
    assert process.load(start + 4 * PAGE) == b"\0"
    assert process.brk(5) == start + 5 * PAGE, "an address below the heap only asks"


def test_the_heap_stops_at_a_mapping(process: Process) -> None:
    start = process.brk()
    process.mmap(PAGE, RW, address=start + 4 * PAGE, fixed=True)
    with pytest.raises(NoMemory):
        process.brk(start + 4 * PAGE)
    assert process.brk(start + 3 * PAGE) == start + 3 * PAGE


def test_the_stack_grows_by_a_touch_up_to_its_limit(process: Process) -> None:
    top = process.map_stack()
    process.store(top - (1 << 20), b"deep")
    assert process.mappings()[0].start == top - (1 << 20)
    with pytest.raises(SegmentationFault) as caught:
        process.load(top - (8 << 20) - 1)
    assert caught.value.signal_code == 1
    assert process.fork().load(top - (1 << 20) - PAGE) == b"\0", "a child's stack grows too"


# --- files ---


def test_reads_map_cached_neighbours_and_no_holes(process: Process) -> None:
    """The window is 16 pages from a multiple of 16, or from the mapping's start if that comes later."""
    file = process.machine.file(64 * PAGE)
    for page in (0, 3, 5, 16, 17, 20, 33):
        file.write(page * PAGE, b"x")
    put(process, 2, 60, file=file, offset=2 * PAGE)
    process.load(AT + 5 * PAGE)
    present = process.pages(AT, 64 * PAGE).present.nonzero()[0].tolist()
    assert present == [3, 5, 16, 17], "the window is 2 to 18"
    process.load(AT + 18 * PAGE)
    assert process.pages(AT, 64 * PAGE).present.nonzero()[0].tolist() == [3, 5, 16, 17, 18, 20]
    assert file.cached_pages == [0, 3, 5, 16, 17, 18, 20, 33], "a hole that is read is a page"


def test_a_write_to_a_private_hole_brings_it_into_the_cache(process: Process) -> None:
    file = process.machine.file(4 * PAGE)
    put(process, 0, 4, file=file)
    process.store(AT + PAGE, b"x")
    assert file.cached_pages == [1]
    assert process.pages(AT, 4 * PAGE).map_count.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(("tracked", "writable"), [(False, True), (True, False)])
def test_a_read_of_shared_memory_maps_it_writable_unless_writes_are_tracked(
    process: Process, tracked: bool, writable: bool
) -> None:
    file = process.machine.file(PAGE, tracked=tracked)
    put(process, 0, 1, shared=True, file=file)
    process.load(AT)
    assert bool(process.pages(AT, PAGE).writable[0]) is writable
    process.store(AT, b"x")
    file.flush()
    assert bool(process.pages(AT, PAGE).writable[0]) is writable
    assert file.read(0, 1) == b"x"


def test_a_page_beyond_the_end_is_a_bus_error(process: Process) -> None:
    file = process.machine.file(PAGE + 1)
    put(process, 0, 4, file=file)
    put(process, 8, 4, file=file, shared=True)
    assert codes(process, 2) == (4, 2, 6, 2)
    assert codes(process, 10) == (4, 2, 6, 2)
    process.store(AT + PAGE, b"the last page is there")


def test_truncation_takes_private_copies_too(process: Process) -> None:
    file = process.machine.file(2 * PAGE)
    file.write(PAGE, b"file")
    put(process, 0, 2, file=file)
    process.store(AT + PAGE, b"mine")
    file.truncate(PAGE)
    assert codes(process, 1)[:2] == (4, 2)
    file.truncate(2 * PAGE)
    assert process.load(AT + PAGE, 4) == bytes(4)


def test_the_tail_of_a_truncated_page_reads_as_zeros(process: Process) -> None:
    file = process.machine.file()
    file.write(0, b"long text")
    file.truncate(4)
    file.truncate(9)
    assert file.read(0, 9) == b"long\0\0\0\0\0"


def test_removed_pages_leave_private_copies_alone(process: Process) -> None:
    file = process.machine.file(2 * PAGE)
    file.write(0, b"file")
    put(process, 0, 1, file=file)
    put(process, 4, 1, file=file, shared=True)
    process.store(AT, b"mine")
    process.load(AT + 4 * PAGE)
    process.madvise(AT + 4 * PAGE, PAGE, Advice.REMOVE)
    assert (process.load(AT, 4), process.load(AT + 4 * PAGE, 4)) == (b"mine", bytes(4))


# --- guards, wipes, populate ---


def test_guards_end_every_access_and_survive_dontneed_and_fork(process: Process) -> None:
    put(process, 0, 3)
    process.store(AT + PAGE, b"gone")
    process.madvise(AT + PAGE, PAGE, Advice.GUARD_INSTALL)
    process.madvise(AT, 3 * PAGE, Advice.DONTNEED)
    assert codes(process, 1) == codes(process.fork(), 1) == (4, 1, 6, 1)
    process.madvise(AT, 3 * PAGE, Advice.GUARD_REMOVE)
    assert process.load(AT + PAGE, 4) == bytes(4)


def test_protection_is_looked_at_before_guards(process: Process) -> None:
    put(process, 0, 1)
    process.madvise(AT, PAGE, Advice.GUARD_INSTALL)
    process.mprotect(AT, PAGE, NONE)
    assert codes(process, 0) == (4, 2, 6, 2)


def test_guards_make_fork_copy_shared_entries(process: Process) -> None:
    put(process, 0, 3, shared=True)
    process.store(AT, b"both")
    process.madvise(AT + PAGE, PAGE, Advice.GUARD_INSTALL)
    child = process.fork()
    assert child.pages(AT, PAGE).present.all()
    assert child.pages(AT, PAGE).writable.all()


def test_populate_stops_at_guards_gaps_and_protection(process: Process) -> None:
    put(process, 0, 4)
    process.madvise(AT + 2 * PAGE, PAGE, Advice.GUARD_INSTALL)
    with pytest.raises(BadAddress):
        process.madvise(AT, 4 * PAGE, Advice.POPULATE_WRITE)
    assert process.pages(AT, 4 * PAGE).writable.tolist() == [True, True, False, False]
    with pytest.raises(NoMemory):
        process.madvise(AT + 3 * PAGE, 2 * PAGE, Advice.POPULATE_READ)
    put(process, 8, 1, NONE)
    with pytest.raises(InvalidArgument):
        process.madvise(AT + 8 * PAGE, PAGE, Advice.POPULATE_READ)


def test_advice_skips_gaps_and_says_so(process: Process) -> None:
    put(process, 0, 1)
    put(process, 2, 1)
    for page in (0, 2):
        process.store(AT + page * PAGE, b"x")
    with pytest.raises(NoMemory):
        process.madvise(AT, 3 * PAGE, Advice.DONTNEED)
    assert not process.pages(AT, 3 * PAGE).present.any()


def test_only_private_anonymous_memory_is_wiped(process: Process) -> None:
    put(process, 0, 1, shared=True)
    with pytest.raises(InvalidArgument):
        process.madvise(AT, PAGE, Advice.WIPEONFORK)


def test_locked_memory_is_faulted_in_and_copied_at_once(process: Process) -> None:
    put(process, 0, 2)
    process.store(AT, b"x")
    process.fork()
    process.mlock(AT, 2 * PAGE)
    assert process.pages(AT, 2 * PAGE).writable.tolist() == [True, True]
    with pytest.raises(InvalidArgument):
        process.madvise(AT, PAGE, Advice.DONTNEED)


# --- processes ---


def test_a_vfork_child_lives_in_its_parent_who_waits(process: Process) -> None:
    put(process, 0, 1)
    child = process.vfork()
    child.store(AT, b"child")
    with pytest.raises(NotRunning, match="vfork"):
        process.load(AT)
    child.exec()
    assert process.load(AT, 5) == b"child"
    assert child.mappings() == []
    child.exit()
    assert process.wait(child.pid) == (child.pid, 0)


def test_zombies_wait_and_orphans_do_not(process: Process) -> None:
    child = process.fork()
    grandchild = child.fork()
    assert process.wait() is None
    child.exit(7)
    with pytest.raises(NotRunning):
        child.fork()
    assert process.wait() == (child.pid, 7)
    with pytest.raises(NoChild):
        process.wait()
    assert grandchild.parent is None
    grandchild.exit()
    assert list(process.machine.processes) == [process.pid]


def test_threads_end_with_their_process(process: Process) -> None:
    put(process, 0, 1)
    thread = process.thread()
    thread.store(AT, b"x")
    process.exec()
    with pytest.raises(NotRunning):
        thread.load(AT)


# --- refusals ---


def refusals(process: Process) -> list[tuple[type[CallRefused], object]]:
    """Every call with every kind of wrong argument: what it must raise, and the call."""
    file = process.machine.file(PAGE)
    big = 1 << 60
    p = process
    return [
        (InvalidArgument, lambda: p.mmap(0, RW)),
        (InvalidArgument, lambda: p.mmap(-1, RW)),
        (InvalidArgument, lambda: p.mmap(PAGE, 64)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, address=AT + 1, fixed=True)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, address=0, fixed=True)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, file=file, offset=7)),
        (NoMemory, lambda: p.mmap(big, RW)),
        (NoMemory, lambda: p.mmap(PAGE, RW, address=big, fixed=True)),
        (AlreadyMapped, lambda: p.mmap(PAGE, RW, address=AT, fixed=True, replace=False)),
        (Forbidden, lambda: p.mmap(PAGE, RW, shared=True, file=file, opened_for_writing=False)),
        (InvalidArgument, lambda: p.munmap(AT + 1, PAGE)),
        (InvalidArgument, lambda: p.munmap(AT, 0)),
        (InvalidArgument, lambda: p.munmap(AT, -PAGE)),
        (InvalidArgument, lambda: p.munmap(AT, big)),
        (InvalidArgument, lambda: p.munmap(-PAGE, PAGE)),
        (InvalidArgument, lambda: p.mprotect(AT + 1, PAGE, R)),
        (InvalidArgument, lambda: p.mprotect(AT, PAGE, 8)),
        (NoMemory, lambda: p.mprotect(AT - PAGE, PAGE, R)),
        (NoMemory, lambda: p.mprotect(AT, big, R)),
        (Forbidden, lambda: p.mprotect(AT + 16 * PAGE, PAGE, RW)),
        (InvalidArgument, lambda: p.mremap(AT + 1, PAGE, PAGE)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, 0)),
        (InvalidArgument, lambda: p.mremap(AT, 0, PAGE)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, 2 * PAGE, keep_old=True)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, PAGE, new_address=AT + 5)),
        (InvalidArgument, lambda: p.mremap(AT, 2 * PAGE, 2 * PAGE, new_address=AT + PAGE)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, PAGE, new_address=AT + PAGE, may_move=False)),
        (BadAddress, lambda: p.mremap(AT - PAGE, PAGE, PAGE)),
        (BadAddress, lambda: p.mremap(AT, 8 * PAGE, 9 * PAGE)),
        (NoMemory, lambda: p.mremap(AT, PAGE, 2 * PAGE, may_move=False)),
        (InvalidArgument, lambda: p.madvise(AT + 1, PAGE, Advice.DONTNEED)),
        (InvalidArgument, lambda: p.madvise(AT, PAGE, 77)),
        (InvalidArgument, lambda: p.madvise(AT + 16 * PAGE, PAGE, Advice.FREE)),
        (InvalidArgument, lambda: p.madvise(AT + 16 * PAGE, PAGE, Advice.WIPEONFORK)),
        (InvalidArgument, lambda: p.madvise(AT, PAGE, Advice.REMOVE)),
        (Forbidden, lambda: p.madvise(AT + 16 * PAGE, PAGE, Advice.REMOVE)),
        (NoMemory, lambda: p.madvise(AT - PAGE, PAGE, Advice.GUARD_INSTALL)),
        (NoMemory, lambda: p.mlock(AT - PAGE, PAGE)),
        (InvalidArgument, lambda: p.mlock(AT, big)),
        (NoMemory, lambda: p.brk(big)),
        (InvalidArgument, lambda: p.load(-1)),
        (InvalidArgument, lambda: p.load(AT, -1)),
        (InvalidArgument, lambda: p.store(-1, b"x")),
        (InvalidArgument, lambda: p.pages(AT + 1, PAGE)),
        (InvalidArgument, lambda: p.exit(-1)),
        (NoChild, lambda: p.wait()),
        (InvalidArgument, lambda: p.machine.file(-1)),
        (InvalidArgument, lambda: file.truncate(-1)),
        (InvalidArgument, lambda: file.write(-1, b"x")),
        (InvalidArgument, lambda: file.read(-1, 1)),
    ]


def test_every_refused_call_leaves_the_machine_as_it_was() -> None:
    process = Machine().start()
    put(process, 0, 2)
    put(process, 2, 2, R)
    process.store(AT, b"x")
    file = process.machine.file(PAGE)
    put(process, 16, 1, R, shared=True, file=file, opened_for_writing=False)
    for expected, call in refusals(process):
        before = (process.mappings(), process.space.present_pages().tolist(), process.brk())
        with pytest.raises(expected):
            call()  # type: ignore[operator]
        check(process.machine)
        assert (process.mappings(), process.space.present_pages().tolist(), process.brk()) == before


def test_every_call_of_a_process_that_ended_is_refused() -> None:
    machine = Machine()
    parent = machine.start()
    child = parent.fork()
    child.exit()
    calls = [call for expected, call in refusals(parent)]
    assert len(calls) > 40
    for call in (child.fork, child.vfork, child.exec, child.exit, child.wait, child.thread, child.mappings):
        with pytest.raises(NotRunning):
            call()
    for wrong in (
        lambda: child.mmap(PAGE, RW),
        lambda: child.munmap(AT, PAGE),
        lambda: child.brk(),
        lambda: child.load(AT),
    ):
        with pytest.raises(NotRunning):
            wrong()
    check(machine)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_limit": -1},
        {"swap_pages": -1},
        {"n_cpus": 0},
        {"folio_orders": [0]},
        {"folio_orders": [9]},
        {"hugetlb_pages": {3: 1}},
        {"hugetlb_pages": {512: -1}},
    ],
)
def test_a_machine_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        Machine(**wrong)  # type: ignore[arg-type]
