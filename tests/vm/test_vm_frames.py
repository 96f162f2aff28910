"""References that are no mappings: holds and pins, swap, accesses by the kernel."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cowscope.errors import BadAddress, InputOutputError, NoMemory
from cowscope.vm import (
    Advice,
    Event,
    Machine,
    Outcome,
    OutOfMemory,
    Process,
    Protection,
    Trapped,
    kernel_access,
)
from cowscope.vm.laws import check

R, RW, NONE = Protection.READ, Protection.READ | Protection.WRITE, Protection.NONE
PAGE = 4096


@pytest.fixture
def process() -> Iterator[Process]:
    """A process of a machine with swap for 8 pages; the laws hold after each test."""
    started = Machine(swap_pages=8).start()
    yield started
    check(started.machine)


def written(process: Process, n: int = 2, **more: object) -> int:
    """The address of `n` written pages."""
    at = process.mmap(n * PAGE, RW, **more)  # type: ignore[arg-type]
    for page in range(n):
        process.store(at + page * PAGE, b"page")
    return at


def write(process: Process, at: int) -> Outcome:
    """What one write comes to."""
    outcome = process.machine.write_faults([process.space.id], [at // PAGE])[0]
    check(process.machine)
    return Outcome(int(outcome))


# --- holds and pins ---


def test_a_page_in_a_pipe_is_copied_though_nobody_else_maps_it(process: Process) -> None:
    """R2.3: and the pipe keeps what was there."""
    at = written(process)
    process.fork().exit()
    pipe = process.splice(at, PAGE)
    assert write(process, at) is Outcome.COPIED
    process.store(at, b"new!")
    assert pipe.read(0, 4) == b"page"
    pipe.release()
    assert write(process, at + PAGE) is Outcome.REUSED


def test_a_pinned_page_is_copied_at_fork(process: Process) -> None:
    """R1.3: parent and child can both write without a fault; the neighbour is shared as usual."""
    at = written(process)
    pin = process.pin(at, PAGE)
    child = process.fork()
    check(process.machine)
    assert [write(p, at) for p in (process, child)] == [Outcome.NO_FAULT] * 2
    assert child.load(at, 4) == b"page"
    assert child.space.shared_at_fork == 1
    assert write(child, at + PAGE) is Outcome.COPIED
    pin.release()
    assert process.fork().space.shared_at_fork == 2


def test_a_pinned_page_stays_its_owners_where_tables_are_shared() -> None:
    """The device and the process go on to see the same page."""
    process = Machine("on-demand-fork").start()
    at = written(process)
    pin = process.pin(at, PAGE)
    child = process.fork()
    process.store(at, b"mine")
    check(process.machine)
    assert (pin.read(0, 4), child.load(at, 4)) == (b"mine", b"page")
    pin.release()


def test_a_fork_without_frames_for_pinned_pages_is_undone(process: Process) -> None:
    at = written(process)
    shared = process.mmap(PAGE, RW, shared=True)
    process.store(shared, b"x")
    process.pin(at, 2 * PAGE)
    frames = process.machine.memory.frames
    frames.limit = frames.in_use + 1
    with pytest.raises(NoMemory):
        process.fork()
    check(process.machine)
    assert write(process, at) is Outcome.NO_FAULT
    process.munmap(shared, PAGE)
    assert process.fork().load(at, 4) == b"page", "the object's frame is free, and two suffice"


def test_a_pin_for_reading_unshares(process: Process) -> None:
    at = written(process)
    child = process.fork()
    child.pin(at, PAGE, write=False)
    states = child.pages(at, PAGE)
    assert (bool(states.exclusive[0]), bool(states.writable[0])) == (True, False)
    assert write(child, at) is Outcome.REUSED


def test_what_cannot_be_held_is_not(process: Process) -> None:
    at = written(process)
    with pytest.raises(BadAddress):
        process.pin(at, 3 * PAGE)
    assert not process.machine.memory.frames.pins


# --- swap ---


def test_an_exclusive_page_comes_back_writable_by_a_read(process: Process) -> None:
    at = written(process)
    process.madvise(at, 2 * PAGE, Advice.PAGEOUT)
    check(process.machine)
    assert process.machine.memory.frames.in_use == 0
    assert process.pages(at, 2 * PAGE).swapped.all()
    assert process.load(at, 4) == b"page"
    assert write(process, at) is Outcome.NO_FAULT
    assert write(process, at + PAGE) is Outcome.REUSED


def test_a_swapped_page_shared_by_fork_is_copied_while_the_other_may_still_want_it(process: Process) -> None:
    """The other then takes the original."""
    at = written(process)
    process.madvise(at, PAGE, Advice.PAGEOUT)
    child = process.fork()
    check(process.machine)
    assert write(child, at) is Outcome.COPIED
    assert write(process, at) is Outcome.REUSED
    assert process.load(at, 4) == child.load(at, 4) == b"page"


def test_both_sides_of_a_fork_may_read_a_swapped_page(process: Process) -> None:
    at = written(process)
    process.madvise(at, PAGE, Advice.PAGEOUT)
    child = process.fork()
    assert process.load(at, 4) == child.load(at, 4) == b"page"
    assert process.pages(at, PAGE).map_count.tolist() == [2]
    assert [write(p, at) for p in (process, child)] == [Outcome.COPIED, Outcome.REUSED]


def test_the_hardware_sees_no_swap_entry(process: Process) -> None:
    at = written(process)
    process.madvise(at, PAGE, Advice.PAGEOUT)
    events: list[Event] = []
    process.machine.listen(events.append)
    process.load(at)
    assert [event.error_code for event in events if isinstance(event, Trapped)] == [4]


def test_what_is_freed_lazily_leaves_swap_at_once(process: Process) -> None:
    at = written(process)
    process.madvise(at, PAGE, Advice.PAGEOUT)
    process.madvise(at, PAGE, Advice.FREE)
    assert process.machine.memory.frames.n_swapped == 0
    assert process.load(at, 4) == bytes(4)


def test_shared_pages_and_a_full_device_stay_in_memory(process: Process) -> None:
    at = written(process, 9)
    process.fork()
    process.madvise(at, 9 * PAGE, Advice.PAGEOUT)
    assert not process.pages(at, 9 * PAGE).swapped.any()
    fresh = written(process, 9)
    process.madvise(fresh, 9 * PAGE, Advice.PAGEOUT)
    assert process.pages(fresh, 9 * PAGE).swapped.sum() == 8


def test_pages_on_swap_go_with_their_mapping(process: Process) -> None:
    at = written(process)
    process.madvise(at, 2 * PAGE, Advice.PAGEOUT)
    process.munmap(at, 2 * PAGE)
    assert process.machine.memory.frames.n_swapped == 0


def test_no_frame_to_come_back_to(process: Process) -> None:
    at = written(process)
    process.madvise(at, PAGE, Advice.PAGEOUT)
    frames = process.machine.memory.frames
    frames.limit = frames.in_use
    for access in (lambda: process.load(at), lambda: process.store(at, b"x")):
        with pytest.raises(OutOfMemory):
            access()
        check(process.machine)
    process.munmap(at + PAGE, PAGE)
    assert process.load(at, 4) == b"page"


# --- the kernel's own accesses ---


def test_the_kernel_writes_for_a_process_with_its_own_error_codes(process: Process) -> None:
    """R7: 0x2 where nothing is, 0x3 where it is read-only."""
    at = written(process)
    process.fork()
    events: list[Event] = []
    process.machine.listen(events.append)
    assert kernel_access.copy_to_user(process.space, at, b"read") == 4
    process.madvise(at, PAGE, Advice.DONTNEED)
    kernel_access.copy_to_user(process.space, at, b"read")
    assert [event.error_code for event in events if isinstance(event, Trapped)] == [3, 2]


def test_what_the_kernel_cannot_write_ends_the_call_early(process: Process) -> None:
    at = written(process)
    process.mprotect(at + PAGE, PAGE, R)
    assert kernel_access.copy_to_user(process.space, at + PAGE - 2, b"abcd") == 2
    with pytest.raises(BadAddress):
        kernel_access.copy_to_user(process.space, at + PAGE, b"abcd")
    assert kernel_access.copy_from_user(process.space, at + 2 * PAGE - 1, 2) == b"\0"


@pytest.mark.parametrize("protection", [R, NONE])
def test_a_debugger_writes_private_memory_that_its_owner_may_not(
    process: Process, protection: Protection
) -> None:
    """The page is copied where shared, and stays read-only."""
    at = written(process)
    child = process.fork()
    child.mprotect(at, PAGE, protection)
    assert kernel_access.write_forced(child.space, at, b"poke") == 4
    check(process.machine)
    states = child.pages(at, PAGE)
    assert (bool(states.exclusive[0]), bool(states.writable[0])) == (True, False)
    assert kernel_access.read_forced(child.space, at, 4) == b"poke"
    assert process.load(at, 4) == b"page"
    frame = states.frame.tolist()
    kernel_access.write_forced(child.space, at, b"peek")
    assert child.pages(at, PAGE).frame.tolist() == frame, "exclusive already: no fault"


def test_a_debugger_may_not_write_shared_read_only_memory_nor_guards(process: Process) -> None:
    at = process.mmap(PAGE, R, shared=True)
    guarded = process.mmap(PAGE, RW)
    process.madvise(guarded, PAGE, Advice.GUARD_INSTALL)
    for where in (at, guarded, 0):
        with pytest.raises(InputOutputError):
            kernel_access.write_forced(process.space, where, b"x")


def test_reading_another_processs_memory_unshares_it(process: Process) -> None:
    """R2.5: by a copy if somebody shares it; zero pages and exclusive ones are left alone."""
    at = written(process)
    child = process.fork()
    assert kernel_access.read_pinned(child.space, at, 4) == b"page"
    check(process.machine)
    assert child.pages(at, PAGE).frame.tolist() != process.pages(at, PAGE).frame.tolist()
    assert kernel_access.read_pinned(process.space, at, 4) == b"page"
    assert [write(p, at) for p in (process, child)] == [Outcome.REUSED] * 2
    with pytest.raises(BadAddress):
        kernel_access.write_pinned(child.space, 0, b"x")
