"""Laws catch what breaks them: each is broken by hand, and names the values."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cowscope.vm import FrameFlag, Machine, Protection
from cowscope.vm.entry import WRITABLE
from cowscope.vm.laws import check

RW = Protection.READ | Protection.WRITE
PAGE = 16


def two_that_share() -> Machine:
    """Frame 1 is mapped by spaces 0 and 1 at page 16; page 17 of space 0 names the zero page."""
    machine = Machine()
    machine.spawn().map(PAGE, 4, protection=RW)
    machine.spaces[0].store(PAGE * 4096, b"x")
    machine.fork(0)
    machine.read_faults([0], [PAGE + 1])
    check(machine)
    return machine


def slot(machine: Machine, page: int = PAGE, space: int = 0) -> int:
    """Where the page's entry stands."""
    return machine.spaces[space].table.slot(page)


def count_one_too_many(machine: Machine) -> None:
    """Map counts."""
    machine.memory.frames.map_counts[1] += 1


def count_the_zero_page(machine: Machine) -> None:
    """The zero page is never counted."""
    machine.memory.frames.map_counts[0] += 1


def mark_exclusive(machine: Machine) -> None:
    """An exclusive frame is mapped once."""
    machine.memory.frames.mark(np.array([1]), FrameFlag.EXCLUSIVE)


def make_writable(machine: Machine) -> None:
    """Isolation."""
    machine.memory.tables.entries[slot(machine)] |= np.uint64(WRITABLE)


def make_zero_page_writable(machine: Machine) -> None:
    """The zero page is never written."""
    machine.memory.tables.entries[slot(machine, PAGE + 1)] |= np.uint64(WRITABLE)


def forget_the_mapping(machine: Machine) -> None:
    """Coverage."""
    machine.spaces[1].mappings.remove(PAGE, PAGE + 4)


def forbid_by_mapping_alone(machine: Machine) -> None:
    """Coverage of the write bit."""
    machine.write_faults([0], [PAGE + 2])
    machine.spaces[0].mappings.update(PAGE, PAGE + 4, clear=2)


def free_a_frame_in_use(machine: Machine) -> None:
    """Conservation."""
    machine.memory.frames._free[0] = 1
    machine.memory.frames._n_free = 1


def reference_from_nowhere(machine: Machine) -> None:
    """References of the page cache."""
    machine.memory.frames.others[1] += 1


def bytes_without_the_mark(machine: Machine) -> None:
    """Contents are marked."""
    machine.memory.frames.flags[1] &= 255 - FrameFlag.WRITTEN


def entry_in_no_table(machine: Machine) -> None:
    """Unused tables are empty."""
    machine.memory.tables.entries[3] = 1


def two_spaces_one_table(machine: Machine) -> None:
    """A table belongs to one space."""
    machine.spaces[1].table.leaves = machine.spaces[0].table.leaves
    machine.memory.frames.map_counts[1] = 2


@pytest.mark.parametrize(
    ("breakage", "message"),
    [
        (count_one_too_many, r"map count \(frame, entries, count\): \[1, 2, 3\]"),
        (count_the_zero_page, r"map count .*: \[0, 0, 1\]"),
        (mark_exclusive, r"exclusive, yet shared \(frame, count\): \[1, 2\]"),
        (make_writable, r"isolation \(space, page, frame, flags\): \[0, 16, 1, \d+\]"),
        (make_zero_page_writable, r"writable zero page: \[0, 17, 0\]"),
        (forget_the_mapping, r"an entry outside of all mappings \(space, page, frame\): \[1, 16, 1\]"),
        (forbid_by_mapping_alone, r"writable, mapping is not: \[0, 18, \d+\]"),
        (free_a_frame_in_use, r"free iff unreferenced .*: \[1, 1\]"),
        (reference_from_nowhere, r"references that are not mappings \(frame\): \[1\]"),
        (bytes_without_the_mark, r"\(\[1\], \[\]\)"),
        (entry_in_no_table, "an entry in a table that no space uses"),
        (two_spaces_one_table, r"\(\{1: 2\}, \{\}\)"),
    ],
)
def test_a_broken_law_is_told_with_its_values(breakage: Callable[[Machine], None], message: str) -> None:
    """Before the breakage all laws hold, after it one is named."""
    machine = two_that_share()
    breakage(machine)
    with pytest.raises(AssertionError, match=message):
        check(machine)
