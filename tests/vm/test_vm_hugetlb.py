"""hugetlb: reservations, whole copies, pages shared, pools that run dry; 2 MiB, and 1 GiB once."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from cowscope.errors import InvalidArgument, NoMemory, NotModelled
from cowscope.vm import Advice, BusError, Machine, Outcome, Process, Protection, SegmentationFault
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


def pool_of(process: Process) -> tuple[int, int]:
    """Free pages, and promised ones."""
    pool = process.machine.memory.pools[HUGE]
    return pool.free, pool.reserved


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


def test_shared_pages_are_one_for_all_and_writable_at_once() -> None:
    """A read maps for writing, a child has no entries and maps the same page."""
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE, shared=True)
    assert pool_of(process) == (4, 2)
    assert process.load(at) == b"\0"
    assert write(process, at + 5 * PAGE) is Outcome.NO_FAULT
    child = process.fork()
    assert child.space.present_pages().size == 0
    child.store(at + PAGE, b"both")
    assert process.load(at + PAGE, 4) == b"both"
    assert write(child, at + SIZE) is Outcome.MAPPED
    assert pool_of(process) == (2, 0)
    assert process.machine.memory.frames.in_use == 1024


def test_a_shared_object_keeps_its_pages_until_nothing_shows_it() -> None:
    """Whoever unmaps, discards or ends; then pool and promise are given back."""
    process = started()
    at = process.mmap(3 * SIZE, RW, huge=HUGE, shared=True)
    process.store(at, b"kept")
    process.madvise(at, SIZE, Advice.DONTNEED)
    check(process.machine)
    assert pool_of(process) == (3, 2)
    assert process.load(at, 4) == b"kept"
    child = process.fork()
    process.munmap(at, 2 * SIZE)
    process.exit()
    check(process.machine)
    assert pool_of(child) == (3, 2)
    assert child.load(at, 4) == b"kept"
    child.munmap(at, 2 * SIZE)
    check(child.machine)
    assert pool_of(child) == (3, 2)
    child.exec()
    check(child.machine)
    assert pool_of(child) == (4, 0)
    assert child.machine.memory.frames.in_use == 0


def test_a_shared_object_without_a_promise_may_find_the_pool_dry() -> None:
    process = started(2)
    promised = process.mmap(SIZE, RW, huge=HUGE, shared=True)
    with pytest.raises(NoMemory):
        process.mmap(2 * SIZE, RW, huge=HUGE, shared=True)
    at = process.mmap(2 * SIZE, RW, huge=HUGE, shared=True, reserve=False)
    process.store(at, b"x")
    with pytest.raises(BusError):
        process.load(at + SIZE)
    process.store(promised, b"y")
    check(process.machine)
    assert pool_of(process) == (0, 0)


def test_shared_pages_may_be_removed_whole_and_zeroed_in_part() -> None:
    """From the object, so from all; what is removed was promised once."""
    process = started(3)
    at = process.mmap(3 * SIZE, RW, huge=HUGE, shared=True)
    for page in range(2):
        process.store(at + page * SIZE, b"ab")
        process.store(at + page * SIZE + 4 * PAGE, b"cd")
    child = process.fork()
    child.madvise(at + 4 * PAGE, SIZE - 4 * PAGE + 2 * SIZE, Advice.REMOVE)
    check(process.machine)
    assert (process.load(at, 2), process.load(at + 4 * PAGE, 2)) == (b"ab", b"\0\0")
    assert pool_of(process) == (2, 1)
    assert process.load(at + SIZE, 2) == b"\0\0"
    assert pool_of(process) == (1, 1)
    child.madvise(at, PAGE, Advice.REMOVE)
    check(process.machine)
    assert process.load(at, 2) == b"\0\0"


def test_a_shared_page_that_is_read_only_is_writable_at_once_when_it_may() -> None:
    process = started()
    at = process.mmap(SIZE, R, huge=HUGE, shared=True)
    process.load(at)
    with pytest.raises(SegmentationFault):
        process.store(at, b"x")
    process.mprotect(at, SIZE, RW)
    assert write(process, at) is Outcome.NO_FAULT


def test_an_access_that_ends_in_a_signal_gives_its_shared_pages_back() -> None:
    """All of its bytes go, or none: the page it fetched before is promised again."""
    process = started()
    at = process.mmap(SIZE, RW, huge=HUGE, shared=True)
    with pytest.raises(SegmentationFault):
        process.store(at + SIZE - 2, b"four")
    check(process.machine)
    assert pool_of(process) == (4, 1)


@pytest.mark.parametrize("shared", [False, True])
def test_huge_pages_move_whole_and_shrink_with_their_promises(shared: bool) -> None:
    """Lengths are rounded up; a private tail gives its promise up, a shared object keeps it."""
    process = started()
    at = process.mmap(3 * SIZE, RW, huge=HUGE, shared=shared)
    process.store(at + 3, b"x")
    to = at + 8 * SIZE
    assert process.mremap(at, 3 * SIZE, 3 * SIZE - PAGE, new_address=to) == to
    check(process.machine)
    assert pool_of(process) == (3, 2)
    assert process.load(to + 3, 1) == b"x"
    assert write(process, to) is Outcome.NO_FAULT
    process.store(to + SIZE, b"y")
    assert pool_of(process) == (2, 1)
    process.mremap(to, 3 * SIZE, SIZE + PAGE)
    check(process.machine)
    assert pool_of(process) == (2, 1 if shared else 0)
    process.mremap(to + SIZE, PAGE, PAGE, new_address=at)
    check(process.machine)
    assert process.load(at, 1) == b"y"
    with pytest.raises(SegmentationFault):
        process.load(to + SIZE)
    process.exit()
    assert process.machine.memory.pools[HUGE].free == 4


def test_several_mappings_of_huge_pages_move_in_one_call() -> None:
    """Up to one that does not fit: those before have moved."""
    process = started()
    at = process.mmap(SIZE, RW, huge=HUGE, address=SIZE * 64, fixed=True)
    process.mmap(SIZE, RW, huge=HUGE, shared=True, address=at + 2 * SIZE, fixed=True)
    process.store(at + 2 * SIZE, b"b")
    process.mremap(at, 2 * SIZE + PAGE, 2 * SIZE + PAGE, new_address=at + 8 * SIZE)
    check(process.machine)
    assert process.load(at + 10 * SIZE, 1) == b"b"
    with pytest.raises(InvalidArgument):
        process.mremap(at + 8 * SIZE, 3 * SIZE, 3 * SIZE, new_address=at + PAGE)
    check(process.machine)


def test_the_rest_of_a_mapping_of_which_a_part_moved_is_nobodys() -> None:
    """What moved may take pages from children, and is promised what it discards; the rest is not."""
    process = started(3)
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    with pytest.raises(NotModelled):
        process.mremap(at, SIZE, SIZE, new_address=at + 8 * SIZE)
    check(process.machine)
    process.store(at, b"x")
    process.store(at + SIZE, b"y")
    process.mremap(at, SIZE, SIZE, new_address=at + 8 * SIZE)
    process.madvise(at + 8 * SIZE, SIZE, Advice.DONTNEED)
    assert pool_of(process) == (2, 1)
    process.madvise(at + SIZE, SIZE, Advice.DONTNEED)
    check(process.machine)
    assert pool_of(process) == (3, 1)


def test_huge_pages_that_cannot_move_so() -> None:
    """Nor can others be moved into their midst."""
    process = started()
    at = process.mmap(2 * SIZE, RW, huge=HUGE)
    shared = process.mmap(SIZE, RW, huge=HUGE, shared=True)
    small = process.mmap(2 * PAGE, RW)
    far = at + 64 * SIZE
    calls: tuple[Callable[[], object], ...] = (
        lambda: process.mremap(at, SIZE, SIZE, new_address=far + PAGE),
        lambda: process.mremap(at + PAGE, PAGE, PAGE, new_address=far),
        lambda: process.mremap(at, SIZE, 3 * SIZE),
        lambda: process.mremap(at, 2 * SIZE, 2 * SIZE, keep_old=True),
        lambda: process.mremap(shared, 0, SIZE),
        lambda: process.mremap(small, PAGE, PAGE, new_address=at + PAGE),
        lambda: process.mremap(small, 2 * PAGE, PAGE, new_address=at + SIZE),
    )
    for call in calls:
        with pytest.raises(InvalidArgument) as refusal:
            call()
        assert not isinstance(refusal.value, NotModelled)
        check(process.machine)
    assert process.mremap(at, 2 * SIZE - PAGE, 2 * SIZE) == at
