"""Memory that runs out in the midst of an operation: the machine is as it was, or as the kernel leaves it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.vm.frozen import frozen

from cowscope.errors import BadAddress, NoMemory
from cowscope.vm import (
    POLICIES,
    Advice,
    BusError,
    Classified,
    Event,
    Machine,
    Outcome,
    OutOfMemory,
    Process,
    Protection,
    SegmentationFault,
    Trapped,
)
from cowscope.vm.laws import check

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096
AT = 0x40000000
N = 8


def forked(machine: Machine) -> Process:
    """A child that shares eight written pages with its parent."""
    parent = machine.start()
    parent.mmap(N * PAGE, RW, address=AT, fixed=True)
    parent.store(AT, b"x" * N * PAGE)
    return parent.fork()


def untouched(machine: Machine) -> Process:
    """Nothing was written yet."""
    process = machine.start()
    process.mmap(N * PAGE, RW, address=AT, fixed=True)
    return process


def on_swap(machine: Machine) -> Process:
    """All of it is on swap, and some came back."""
    process = untouched(machine)
    process.store(AT, b"x" * N * PAGE)
    process.madvise(AT, N * PAGE, Advice.PAGEOUT)
    process.load(AT, 2 * PAGE)
    return process.fork()


def of_a_file(machine: Machine) -> Process:
    """Holes of a file, mapped privately."""
    process = machine.start()
    process.mmap(N * PAGE, RW, file=machine.file(N * PAGE), address=AT, fixed=True)
    return process


def shared(machine: Machine) -> Process:
    """Shared memory that nobody touched."""
    process = machine.start()
    process.mmap(N * PAGE, RW, shared=True, address=AT, fixed=True)
    return process


def merged(machine: Machine) -> Process:
    """Eight equal pages that are one."""
    process = untouched(machine)
    process.store(AT, b"x" * N * PAGE)
    process.madvise(AT, N * PAGE, Advice.MERGEABLE)
    machine.merge_same_pages()
    return process


def huge(machine: Machine) -> Process:
    """A huge zero page, and memory behind it that has none."""
    process = machine.start()
    at = AT - (2 << 20) + 2 * PAGE
    process.mmap((2 << 20) + N * PAGE, RW, address=AT - (2 << 20), fixed=True)
    process.madvise(AT - (2 << 20), 2 << 20, Advice.HUGEPAGE)
    process.load(at)
    return process


SCENES = (forked, untouched, on_swap, of_a_file, shared, merged)
OPTIONS = {"swap_pages": N}


def short_of_frames(machine: Machine, left: int) -> None:
    machine.memory.frames.limit = machine.memory.frames.in_use + left


@pytest.mark.parametrize("policy", sorted(POLICIES))
@pytest.mark.parametrize("scene", SCENES)
@pytest.mark.parametrize("left", [0, 1, 3])
def test_a_store_over_many_pages_is_undone(
    scene: Callable[[Machine], Process], policy: str, left: int
) -> None:
    """Frames, entries, leaf tables, mappings' marks, counters: all as before; with enough frames it succeeds."""
    machine = Machine(policy, swap_pages=N)
    process = scene(machine)
    free = machine.memory.frames.limit
    short_of_frames(machine, left)
    before = frozen(machine)
    try:
        process.store(AT + 9, b"y" * (N * PAGE - 20))
    except OutOfMemory:
        check(machine)
        assert frozen(machine) == before
    else:
        assert policy == "eager"
    machine.memory.frames.limit = free
    process.store(AT + 9, b"y" * (N * PAGE - 20))
    check(machine)
    assert process.load(AT + 8, 2)[1:] == b"y"


@pytest.mark.parametrize("scene", SCENES)
def test_a_store_to_one_page_is_undone(scene: Callable[[Machine], Process]) -> None:
    """No leaf table is left that would hold nothing, and no page came back from swap in vain."""
    machine = Machine(swap_pages=N)
    process = scene(machine)
    short_of_frames(machine, 0)
    before = frozen(machine)
    with pytest.raises(OutOfMemory):
        process.store(AT + 4 * PAGE, b"y")
    check(machine)
    assert frozen(machine) == before


@pytest.mark.parametrize("scene", [of_a_file, shared, on_swap])
def test_a_load_over_many_pages_is_undone(scene: Callable[[Machine], Process]) -> None:
    machine = Machine(swap_pages=N)
    process = scene(machine)
    short_of_frames(machine, 2)
    before = frozen(machine)
    with pytest.raises(OutOfMemory):
        process.load(AT, N * PAGE)
    check(machine)
    assert frozen(machine) == before


@pytest.mark.parametrize("orders", [(), (2,), (1, 3)])
@pytest.mark.parametrize("which", ["folio_orders", "advised_orders"])
def test_large_folios_that_took_the_frames_give_them_back(which: str, orders: tuple[int, ...]) -> None:
    """The store fails behind them, and the huge zero page stays whole."""
    machine = Machine(huge_pages=True, **{which: orders})  # type: ignore[arg-type]
    process = huge(machine)
    for left in (0, 5, 515):
        short_of_frames(machine, left)
        before = frozen(machine)
        with pytest.raises(OutOfMemory):
            process.store(AT - PAGE, bytes(N * PAGE))
        check(machine)
        assert frozen(machine) == before


def test_a_stack_that_grew_in_vain_is_short_again() -> None:
    machine = Machine()
    process = machine.start()
    top = process.map_stack()
    short_of_frames(machine, 3)
    before = frozen(machine)
    with pytest.raises(OutOfMemory):
        process.store(top - 64 * PAGE, bytes(64 * PAGE))
    assert frozen(machine) == before


def test_who_listens_hears_the_trap_that_failed_and_none_that_was_undone() -> None:
    machine = Machine()
    process = untouched(machine)
    short_of_frames(machine, 3)
    events: list[Event] = []
    machine.listen(events.append)
    with pytest.raises(OutOfMemory):
        process.store(AT, bytes(N * PAGE))
    assert events == [Trapped(0, AT + 3 * PAGE, 6), Classified(Outcome.OUT_OF_MEMORY)]
    events.clear()
    short_of_frames(machine, 1)
    process.store(AT, bytes(PAGE))
    assert len(events) == 5, "Trapped to Resumed, as ever"


def gap(process: Process) -> None:
    process.munmap(AT + 3 * PAGE, PAGE)


def forbidden(process: Process) -> None:
    process.mprotect(AT + 3 * PAGE, PAGE, R)


def guarded(process: Process) -> None:
    process.madvise(AT + 3 * PAGE, PAGE, Advice.GUARD_INSTALL)


def beyond_the_end(process: Process) -> None:
    file = process.machine.file(PAGE)
    process.mmap(PAGE, RW, file=file, offset=PAGE, address=AT + 3 * PAGE, fixed=True)


@pytest.mark.parametrize("obstacle", [gap, forbidden, guarded, beyond_the_end])
@pytest.mark.parametrize("scene", SCENES)
def test_a_store_that_ends_in_a_signal_is_undone(
    scene: Callable[[Machine], Process], obstacle: Callable[[Process], None]
) -> None:
    """The pages before the one that it may not write are not even faulted in."""
    machine = Machine(swap_pages=N)
    process = scene(machine)
    obstacle(process)
    before = frozen(machine)
    with pytest.raises((SegmentationFault, BusError)) as caught:
        process.store(AT, bytes(N * PAGE))
    check(machine)
    assert caught.value.address == AT + 3 * PAGE
    assert frozen(machine) == before


def test_a_pool_that_runs_dry_on_the_way_gets_its_page_back() -> None:
    """The child copies the first huge page, and finds none for the second."""
    machine = Machine(hugetlb_pages={512: 2})
    process = machine.start()
    at = process.mmap(4 << 20, RW, huge=512, reserve=False)
    process.store(at, b"x")
    child = process.fork()
    before = frozen(machine)
    with pytest.raises(BusError):
        child.store(at + (2 << 20) - 1, b"two")
    check(machine)
    assert frozen(machine) == before


def test_an_access_that_never_ends_fails_at_the_first_page_that_is_missing() -> None:
    """Not after a look at each of the others."""
    process = untouched(Machine())
    with pytest.raises(SegmentationFault):
        process.load(AT, 1 << 60)
    assert not process.pages(AT, N * PAGE).present.any()


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_fork_without_frames_for_what_it_copies_is_undone(policy: str) -> None:
    machine = Machine(policy)
    process = untouched(machine)
    process.store(AT, b"x" * N * PAGE)
    process.mmap(2 << 20, RW, address=AT + (4 << 20), fixed=True)
    process.store(AT + (4 << 20), b"in a table of its own")
    pin = process.pin(AT, 4 * PAGE)
    short_of_frames(machine, 3)
    before = frozen(machine)
    if policy == "linux-mapcount":
        assert process.fork().load(AT) == b"x", "it copies no pinned page"
        return
    with pytest.raises(NoMemory):
        process.fork()
    check(machine)
    assert frozen(machine) == before
    pin.release()


# --- what the kernel leaves half done ---


def test_populated_memory_is_mapped_though_frames_run_out() -> None:
    """mmap does not tell, as in the kernel: who touches the rest will learn it."""
    machine = Machine(frame_limit=3)
    process = machine.start()
    at = process.mmap(N * PAGE, RW, populate=True)
    check(machine)
    assert process.pages(at, N * PAGE).present.tolist() == [True] * 3 + [False] * 5


def test_populating_stops_where_frames_run_out() -> None:
    """Also where a page behind needs none."""
    machine = Machine()
    process = untouched(machine)
    process.store(AT + 6 * PAGE, b"x")
    process.fork().exit()
    short_of_frames(machine, 3)
    with pytest.raises(NoMemory, match="no frame"):
        process.madvise(AT, N * PAGE, Advice.POPULATE_WRITE)
    check(machine)
    assert process.pages(AT, N * PAGE).writable.tolist() == [True] * 3 + [False] * 5


def test_locking_says_that_frames_ran_out_and_leaves_the_range_locked() -> None:
    machine = Machine(frame_limit=3)
    process = untouched(machine)
    with pytest.raises(NoMemory, match="no frame"):
        process.mlock(AT, N * PAGE)
    check(machine)
    assert process.pages(AT, N * PAGE).present.tolist() == [True] * 3 + [False] * 5
    with pytest.raises(Exception, match="locked"):
        process.madvise(AT, PAGE, Advice.DONTNEED)


def test_merged_pages_that_cannot_all_be_taken_apart_keep_their_mark() -> None:
    """Those that were taken apart stay so; the call ends, and can be made again."""
    machine = Machine()
    process = merged(machine)
    short_of_frames(machine, 2)
    with pytest.raises(NoMemory, match="no frame"):
        process.madvise(AT, N * PAGE, Advice.UNMERGEABLE)
    check(machine)
    assert process.pages(AT, N * PAGE).map_count.tolist() == [1, 1] + [6] * 6
    machine.memory.frames.limit = None
    process.madvise(AT, N * PAGE, Advice.UNMERGEABLE)
    assert process.pages(AT, N * PAGE).map_count.tolist() == [1] * N


def test_nothing_is_held_when_frames_run_out() -> None:
    machine = Machine(frame_limit=3)
    process = untouched(machine)
    with pytest.raises(BadAddress):
        process.pin(AT, N * PAGE)
    check(machine)
    assert not machine.memory.frames.holds


def test_a_file_is_written_as_a_whole_or_not() -> None:
    machine = Machine(frame_limit=3)
    file = machine.file(2 * PAGE)
    before = frozen(machine)
    with pytest.raises(NoMemory):
        file.write(PAGE, bytes(4 * PAGE))
    check(machine)
    assert frozen(machine) == before


def test_pages_that_come_back_and_are_copied_stay_within_the_limit() -> None:
    """Each takes two frames, and a batch counts with that."""
    machine = Machine(swap_pages=N)
    process = untouched(machine)
    process.store(AT, b"x" * N * PAGE)
    process.madvise(AT, N * PAGE, Advice.PAGEOUT)
    child = process.fork()
    machine.memory.frames.limit = 5
    machine.write_faults([child.space.id] * N, range(AT // PAGE, AT // PAGE + N))
    check(machine)
    assert machine.memory.frames.in_use <= 5


def test_hugetlb_pages_beyond_the_limit_leave_no_room() -> None:
    """They come from a pool of their own."""
    machine = Machine(frame_limit=4, hugetlb_pages={512: 1})
    process = untouched(machine)
    file = machine.file(N * PAGE)
    at = process.mmap(N * PAGE, RW, file=file)
    process.store(process.mmap(2 << 20, RW, huge=512), b"x")
    assert machine.memory.frames.room(1) == 0
    with pytest.raises(OutOfMemory):
        process.load(at)
