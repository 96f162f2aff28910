"""One test for each row of the tables at the head of `cowscope.vm.rules` and `processes`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.vm.scenes import (
    NONE,
    PAGE,
    RW,
    anonymous_untouched,
    entry,
    exclusive_but_read_only,
    file_page_read,
    file_untouched,
    left_by_the_child,
    machine_with,
    not_writable,
    nothing_mapped,
    read,
    shared_by_fork,
    shared_file_read,
    shared_untouched,
    write,
    written_already,
    zero_page_read,
)

from cowscope.errors import InvalidArgument
from cowscope.vm import Dropped, FrameFlag, Kind, Machine, MappingFlag, Outcome
from cowscope.vm.entry import ACCESSED, DIRTY, INHERITED, PRESENT, USER, WRITABLE
from cowscope.vm.laws import check
from cowscope.vm.rules import classify_writes

# --- what a write fault does ---


@pytest.mark.parametrize(
    ("scene", "outcome"),
    [
        (nothing_mapped, Outcome.SEGMENTATION_FAULT),
        (not_writable, Outcome.SEGMENTATION_FAULT),
        (written_already, Outcome.NO_FAULT),
        (shared_untouched, Outcome.MAPPED),
        (shared_file_read, Outcome.WRITE_TRACKED),
        (anonymous_untouched, Outcome.ZERO_FILLED),
        (file_untouched, Outcome.COPIED_FROM_FILE),
        (zero_page_read, Outcome.ZERO_FILLED),
        (file_page_read, Outcome.COPIED_FROM_FILE),
        (exclusive_but_read_only, Outcome.REUSED),
        (shared_by_fork, Outcome.COPIED),
        (left_by_the_child, Outcome.REUSED),
    ],
)
def test_each_row_of_the_write_table(scene: Callable[[], Machine], outcome: Outcome) -> None:
    """The outcome is the table's, and a second write finds nothing left to do (or is refused again)."""
    machine = scene()
    assert write(machine) is outcome
    refused = outcome is Outcome.SEGMENTATION_FAULT
    assert write(machine) is (outcome if refused else Outcome.NO_FAULT)


def test_every_state_has_a_row() -> None:
    """No combination of mapping, entry and frame bits is without an outcome, and only private anonymous
    frames are left to the policy."""
    for mapping in range(32):
        for bits in (0, PRESENT, PRESENT | WRITABLE):
            for frame in (
                FrameFlag.ANON,
                FrameFlag.ANON | FrameFlag.EXCLUSIVE,
                FrameFlag.FILE,
                FrameFlag.ZERO,
            ):
                found = int(
                    classify_writes(np.array([mapping]), np.array([bits], np.uint64), np.array([frame]))[0]
                )
                left_open = (mapping & MappingFlag.WRITE and not mapping & MappingFlag.SHARED) and (
                    bits == PRESENT and frame == FrameFlag.ANON
                )
                assert (found == -1) == bool(left_open)


@pytest.mark.parametrize(
    ("mapping", "outcome"),
    [
        ({"protection": NONE}, Outcome.SEGMENTATION_FAULT),
        ({}, Outcome.MAPPED),
        ({"shared": True}, Outcome.MAPPED),
        ({"kind": Kind.FILE, "file": 1}, Outcome.MAPPED),
    ],
)
def test_each_row_of_the_read_rules(mapping: dict[str, object], outcome: Outcome) -> None:
    """A first read maps what is there; a second one has nothing to do."""
    machine = machine_with(**mapping)
    assert read(machine) is outcome
    assert read(machine) is (outcome if outcome is Outcome.SEGMENTATION_FAULT else Outcome.NO_FAULT)


def test_a_read_of_untouched_private_memory_costs_no_frame() -> None:
    """It maps the zero page, which is counted nowhere."""
    machine = zero_page_read()
    states = machine.spaces[0].page_states(np.array([12]))
    assert (bool(states.zero[0]), bool(states.anon[0]), machine.memory.frames.in_use) == (True, False, 0)


# --- what fork does ---


def test_fork_copies_all_entries_of_a_mapping_that_was_ever_written() -> None:
    """Anonymous, zero page and page cache alike: the child finds them present."""
    machine = machine_with()
    write(machine, 12)
    read(machine, 13)
    child = machine.fork(0)
    assert child.present_pages().tolist() == [12, 13]
    assert child.shared_at_fork == 1


def test_fork_copies_no_entry_of_a_private_mapping_never_written() -> None:
    """It can be faulted in again from what backs it."""
    machine = machine_with()
    read(machine, 13)
    child = machine.fork(0)
    assert child.present_pages().tolist() == []
    assert len(child.mappings) == 1


def test_fork_copies_no_entry_of_a_shared_mapping_but_its_memory_is_one() -> None:
    """The child faults again, and finds the same bytes."""
    machine = machine_with(shared=True)
    machine.spaces[0].store(12 * PAGE, b"both")
    child = machine.fork(0)
    assert child.present_pages().tolist() == []
    assert child.load(12 * PAGE, 4) == b"both"
    child.store(12 * PAGE, b"BOTH")
    assert machine.spaces[0].load(12 * PAGE, 4) == b"BOTH"


def test_wipe_on_fork_gives_the_child_the_mapping_empty() -> None:
    """The parent stays exclusive: its next write takes no fault."""
    machine = written_already()
    machine.spaces[0].advise(10, 10, wipe_on_fork=True)
    child = machine.fork(0)
    assert child.load(12 * PAGE, 1) == b"\0"
    assert write(machine) is Outcome.NO_FAULT


def test_dont_fork_gives_the_child_no_mapping() -> None:
    """The parent stays exclusive here too."""
    machine = written_already()
    machine.spaces[0].advise(10, 10, dont_fork=True)
    machine.fork(0)
    assert write(machine, space=1) is Outcome.SEGMENTATION_FAULT
    assert write(machine) is Outcome.NO_FAULT


def test_advice_can_be_taken_back() -> None:
    """MADV_DOFORK undoes MADV_DONTFORK."""
    machine = written_already()
    machine.spaces[0].advise(10, 10, dont_fork=True)
    machine.spaces[0].advise(10, 10, dont_fork=False)
    assert machine.fork(0).shared_at_fork == 1


def test_the_bits_of_a_copied_entry() -> None:
    """W goes on both sides; the child's is not accessed, keeps dirty, and is marked inherited."""
    machine = shared_by_fork()
    assert entry(machine, space=0) == PRESENT | USER | ACCESSED | DIRTY
    assert entry(machine, space=1) == PRESENT | USER | DIRTY | INHERITED


def test_inherited_means_not_written_since_the_last_fork_into_this_process() -> None:
    """A write takes the mark away; a grandchild gets one of its own."""
    machine = shared_by_fork()
    write(machine, space=1)
    machine.fork(1)
    states = [machine.spaces[n].page_states(np.array([12])).inherited[0] for n in (0, 1, 2)]
    assert [bool(state) for state in states] == [False, False, True]


# --- ends ---


def test_exit_says_what_stood_there() -> None:
    """Inherited and still shared, inherited and alone, own, and all entries."""
    machine = machine_with()
    for page in (11, 12, 13):
        write(machine, page)
    child = machine.fork(0)
    write(machine, 11, space=0)  # the parent copies and leaves page 11 to the child alone
    write(machine, 13, space=1)  # the child has page 13 of its own now
    read(machine, 14, space=1)
    assert machine.exit(child.id) == Dropped(entries=4, inherited_shared=1, inherited_alone=1, own=1)
    check(machine)
    with pytest.raises(InvalidArgument):
        machine.write_faults([child.id], [12])


def test_exec_drops_everything_and_the_space_stays() -> None:
    """What it shared is left to the others."""
    machine = shared_by_fork()
    assert machine.exec(1).inherited == 1
    check(machine)
    assert len(machine.spaces[1].mappings) == 0
    assert write(machine, space=0) is Outcome.REUSED


def test_a_number_is_never_used_again() -> None:
    """A later process is another one."""
    machine = Machine()
    first = machine.spawn().id
    machine.exit(first)
    assert machine.spawn().id != first


# --- imposed outcomes ---


def test_an_imposed_copy_is_made_though_nobody_shares() -> None:
    """The kernel's word goes before the policy's, and is counted."""
    machine = left_by_the_child()
    assert write(machine, decided=Outcome.COPIED) is Outcome.COPIED
    memory = machine.memory
    assert (memory.overruled, memory.spared, memory.frames.in_use) == (1, 0, 1)


def test_an_imposed_reuse_of_a_shared_frame_makes_it_disputed() -> None:
    """Writable but not exclusive: the law of isolation is lifted for this frame alone."""
    machine = shared_by_fork()
    assert write(machine, decided=Outcome.REUSED) is Outcome.REUSED
    assert (machine.memory.overruled, machine.memory.spared) == (1, 1)
    states = machine.spaces[0].page_states(np.array([12]))
    assert (bool(states.writable[0]), bool(states.exclusive[0]), int(states.map_count[0])) == (True, False, 2)
    assert machine.memory.overruled == 1


def test_an_imposed_outcome_that_agrees_is_not_counted() -> None:
    """Overruled means disagreed."""
    machine = shared_by_fork()
    write(machine, decided=Outcome.COPIED)
    assert machine.memory.overruled == 0


def test_an_unknown_policy_is_an_error() -> None:
    """Names are looked up at once, not at the first fault."""
    with pytest.raises(InvalidArgument, match="windows"):
        Machine("windows")


# --- what is kept, and what is given back ---


def test_a_reused_page_counts_as_inherited_no_more() -> None:
    """The process has written it: it is its own, though no copy was made."""
    machine = shared_by_fork()
    machine.exit(0)
    assert write(machine, space=1) is Outcome.REUSED
    assert machine.exit(1) == Dropped(entries=1, own=1)


def test_shared_memory_without_a_name_goes_with_its_last_mapping() -> None:
    """Not before; a file's pages stay cached."""
    machine = machine_with(shared=True)
    machine.spaces[0].map(30, 1, protection=RW, shared=True, kind=Kind.FILE, file=1)
    write(machine, 12)
    write(machine, 30)
    machine.fork(0)
    machine.exit(0)
    assert machine.memory.frames.in_use == 2
    machine.spaces[1].unmap(10, 5)
    assert machine.memory.frames.in_use == 2, "part of the object is still mapped"
    machine.exit(1)
    check(machine)
    assert machine.memory.frames.in_use == 1
