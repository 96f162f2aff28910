"""Guards, wipes, populated and locked memory."""

from __future__ import annotations

import pytest
from tests.vm.mapped import AT, NONE, PAGE, codes, put

from cowscope.errors import (
    BadAddress,
    InvalidArgument,
    NoMemory,
)
from cowscope.vm import Advice, Process


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


def test_populating_for_reading_copies_nothing_and_for_writing_all_that_is_shared(process: Process) -> None:
    """R3.2: where there is no entry, and where one is not writable."""
    put(process, 0, 2)
    process.store(AT, b"x")
    process.fork()
    process.madvise(AT, 2 * PAGE, Advice.POPULATE_READ)
    states = process.pages(AT, 2 * PAGE)
    assert (states.map_count.tolist(), states.zero.tolist()) == ([2, 0], [False, True])
    process.madvise(AT, 2 * PAGE, Advice.POPULATE_WRITE)
    states = process.pages(AT, 2 * PAGE)
    assert (states.map_count.tolist(), states.writable.tolist()) == ([1, 1], [True, True])


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
