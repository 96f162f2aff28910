"""Shared hugetlb memory: pages and promises of an object, one for all."""

from __future__ import annotations

import pytest
from tests.vm.test_vm_hugetlb import PAGE, RW, SIZE, R, pool_of, started, write

from cowscope.errors import NoMemory
from cowscope.vm import Advice, BusError, Outcome, SegmentationFault
from cowscope.vm.hugetlb import HUGE
from cowscope.vm.laws import check


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
