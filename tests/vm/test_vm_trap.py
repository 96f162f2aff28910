"""Loads and stores: the literal trap, its events, its errors, and what memory's end undoes."""

from __future__ import annotations

import numpy as np
import pytest

from cowscope.vm import (
    Allocated,
    Classified,
    Copied,
    Event,
    Flushed,
    Kind,
    Machine,
    Mapped,
    Outcome,
    OutOfMemory,
    Protection,
    Resumed,
    SegmentationFault,
    Trapped,
)
from cowscope.vm.laws import check

RW = Protection.READ | Protection.WRITE
PAGE = 4096


def listening(machine: Machine) -> list[Event]:
    """The events of a machine, as they come."""
    events: list[Event] = []
    machine.listen(events.append)
    return events


def test_the_events_of_a_copy() -> None:
    """Trap, classify, allocate, copy, map writable, resume: in this order, with these values."""
    machine = Machine()
    machine.spawn().map(16, 1, protection=RW)
    machine.spaces[0].store(16 * PAGE, b"mine")
    child = machine.fork(0)
    events = listening(machine)
    child.store(16 * PAGE + 8, b"ours")
    assert events == [
        Trapped(space=1, address=16 * PAGE + 8, error_code=7),
        Classified(Outcome.COPIED),
        Allocated(2),
        Copied(source=1, target=2),
        Mapped(page=16, frame=2, writable=True),
        Flushed(page=16, shootdowns=0),
        Resumed(space=1, address=16 * PAGE + 8),
    ]


@pytest.mark.parametrize(("access", "error_code"), [("load", 4), ("store", 6)])
def test_the_error_code_of_a_missing_page(access: str, error_code: int) -> None:
    """Present is not set; write is, for a store; user always."""
    machine = Machine()
    space = machine.spawn()
    space.map(16, 1, protection=RW)
    events = listening(machine)
    if access == "load":
        space.load(16 * PAGE, 1)
    else:
        space.store(16 * PAGE, b"x")
    assert events[0] == Trapped(0, 16 * PAGE, error_code)


def test_a_second_access_does_not_trap() -> None:
    """Translation finds the entry."""
    machine = Machine()
    space = machine.spawn()
    space.map(16, 1, protection=RW)
    space.store(16 * PAGE, b"x")
    events = listening(machine)
    space.store(16 * PAGE, b"y")
    assert space.load(16 * PAGE, 1) == b"y"
    assert events == []


def test_an_access_over_several_pages_traps_on_each() -> None:
    """And moves the bytes over the border as if there were none."""
    machine = Machine()
    space = machine.spawn()
    space.map(511, 2, protection=RW)  # the border of two leaf tables
    events = listening(machine)
    space.store(512 * PAGE - 3, b"border")
    assert [event.address for event in events if isinstance(event, Trapped)] == [512 * PAGE - 3, 512 * PAGE]
    assert space.load(512 * PAGE - 3, 6) == b"border"
    assert space.load(512 * PAGE, 4) == b"der\0"


@pytest.mark.parametrize("protection", [Protection.READ, Protection.NONE])
def test_a_forbidden_store_raises_with_address_and_moves_nothing(protection: Protection) -> None:
    """Even the part that lies in an allowed page."""
    machine = Machine()
    space = machine.spawn()
    space.map(16, 1, protection=RW)
    space.map(17, 1, protection=protection)
    with pytest.raises(SegmentationFault, match="write to 0x11000") as caught:
        space.store(17 * PAGE - 2, b"half")
    assert caught.value.address == 17 * PAGE
    assert space.load(17 * PAGE - 2, 2) == bytes(2)
    check(machine)


def test_a_load_from_nowhere_raises() -> None:
    """No mapping holds the address; the handler says so before it raises."""
    machine = Machine()
    space = machine.spawn()
    events = listening(machine)
    with pytest.raises(SegmentationFault, match=r"read from 0x0 \(error code 0x4\)"):
        space.load(0, 1)
    assert events == [Trapped(0, 0, 4), Classified(Outcome.SEGMENTATION_FAULT)]


def test_a_store_beyond_the_frame_limit_changes_no_byte() -> None:
    """The copy that finds no frame leaves both sides as they were."""
    machine = Machine(frame_limit=1)
    space = machine.spawn()
    space.map(16, 2, protection=RW)
    space.store(16 * PAGE, b"mine")
    child = machine.fork(0)
    with pytest.raises(OutOfMemory):
        child.store(16 * PAGE, b"ours")
    check(machine)
    assert (space.load(16 * PAGE, 4), child.load(16 * PAGE, 4)) == (b"mine", b"mine")
    assert child.page_states(np.array([16])).map_count.tolist() == [2]
    machine.exit(0)
    child.store(16 * PAGE, b"ours")
    assert child.load(16 * PAGE, 4) == b"ours"


def test_a_batch_fills_the_frames_there_are_and_refuses_the_rest() -> None:
    """Cut by the limit, but in the order given; what an earlier fault leaves, a later one may take."""
    machine = Machine(frame_limit=3)
    machine.spawn().map(0, 10, protection=RW)
    outcomes = machine.write_faults([0] * 5, [4, 3, 2, 1, 4])
    assert [Outcome(int(o)).name for o in outcomes] == ["ZERO_FILLED"] * 3 + ["OUT_OF_MEMORY", "NO_FAULT"]
    check(machine)


def test_a_read_needs_no_frame_where_the_cache_has_the_page() -> None:
    """The zero page and cached pages are free; a page that the cache lacks is not."""
    machine = Machine(frame_limit=1)
    one, other = machine.spawn(), machine.spawn()
    for space in (one, other):
        space.map(0, 4, protection=RW, shared=True, kind=Kind.FILE, file=1)
        space.map(10, 4, protection=RW)
    outcomes = machine.read_faults([0, 1, 0, 1], [0, 0, 10, 1])
    assert [Outcome(int(o)).name for o in outcomes] == ["MAPPED", "MAPPED", "MAPPED", "OUT_OF_MEMORY"]
    check(machine)


def test_the_first_private_write_copies_what_the_file_holds() -> None:
    """And later writes to the file are not seen through the copy."""
    machine = Machine()
    writer, reader = machine.spawn(), machine.spawn()
    writer.map(0, 1, protection=RW, shared=True, kind=Kind.FILE, file=9)
    reader.map(50, 1, protection=RW, kind=Kind.FILE, file=9)
    writer.store(0, b"file")
    assert reader.load(50 * PAGE, 4) == b"file"
    reader.store(50 * PAGE, b"F")
    writer.store(0, b"FILE")
    assert reader.load(50 * PAGE, 4) == b"File"
