"""hugetlb: reservations, whole copies, pages shared, pools that run dry; 2 MiB, and 1 GiB once."""

from __future__ import annotations

import pytest
from tests.vm.frozen import frozen

from cowscope.errors import InputOutputError, InvalidArgument, NoMemory
from cowscope.vm import (
    Advice,
    BusError,
    Machine,
    Outcome,
    Process,
    Protection,
    SegmentationFault,
    kernel_access,
)
from cowscope.vm.hugetlb import GIGANTIC, HUGE
from cowscope.vm.laws import check

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096
SIZE = HUGE * PAGE


def started(pages: int = 4, unit: int = HUGE) -> Process:
    """A process of a machine with a pool."""
    return Machine(hugetlb_pages={unit: pages}).start()


def write(process: Process, at: int) -> Outcome:
    """What one write comes to; the laws hold after it."""
    outcome = process.machine.write_faults([process.space.id], [at // PAGE])[0]
    check(process.machine)
    return Outcome(int(outcome))


def pool_of(process: Process) -> tuple[int, int]:
    """Free pages, and promised ones."""
    pool = process.machine.memory.pools[HUGE]
    return pool.free, pool.reserved


def test_mmap_promises_pages_and_munmap_gives_them_back() -> None:
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    assert at % SIZE == 0
    pool = process.machine.memory.pools[HUGE]
    process.store(at, b"x")
    assert (pool.free, pool.reserved) == (3, 1)
    with pytest.raises(NoMemory):
        process.mmap(3 * SIZE, RW, huge=HUGE)
    process.munmap(at, 2 * SIZE)
    check(process.machine)
    assert (pool.free, pool.reserved) == (4, 0)


def test_a_read_allocates_and_the_write_after_it_reuses() -> None:
    process = started()
    at = process.mmap(SIZE, RW, huge=HUGE)
    assert process.load(at) == b"\0"
    assert process.machine.memory.frames.in_use == 512
    assert write(process, at + 5 * PAGE) is Outcome.REUSED
    assert write(process, at) is Outcome.NO_FAULT


def test_a_whole_page_is_copied_and_the_last_one_reuses() -> None:
    process = started()
    at = process.mmap(SIZE, RW, huge=HUGE)
    process.store(at, b"both")
    process.store(at + SIZE - 4, b"ends")
    child = process.fork()
    check(process.machine)
    assert write(child, at) is Outcome.COPIED
    assert process.machine.memory.frames.in_use == 1024
    assert write(process, at) is Outcome.REUSED
    assert (child.load(at, 4), child.load(at + SIZE - 4, 4)) == (b"both", b"ends")


def test_a_pipes_reference_does_not_count() -> None:
    """So the pipe sees what is written later."""
    process = started()
    at = process.mmap(SIZE, RW, huge=HUGE)
    process.store(at, b"old")
    process.fork().exit()
    pipe = process.splice(at, PAGE)
    process.store(at, b"new")
    assert pipe.read(0, 3) == b"new"


@pytest.mark.parametrize("shared", [False, True])
def test_a_page_that_is_held_is_not_back_in_the_pool(shared: bool) -> None:
    """Until it is released; nobody else can have it meanwhile."""
    process = started(1)
    at = process.mmap(SIZE, RW, huge=HUGE, shared=shared)
    process.store(at, b"x")
    pipe = process.splice(at, PAGE)
    process.munmap(at, SIZE)
    check(process.machine)
    assert (pool_of(process), pipe.read(0, 1)) == ((0, 0), b"x")
    with pytest.raises(NoMemory):
        process.mmap(SIZE, RW, huge=HUGE)
    pipe.release()
    check(process.machine)
    assert pool_of(process) == (1, 0)


def test_a_child_without_a_page_to_copy_to_gets_a_bus_error() -> None:
    process = started(1)
    at = process.mmap(SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    child = process.fork()
    with pytest.raises(BusError):
        child.store(at, b"y")
    assert child.load(at) == b"x"


def test_the_owner_takes_the_page_from_its_children() -> None:
    process = started(1)
    at = process.mmap(SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    child = process.fork()
    assert write(process, at) is Outcome.REUSED
    with pytest.raises(BusError):
        child.load(at)
    process.exit()
    assert pool_of(child) == (1, 0)
    with pytest.raises(BusError):
        child.store(at, b"x")
    grandchild = child.fork()
    assert grandchild.load(at) == b"\0"


def test_without_a_promise_a_dry_pool_is_a_bus_error() -> None:
    process = started(1)
    at = process.mmap(2 * SIZE, RW, huge=HUGE, reserve=False)
    process.store(at, b"x")
    with pytest.raises(BusError) as caught:
        process.store(at + SIZE, b"x")
    assert caught.value.signal_code == 2
    check(process.machine)


def test_mprotect_never_gives_write_back_at_once() -> None:
    process = started()
    at = process.mmap(SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    process.mprotect(at, SIZE, R)
    process.mprotect(at, SIZE, RW)
    assert write(process, at) is Outcome.REUSED


def test_borders_lie_between_huge_pages() -> None:
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    for call in (
        lambda: process.munmap(at, PAGE),
        lambda: process.mprotect(at + PAGE, SIZE, R),
        lambda: process.mmap(PAGE, RW, address=at + PAGE, fixed=True),
        lambda: process.mmap(SIZE, RW, address=PAGE * 1024 + PAGE, fixed=True, huge=HUGE),
        lambda: process.mmap(SIZE, RW, huge=HUGE, file=process.machine.file(SIZE)),
    ):
        with pytest.raises(InvalidArgument):
            call()
        check(process.machine)
    with pytest.raises(NoMemory):
        process.mmap(SIZE, RW, huge=GIGANTIC)


def test_one_gigabyte_is_copied_whole_or_not_at_all() -> None:
    process = started(1, GIGANTIC)
    at = process.mmap(1 << 30, RW, huge=GIGANTIC)
    assert at % (1 << 30) == 0
    process.store(at + (1 << 29), b"middle")
    assert process.machine.memory.frames.in_use == GIGANTIC
    child = process.fork()
    with pytest.raises(BusError):
        child.store(at, b"y")
    child.exit()
    assert write(process, at) is Outcome.REUSED
    process.exit()
    check(process.machine)
    assert process.machine.memory.frames.in_use == 0


def test_advice_about_a_part_of_a_huge_page_is_rounded_or_refused() -> None:
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    process.store(at + SIZE, b"y")
    process.madvise(at, SIZE + PAGE, Advice.DONTNEED)
    assert (process.load(at), process.load(at + SIZE)) == (b"\0", b"y")
    for advice in (
        Advice.FREE,
        Advice.GUARD_INSTALL,
        Advice.WIPEONFORK,
        Advice.COLD,
        Advice.PAGEOUT,
    ):
        with pytest.raises(InvalidArgument):
            process.madvise(at, SIZE, advice)
    with pytest.raises(InvalidArgument):
        process.madvise(at + PAGE, SIZE, Advice.DONTNEED)
    check(process.machine)


def test_discarded_pages_are_promised_to_the_owner_again() -> None:
    """And to nobody while another maps them."""
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    process.madvise(at, 2 * SIZE, Advice.DONTNEED)
    assert pool_of(process) == (4, 2)
    check(process.machine)
    process.store(at, b"x")
    child = process.fork()
    child.madvise(at, SIZE, Advice.DONTNEED)
    check(process.machine)
    assert pool_of(process) == (3, 1)
    process.madvise(at, SIZE, Advice.DONTNEED)
    assert pool_of(process) == (4, 2)


def test_locking_does_not_mark_huge_pages() -> None:
    """So they can be discarded, and any part can be locked."""
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE, locked=True)
    assert pool_of(process) == (2, 0)
    process.mlock(at + PAGE, PAGE)
    process.madvise(at, SIZE, Advice.DONTNEED)
    process.munlock(at + PAGE, PAGE)
    check(process.machine)
    assert pool_of(process) == (3, 1)


def test_a_pinned_page_is_copied_whole_at_fork() -> None:
    """Pinned in any part; the parent's entry stays as it is, the child's is its own at once."""
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    process.store(at + SIZE, b"y")
    pin = process.pin(at + 5 * PAGE, PAGE)
    child = process.fork()
    check(process.machine)
    assert (pool_of(process), child.space.shared_at_fork) == ((1, 0), HUGE)
    assert write(process, at) is Outcome.NO_FAULT
    assert write(child, at + SIZE - PAGE) is Outcome.NO_FAULT
    assert write(child, at + SIZE) is Outcome.COPIED
    assert child.load(at, 1) == b"x"
    pin.release()
    third = process.fork()
    check(process.machine)
    assert third.space.shared_at_fork == 2 * HUGE


def test_fork_fails_when_there_is_no_page_to_copy_a_pinned_one_to() -> None:
    """Before anything has changed; promised pages do not count."""
    process = started(2)
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    process.store(at, b"x")
    process.pin(at, PAGE)
    before = frozen(process.machine)
    with pytest.raises(NoMemory):
        process.fork()
    assert frozen(process.machine) == before
    process.munmap(at + SIZE, SIZE)
    process.mprotect(at, SIZE, Protection.NONE)
    child = process.fork()
    check(process.machine)
    with pytest.raises(SegmentationFault):
        child.load(at)
    child.mprotect(at, SIZE, RW)
    assert (write(child, at), child.load(at, 1)) == (Outcome.REUSED, b"x")


def test_a_kernel_that_copies_at_fork_copies_whole_huge_pages() -> None:
    """Out of the pool."""
    process = Machine("eager", hugetlb_pages={HUGE: 2}).start()
    at = process.mmap(SIZE, RW, huge=HUGE)
    process.store(at + 7, b"x")
    child = process.fork()
    check(process.machine)
    assert pool_of(process) == (0, 0)
    assert (write(child, at), write(process, at), child.load(at + 7, 1)) == (
        Outcome.NO_FAULT,
        Outcome.NO_FAULT,
        b"x",
    )


@pytest.mark.parametrize("unit", [HUGE, GIGANTIC])
def test_unsharing_copies_whole_pages_and_leaves_them_read_only(unit: int) -> None:
    process = started(2, unit)
    at = process.mmap(unit * PAGE, RW, huge=unit)
    process.store(at, b"x")
    child = process.fork()
    assert kernel_access.read_pinned(child.space, at, 1) == b"x"
    check(process.machine)
    assert process.machine.memory.pools[unit].free == 0
    assert write(child, at + (unit - 1) * PAGE) is Outcome.REUSED
    assert write(process, at) is Outcome.REUSED


def test_a_debugger_writes_where_the_process_may_not() -> None:
    """A page of the process's own, all of it read-only; shared memory is refused."""
    process = started()
    at = process.mmap(SIZE, R, huge=HUGE)
    child = process.fork()
    assert kernel_access.write_forced(child.space, at + PAGE, b"x") == 1
    check(process.machine)
    assert child.load(at + PAGE, 1) == b"x"
    with pytest.raises(SegmentationFault):
        child.store(at, b"y")
    hidden = process.mmap(SIZE, Protection.NONE, huge=HUGE)
    assert kernel_access.read_forced(process.space, hidden, 1) == b"\0"
    check(process.machine)
    with pytest.raises(SegmentationFault):
        process.load(hidden + PAGE)
    shared = process.mmap(SIZE, R, huge=HUGE, shared=True)
    with pytest.raises(InputOutputError):
        kernel_access.write_forced(process.space, shared, b"x")
