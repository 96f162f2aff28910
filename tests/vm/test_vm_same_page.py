"""KSM: which pages become one, which frame is kept, and what takes them apart again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from tests.vm.test_vm_frames import PAGE, RW, write, written

from cowscope.errors import NotModelled
from cowscope.vm import Advice, Machine, Outcome, Process
from cowscope.vm.laws import check


@pytest.fixture
def process() -> Iterator[Process]:
    """A process of a machine; the laws hold after each test."""
    started = Machine().start()
    yield started
    check(started.machine)


def test_equal_pages_become_one_and_every_write_copies(process: Process) -> None:
    """Even the last mapper's."""
    at = written(process, 3)
    process.store(at + 2 * PAGE, b"differs")
    process.madvise(at, 3 * PAGE, Advice.MERGEABLE)
    assert process.machine.merge_same_pages() == 1
    check(process.machine)
    assert process.pages(at, 3 * PAGE).map_count.tolist() == [2, 2, 1]
    assert [write(process, at), write(process, at + PAGE)] == [Outcome.COPIED] * 2
    assert process.load(at, 4) == process.load(at + PAGE, 4) == b"page"


def test_pages_are_taken_apart_when_the_mark_goes(process: Process) -> None:
    at = written(process, 2)
    process.madvise(at, 2 * PAGE, Advice.MERGEABLE)
    process.machine.merge_same_pages()
    process.madvise(at, 2 * PAGE, Advice.UNMERGEABLE)
    assert process.pages(at, 2 * PAGE).map_count.tolist() == [1, 1]
    assert [write(process, at), write(process, at + PAGE)] == [Outcome.REUSED] * 2


def test_the_second_of_equal_pages_is_kept_and_later_ones_join(process: Process) -> None:
    """By the order of the list, then of addresses; a child stands at the list's end."""
    other = process.machine.start()
    theirs, mine = written(other, 1), written(process, 1)
    process.madvise(mine, PAGE, Advice.MERGEABLE)
    other.madvise(theirs, PAGE, Advice.MERGEABLE)
    frames = [int(p.pages(at, PAGE).frame[0]) for p, at in ((process, mine), (other, theirs))]
    assert process.machine.merge_same_pages() == 1
    assert int(process.pages(mine, PAGE).frame[0]) == frames[1]
    third = process.fork()
    third.store(mine, b"else")
    process.machine.merge_same_pages()
    third.store(mine, b"page")
    assert process.machine.merge_same_pages() == 1
    check(process.machine)
    assert third.pages(mine, PAGE).map_count.tolist() == [3]


def test_a_page_shared_by_fork_is_merged_only_with_another_frame(process: Process) -> None:
    at = written(process, 2)
    process.store(at + PAGE, b"else")
    process.madvise(at, 2 * PAGE, Advice.MERGEABLE)
    child = process.fork()
    assert process.machine.merge_same_pages() == 0
    child.store(at + PAGE, b"page")
    kept = int(child.pages(at + PAGE, PAGE).frame[0])
    assert process.machine.merge_same_pages() == 1
    check(process.machine)
    assert child.pages(at, 2 * PAGE).frame.tolist() == [kept, kept]
    assert process.pages(at, PAGE).frame.tolist() == [kept]
    assert write(process, at) is Outcome.COPIED


def test_pages_that_are_held_are_not_merged(process: Process) -> None:
    """The first one would spoil it for all others."""
    at = written(process, 3)
    process.madvise(at, 3 * PAGE, Advice.MERGEABLE)
    pin = process.pin(at + PAGE, PAGE)
    assert process.machine.merge_same_pages() == 1
    check(process.machine)
    assert process.pages(at, 3 * PAGE).map_count.tolist() == [2, 1, 2]
    pin.release()
    assert process.machine.merge_same_pages() == 1
    process.store(at, b"last")
    process.store(at + PAGE, b"last")
    process.pin(at, PAGE)
    with pytest.raises(NotModelled):
        process.machine.merge_same_pages()
    check(process.machine)


def test_merged_pages_are_taken_apart_before_they_move(process: Process) -> None:
    """And pages of a mapping without the mark are left alone."""
    at = written(process, 2)
    process.madvise(at, 2 * PAGE, Advice.MERGEABLE)
    child = process.fork()
    child.madvise(at + PAGE, PAGE, Advice.UNMERGEABLE)
    process.machine.merge_same_pages()
    check(process.machine)
    assert process.pages(at, 2 * PAGE).map_count.tolist() == [4, 4]
    child.madvise(at + PAGE, PAGE, Advice.UNMERGEABLE)
    assert child.pages(at, 2 * PAGE).map_count.tolist() == [4, 4]
    to = process.mremap(at, 2 * PAGE, 2 * PAGE, new_address=at + 64 * PAGE)
    check(process.machine)
    assert process.pages(to, 2 * PAGE).map_count.tolist() == [1, 1]
    assert write(process, to) is Outcome.REUSED


def test_parts_of_large_folios_are_not_merged_here() -> None:
    process = Machine(huge_pages=True).start()
    at = process.mmap(1 << 22, RW)
    at += -at % (1 << 21)
    process.madvise(at, 1 << 21, Advice.HUGEPAGE)
    process.madvise(at, 1 << 21, Advice.MERGEABLE)
    process.store(at, b"x")
    with pytest.raises(NotModelled):
        process.machine.merge_same_pages()
    check(process.machine)


def test_merged_pages_are_shared_across_processes_and_by_fork(process: Process) -> None:
    at = written(process, 2)
    process.madvise(at, 2 * PAGE, Advice.MERGEABLE)
    process.machine.merge_same_pages()
    child = process.fork()
    assert child.pages(at, 2 * PAGE).map_count.tolist() == [4, 4]
    child.store(at, b"mine")
    assert process.load(at, 4) == b"page"
