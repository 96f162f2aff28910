"""Mappings and address spaces: splits, adoption, protection, what ranges cost, processes."""

from __future__ import annotations

import numpy as np
import pytest

from cowscope.vm import (
    Allocated,
    Classified,
    Copied,
    Dropped,
    Event,
    Flushed,
    Kind,
    Machine,
    Mapped,
    Outcome,
    Resumed,
    SegmentationFault,
    Trapped,
    laws,
)

R, RW, NONE = 1, 3, 0
PAGE = 4096


def test_unmapping_the_middle_splits_a_mapping() -> None:
    space = Machine().spawn()
    space.map(10, 10, protection=RW, tag=5)
    space.unmap(13, 2)
    mappings = space.mappings
    assert mappings.start.tolist() == [10, 15]
    assert mappings.end.tolist() == [13, 20]
    assert mappings.tag.tolist() == [5, 5]
    assert mappings.lookup(np.array([9, 12, 13, 14, 15, 20])).tolist() == [-1, 0, -1, -1, 1, -1]


def test_a_fixed_mapping_replaces_what_lay_there() -> None:
    space = Machine().spawn()
    space.map(10, 10, protection=RW, tag=1)
    space.store(12 * PAGE, b"x")
    dropped = space.map(12, 3, protection=R, kind=Kind.FILE, tag=2)
    assert dropped == Dropped(entries=1, own=1)
    assert space.mappings.tag.tolist() == [1, 2, 1]
    assert space.mappings.kind.tolist() == [Kind.ANONYMOUS, Kind.FILE, Kind.ANONYMOUS]


def test_adopting_a_record_keeps_the_entries() -> None:
    """A merge and a loss of WRITE, as a recording reports them afterwards."""
    machine = Machine()
    space = machine.spawn()
    space.map(10, 5, protection=RW, tag=1)
    space.map(15, 5, protection=RW, tag=2)
    space.store(12 * PAGE, b"x")
    assert space.map(10, 10, protection=R, tag=3, keep_entries=True) == Dropped()
    assert space.mappings.tag.tolist() == [3]
    assert space.mappings.anon_vma.tolist() == [True]
    assert space.load(12 * PAGE, 1) == b"x"
    with pytest.raises(SegmentationFault):
        space.store(12 * PAGE, b"y")
    laws.check(machine)


def test_protection_comes_back_at_once_only_for_exclusive_pages() -> None:
    """R4.5: page 0 is exclusive, page 1 was shared by a fork although the child is gone."""
    machine = Machine()
    space = machine.spawn()
    space.map(0, 2, protection=RW)
    machine.write_faults([0, 0], [0, 1])
    machine.exit(machine.fork(0).id)
    machine.write_faults([0], [0])
    space.protect(0, 2, R)
    assert not space.page_states(np.array([0, 1])).writable.any()
    space.protect(0, 2, RW)
    assert space.page_states(np.array([0, 1])).writable.tolist() == [True, False]


def test_no_access_traps_though_the_entry_stays() -> None:
    space = Machine().spawn()
    space.map(0, 1, protection=RW)
    space.store(0, b"x")
    space.protect(0, 1, NONE)
    with pytest.raises(SegmentationFault) as caught:
        space.load(0, 1)
    assert caught.value.error_code == 4, "the hardware does not see the entry"
    assert space.page_states(np.array([0])).present.all()
    space.protect(0, 1, RW)
    assert space.load(0, 1) == b"x"


def test_a_census_can_be_installed_where_nothing_may_be_accessed() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 4, protection=NONE)
    given = space.install(np.array([0, 0, 3, 9]), exclusive=True)
    assert given.tolist() == [True, False, True, False]
    laws.check(machine)


def test_a_store_over_two_pages_moves_no_byte_when_the_second_faults() -> None:
    space = Machine().spawn()
    space.map(0, 1, protection=RW)
    with pytest.raises(SegmentationFault) as caught:
        space.store(PAGE - 2, b"abcd")
    assert caught.value.address == PAGE
    assert space.load(PAGE - 2, 2) == b"\0\0"


@pytest.mark.parametrize(
    ("shared", "kind", "written", "copied"),
    [
        (False, Kind.ANONYMOUS, False, 0),
        (False, Kind.ANONYMOUS, True, 2),
        (False, Kind.FILE, False, 0),
        (False, Kind.FILE, True, 2),
        (True, Kind.ANONYMOUS, True, 0),
        (True, Kind.FILE, True, 0),
    ],
)
def test_fork_copies_entries_only_of_mappings_that_were_written(
    shared: bool, kind: Kind, written: bool, copied: int
) -> None:
    """R1.1: one write anywhere in a private mapping, and what was only read is copied with it."""
    machine = Machine()
    machine.spawn().map(0, 8, protection=RW, shared=shared, kind=kind)
    machine.read_faults([0], [0])
    if written:
        machine.write_faults([0], [5])
    child = machine.fork(0)
    assert child.present_pages().size == copied
    assert child.shared_at_fork == (1 if copied else 0)
    laws.check(machine)


def test_advice_keeps_the_parent_exclusive() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 3, protection=RW)
    machine.write_faults([0] * 3, range(3))
    space.advise(0, 1, dont_fork=True)
    space.advise(1, 1, wipe_on_fork=True)
    child = machine.fork(0)
    assert child.mappings.start.tolist() == [1, 2]
    assert child.present_pages().tolist() == [2]
    assert space.page_states(np.arange(3)).exclusive.tolist() == [True, True, False]


def test_exit_says_what_stood() -> None:
    """Of four inherited pages: one copied here, one left by the parent, two still shared."""
    machine = Machine()
    machine.spawn().map(0, 8, protection=RW)
    machine.write_faults([0] * 4, range(4))
    child = machine.fork(0)
    machine.write_faults([child.id, 0, child.id], [0, 1, 7])
    assert machine.exit(child.id) == Dropped(entries=5, inherited_shared=2, inherited_alone=1, own=2)
    assert child.id not in machine.spaces


def test_huge_ranges_cost_what_is_touched() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 1 << 35, protection=RW)
    space.store((1 << 47) - 1, b"x")
    assert machine.memory.tables.in_use == 1
    assert space.discard(0, 1 << 35).own == 1
    assert machine.memory.tables.in_use == machine.memory.frames.in_use == 0
    assert space.unmap(0, 1 << 35) == Dropped()


def test_children_one_after_another_use_the_same_tables() -> None:
    machine = Machine()
    machine.spawn().map(0, 1 << 12, protection=RW)
    machine.write_faults([0] * 8, np.arange(8) * 512)
    for _ in range(3):
        machine.exit(machine.fork(0).id)
    size = machine.memory.tables.entries.size
    for _ in range(50):
        machine.exit(machine.fork(0).id)
    assert machine.memory.tables.entries.size == size
    laws.check(machine)


def test_pages_of_one_group_share_one_frame() -> None:
    machine = Machine()
    for _ in range(3):
        machine.spawn().map(0, 4, protection=RW)
    assert machine.install_shared([0, 1, 2, 0, 0], [1, 1, 1, 2, 2], [9, 9, 9, 4, 4]) == 4
    states = [machine.spaces[i].page_states(np.array([1, 2])) for i in range(3)]
    assert [state.map_count.tolist() for state in states] == [[3, 1], [3, 0], [3, 0]]
    assert [bool(state.inherited[0]) for state in states] == [False, True, True]
    laws.check(machine)


def test_shared_memory_goes_with_its_last_mapping() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 4, protection=RW, shared=True)
    space.store(0, b"x")
    child = machine.fork(0)
    machine.exit(0)
    assert child.load(0, 1) == b"x"
    machine.exit(child.id)
    assert machine.memory.frames.in_use == 0
    laws.check(machine)


def test_both_halves_of_a_split_mapping_show_their_own_part_of_the_file() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 4, protection=RW, shared=True)
    space.store(3 * PAGE, b"x")
    space.unmap(1, 1)
    child = machine.fork(0)
    assert child.load(3 * PAGE, 1) == b"x"


def test_a_file_outlives_the_records_that_replace_each_other() -> None:
    """And goes with the last of them."""
    machine = Machine()
    space = machine.spawn()
    space.map(0, 4, protection=RW, shared=True)
    space.store(0, b"x")
    space.map(0, 4, protection=R, shared=True, keep_entries=True)
    assert space.load(0, 1) == b"x"
    space.unmap(0, 4)
    assert machine.memory.frames.in_use == 0


def test_a_frame_that_a_batch_leaves_twice_is_freed_once() -> None:
    """One space may map a frame at two places, as after an attach to a tree that shares memory so."""
    machine = Machine()
    space = machine.spawn()
    space.map(0, 4, protection=RW)
    machine.install_shared([0, 0], [0, 2], [5, 5])
    assert space.zap(np.arange(4)).own == 1
    assert machine.memory.frames.in_use == 0
    laws.check(machine)


def test_only_anonymous_entries_count_as_inherited() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 3, protection=RW, kind=Kind.FILE)
    machine.read_faults([0], [0])
    machine.write_faults([0], [1])
    child = machine.fork(0)
    assert child.page_states(np.arange(3)).inherited.tolist() == [False, True, False]


def test_listeners_hear_each_step_of_a_copy() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 1, protection=RW)
    space.store(0, b"x")
    child = machine.fork(0)
    heard: list[Event] = []
    machine.listen(heard.append)
    child.store(3, b"y")
    assert [type(event) for event in heard] == [
        Trapped,
        Classified,
        Allocated,
        Copied,
        Mapped,
        Flushed,
        Resumed,
    ]
    assert heard[:2] == [Trapped(child.id, 3, 7), Classified(Outcome.COPIED)]


def test_a_broken_law_names_the_values() -> None:
    machine = Machine()
    machine.spawn().map(0, 1, protection=RW)
    machine.write_faults([0], [0])
    machine.memory.frames.map_counts[1] = 2
    with pytest.raises(AssertionError, match=r"isolation .*\[0, 0, 1, 3\]"):
        laws.check(machine)
