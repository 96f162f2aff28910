"""mremap of hugetlb memory: whole pages, and what was promised goes along."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from tests.vm.test_vm_hugetlb import PAGE, RW, SIZE, pool_of, started, write

from cowscope.errors import InvalidArgument, NotModelled
from cowscope.vm import Advice, Outcome, SegmentationFault
from cowscope.vm.hugetlb import HUGE
from cowscope.vm.laws import check


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
