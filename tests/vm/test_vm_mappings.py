"""The calls by bytes: split and merge as the kernel does, addresses, mremap, heap and stack."""

from __future__ import annotations

import pytest
from tests.vm.mapped import AT, PAGE, RW, R, borders, put

from cowscope.errors import (
    AlreadyMapped,
    BadAddress,
    NoMemory,
)
from cowscope.vm import Advice, Process, Protection, SegmentationFault

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
