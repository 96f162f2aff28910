"""Large folios and huge pages: the rows of 5.1 and 5.2 of what was measured on the live kernel."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.errors import CowscopeError
from cowscope.vm import Advice, Machine, Outcome, Process, Protection, kernel_access
from cowscope.vm.laws import check

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096
HUGE = 2 << 20
AT = 0x40000000


def huge_process(n: int = 1, *, written: bool = True) -> Process:
    """A process with `n` huge pages' worth of memory at AT, marked HUGEPAGE."""
    process = Machine(huge_pages=True).start()
    process.mmap(n * HUGE, RW, address=AT, fixed=True)
    process.madvise(AT, n * HUGE, Advice.HUGEPAGE)
    if written:
        for number in range(n):
            process.store(AT + number * HUGE, b"huge")
    check(process.machine)
    return process


def folio_process(order: int = 2) -> Process:
    """A process with one written folio of `2**order` pages at AT."""
    process = Machine(folio_orders=[order]).start()
    process.mmap(PAGE << order, RW, address=AT, fixed=True)
    process.store(AT, b"x" * (PAGE << order))
    check(process.machine)
    return process


def write(process: Process, page: int) -> Outcome:
    """What one write comes to; the laws hold after it."""
    outcome = process.machine.write_faults([process.space.id], [AT // PAGE + page])[0]
    check(process.machine)
    return Outcome(int(outcome))


def rows(process: Process) -> int:
    """Huge rows in the machine."""
    check(process.machine)
    return len(process.machine.memory.tables.huge)


# --- 5.1: huge pages mapped by one entry ---


def test_a_first_write_maps_a_huge_page_where_it_fits() -> None:
    process = huge_process()
    assert (rows(process), process.machine.memory.frames.in_use) == (1, 512)
    assert write(process, 511) is Outcome.NO_FAULT


@pytest.mark.parametrize(
    "obstacle", ["not marked", "too short", "an entry there", "no frames", "no huge pages"]
)
def test_a_first_write_maps_one_page_where_a_huge_one_does_not_fit(obstacle: str) -> None:
    process = Machine(huge_pages=obstacle != "no huge pages").start()
    process.mmap(HUGE - PAGE * (obstacle == "too short"), RW, address=AT, fixed=True)
    if obstacle == "an entry there":
        process.store(AT + PAGE, b"x")
    if obstacle != "not marked":
        process.madvise(AT, PAGE, Advice.NOHUGEPAGE)
        process.madvise(AT, HUGE - PAGE * (obstacle == "too short"), Advice.HUGEPAGE)
    if obstacle == "no frames":
        process.machine.memory.frames.limit = 300
    process.store(AT, b"x")
    assert rows(process) == 0


def test_a_first_read_maps_the_huge_zero_page_and_prepares_the_mapping() -> None:
    """So that fork copies it, unlike single zero pages."""
    process = huge_process(written=False)
    assert process.load(AT) == b"\0"
    assert (rows(process), process.machine.memory.frames.in_use) == (1, 0)
    child = process.fork()
    assert child.pages(AT, HUGE).zero.all()
    assert write(child, 5) is Outcome.ZERO_FILLED
    assert (rows(child), child.machine.memory.frames.in_use) == (2, 512)


def test_without_frames_the_huge_zero_page_falls_apart() -> None:
    process = huge_process(written=False)
    process.load(AT)
    process.machine.memory.frames.limit = 10
    assert write(process, 5) is Outcome.ZERO_FILLED
    assert (rows(process), process.machine.memory.frames.in_use) == (0, 1)


def test_fork_shares_a_huge_page_and_a_write_splits_the_writers_side_alone() -> None:
    """2 MiB is never copied: one page is."""
    parent = huge_process()
    child = parent.fork()
    assert rows(parent) == 2
    assert parent.pages(AT, HUGE).map_count.tolist() == [2] * 512
    assert write(child, 5) is Outcome.COPIED
    assert (rows(parent), parent.machine.memory.frames.in_use) == (1, 513)
    assert write(parent, 5) is Outcome.COPIED, "though nobody else maps this page any more"
    assert (rows(parent), parent.machine.memory.frames.in_use) == (0, 514)
    assert parent.load(AT, 4) == child.load(AT, 4) == b"huge"


def test_the_last_one_that_maps_a_whole_huge_page_reuses_it_with_one_fault() -> None:
    parent = huge_process()
    parent.fork().exit()
    assert write(parent, 7) is Outcome.REUSED
    assert write(parent, 8) is Outcome.NO_FAULT
    assert rows(parent) == 1


def test_after_a_split_pages_are_reused_one_by_one() -> None:
    parent = huge_process()
    child = parent.fork()
    write(parent, 5)
    child.exit()
    assert [write(parent, page) for page in (6, 7)] == [Outcome.REUSED] * 2
    assert rows(parent) == 0


@pytest.mark.parametrize("operation", ["protect", "unmap", "discard"])
def test_a_change_of_a_part_splits_and_no_fault_is_due(operation: str) -> None:
    process = huge_process()
    if operation == "protect":
        process.mprotect(AT, PAGE, R)
    elif operation == "unmap":
        process.munmap(AT, PAGE)
    else:
        process.madvise(AT, PAGE, Advice.DONTNEED)
    assert rows(process) == 0
    assert write(process, 1) is Outcome.NO_FAULT
    assert process.machine.memory.frames.in_use == 512, "what is not mapped any more is dead weight"
    if operation == "discard":
        assert write(process, 0) is Outcome.ZERO_FILLED
        assert process.machine.memory.frames.in_use == 513


def test_a_huge_page_that_is_protected_whole_stays_one() -> None:
    process = huge_process()
    process.mprotect(AT, HUGE, R)
    process.mprotect(AT, HUGE, RW)
    assert rows(process) == 1
    assert write(process, 3) is Outcome.NO_FAULT


def test_a_range_that_is_discarded_whole_gets_a_huge_page_again() -> None:
    process = huge_process()
    process.madvise(AT, HUGE, Advice.DONTNEED)
    assert process.machine.memory.frames.in_use == 0
    assert write(process, 9) is Outcome.ZERO_FILLED
    assert rows(process) == 1


def test_a_pinned_huge_page_is_split_and_copied_at_fork() -> None:
    """R1.3: as 512 small pages for the child; the parent's stay writable."""
    parent = huge_process()
    parent.pin(AT + 3 * PAGE, PAGE)
    child = parent.fork()
    assert rows(parent) == 0
    assert parent.machine.memory.frames.in_use == 1024
    assert [write(process, 0) for process in (parent, child)] == [Outcome.NO_FAULT] * 2


def test_reading_it_from_outside_splits_and_copies_one_page() -> None:
    parent = huge_process()
    child = parent.fork()
    assert kernel_access.read_pinned(child.space, AT, 4) == b"huge"
    assert (rows(parent), parent.machine.memory.frames.in_use) == (1, 513)


def test_moved_and_exited_huge_pages_leave_nothing_behind() -> None:
    process = huge_process(2)
    child = process.fork()
    child.mremap(AT, HUGE, HUGE, new_address=AT + 8 * HUGE)
    check(process.machine)
    assert child.load(AT + 8 * HUGE, 4) == b"huge"
    child.exit()
    process.exit()
    check(process.machine)
    assert process.machine.memory.frames.in_use == 0


# --- 5.2: large folios mapped page by page ---


def test_a_first_write_maps_the_largest_order_that_fits() -> None:
    process = Machine(folio_orders=[2, 4]).start()
    process.mmap(24 * PAGE, RW, address=AT, fixed=True)
    for page, present in ((17, 4), (0, 20), (23, 24)):
        process.store(AT + page * PAGE, b"x")
        check(process.machine)
        assert process.pages(AT, 24 * PAGE).present.sum() == present


@pytest.mark.parametrize("first", ["child", "parent"])
def test_a_page_of_a_folio_is_copied_by_both_sides(first: str) -> None:
    """Unlike a small page, which the second one reuses."""
    parent = folio_process()
    child = parent.fork()
    order = (child, parent) if first == "child" else (parent, child)
    assert [write(process, 1) for process in order] == [Outcome.COPIED] * 2


def test_all_is_reused_once_one_side_has_copied_all() -> None:
    parent = folio_process()
    child = parent.fork()
    assert [write(child, page) for page in range(4)] == [Outcome.COPIED] * 4
    assert [write(parent, page) for page in range(4)] == [Outcome.REUSED] * 4


def test_all_is_reused_once_the_child_has_gone() -> None:
    parent = folio_process()
    parent.fork().exit()
    assert [write(parent, page) for page in range(4)] == [Outcome.REUSED] * 4


def test_the_last_entry_of_a_folio_is_copied() -> None:
    """Even by a sole owner: it frees the folio. Not if it is exclusive."""
    parent = folio_process()
    parent.fork().exit()
    parent.munmap(AT, 3 * PAGE)
    assert write(parent, 3) is Outcome.COPIED
    assert parent.machine.memory.frames.in_use == 1


def test_a_third_space_never_gets_a_slot() -> None:
    """A→C, A→D, C exits, A unmaps: D copies every page though it is alone."""
    a = folio_process()
    c, d = a.fork(), a.fork()
    c.exit()
    a.munmap(AT, 4 * PAGE)
    assert [write(d, page) for page in range(4)] == [Outcome.COPIED] * 4


def test_a_space_with_a_slot_reuses_what_the_others_left() -> None:
    a = folio_process()
    c, d = a.fork(), a.fork()
    d.exit()
    a.munmap(AT, 4 * PAGE)
    assert [write(c, page) for page in range(4)] == [Outcome.REUSED] * 4


def test_before_6_15_large_folios_were_always_copied() -> None:
    process = Machine("linux-aex", folio_orders=[2]).start()
    process.mmap(4 * PAGE, RW, address=AT, fixed=True)
    process.store(AT, b"x")
    process.fork().exit()
    assert write(process, 0) is Outcome.COPIED


def test_a_pin_on_one_page_copies_the_whole_folio_at_fork() -> None:
    process = folio_process()
    process.pin(AT, PAGE)
    child = process.fork()
    check(process.machine)
    assert process.machine.memory.frames.in_use == 8
    assert [write(child, page) for page in range(4)] == [Outcome.NO_FAULT] * 4


# --- all together ---

steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "fork",
                "store",
                "store",
                "store",
                "load",
                "exit",
                "discard",
                "protect",
                "allow",
                "unmap",
                "huge",
                "move",
            ]
        ),
        st.integers(0, 3),
        st.integers(0, 19),
        st.integers(1, 20),
    ),
    max_size=25,
)


def _run(machine: Machine, plan: list[tuple[str, int, int, int]]) -> list[bytes]:
    """What every process sees, whatever the size of the pages behind it; the laws hold after each step."""
    scale = HUGE // 16
    first = machine.start()
    first.mmap(20 * scale, RW, address=AT, fixed=True)
    first.madvise(AT, 20 * scale, Advice.HUGEPAGE)
    living, seen = [first], []
    for number, (step, who, place, length) in enumerate(plan):
        process = living[who % len(living)]
        at, size = AT + place * scale, min(length, 20 - place) * scale
        try:
            if step == "fork" and len(living) < 4:
                living.append(process.fork())
            elif step == "store":
                process.store(at, bytes([number + 1]))
            elif step == "load":
                seen.append(process.load(at))
            elif step == "exit" and len(living) > 1:
                living.remove(process)
                process.exit()
            elif step == "discard":
                process.madvise(at, size, Advice.DONTNEED)
            elif step == "unmap":
                process.munmap(at, size)
            elif step == "huge":
                process.madvise(at, size, Advice.HUGEPAGE if length % 2 else Advice.NOHUGEPAGE)
            elif step == "move":
                process.mremap(at, size, size, new_address=AT + 64 * scale)
            elif step in ("protect", "allow"):
                process.mprotect(at, size, R if step == "protect" else RW)
        except CowscopeError as refused:
            seen.append(type(refused).__name__.encode())
        check(machine)
    return seen


@settings(max_examples=60, deadline=None)
@given(plan=steps)
def test_bytes_do_not_depend_on_page_sizes(plan: list[tuple[str, int, int, int]]) -> None:
    expected = _run(Machine(), plan)
    assert _run(Machine(huge_pages=True), plan) == expected
    assert _run(Machine(folio_orders=[2, 4, 8]), plan) == expected
    assert _run(Machine("linux-refcount", huge_pages=True, folio_orders=[7]), plan) == expected


def test_batches_work_as_single_faults_do() -> None:
    process = huge_process(2, written=False)
    pages = np.arange(1024) + AT // PAGE
    outcomes = process.machine.write_faults(np.full(1024, process.space.id), pages).tolist()
    assert outcomes.count(Outcome.ZERO_FILLED) == 2
    assert rows(process) == 2


def test_a_border_of_a_mapping_splits_a_huge_page() -> None:
    """As the live kernel did: a child then gets the part that it may have, page by page."""
    process = huge_process()
    process.madvise(AT, 2 * PAGE, Advice.DONTFORK)
    assert rows(process) == 0
    child = process.fork()
    assert child.pages(AT + 2 * PAGE, HUGE - 2 * PAGE).present.all()
    assert write(process, 0) is Outcome.NO_FAULT


def test_freeing_a_part_lazily_breaks_the_folio_up() -> None:
    """As the live kernel did: pages that hold zeros become the zero page."""
    process = huge_process()
    process.store(AT + 5 * PAGE, b"kept")
    process.madvise(AT, PAGE, Advice.FREE)
    assert rows(process) == 0
    assert process.machine.memory.frames.in_use == 2
    assert not process.pages(AT, HUGE).large.any()
    assert process.pages(AT, HUGE).zero.sum() == 510
    assert (process.load(AT, 4), process.load(AT + 5 * PAGE, 4)) == (b"huge", b"kept")
    assert write(process, 5) is Outcome.NO_FAULT


def test_a_folio_that_a_child_maps_too_is_not_broken_up() -> None:
    process = huge_process()
    process.fork()
    process.madvise(AT, PAGE, Advice.FREE)
    assert process.pages(AT, HUGE).large.all()
    check(process.machine)


@pytest.mark.parametrize(("distance", "kept"), [(8 * HUGE, 1), (8 * HUGE + PAGE, 0)])
def test_a_huge_page_that_moves_by_whole_huge_pages_stays_one(distance: int, kept: int) -> None:
    process = huge_process()
    process.mremap(AT, HUGE, HUGE, new_address=AT + distance)
    assert rows(process) == kept
    assert process.load(AT + distance, 4) == b"huge"
    assert process.machine.memory.folios.every()[0].large_map_count == (1 if kept else 512)


def test_a_third_space_that_splits_its_huge_page_counts_from_then_on() -> None:
    """It had no slot while two others had; the huge entry that it had before is in no slot's count."""
    assert _run(Machine(huge_pages=True), THIRD_SPLITS) == _run(Machine(), THIRD_SPLITS)


THIRD_SPLITS = [
    ("store", 0, 0, 1),
    ("fork", 0, 0, 1),
    ("fork", 0, 0, 1),
    ("exit", 0, 0, 1),
    ("store", 1, 0, 1),
]
