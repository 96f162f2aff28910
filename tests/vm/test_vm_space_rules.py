"""One test for each row of the tables at the head of `cowscope.vm.spaces` and `installing`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from tests.vm.scenes import (
    NONE,
    PAGE,
    RW,
    R,
    entry,
    machine_with,
    read,
    shared_by_fork,
    shared_file_read,
    shared_untouched,
    write,
    written_already,
    zero_page_read,
)

from cowscope.vm import Dropped, Kind, Machine, Outcome
from cowscope.vm.entry import WRITABLE
from cowscope.vm.laws import check

# --- what a process does to its own memory ---


@pytest.mark.parametrize(
    ("scene", "writable"),
    [(written_already, True), (shared_by_fork, False), (zero_page_read, False), (shared_untouched, True)],
)
def test_protect_gives_write_back_only_where_no_copy_can_be_due(
    scene: Callable[[], Machine], writable: bool
) -> None:
    """Read-only and back: an exclusive page is writable at once, a shared one still traps."""
    machine = scene()
    space = machine.spaces[0]
    if not len(space.present_pages()):
        write(machine)
    space.protect(10, 10, R)
    check(machine)
    assert not entry(machine) & WRITABLE
    assert write(machine) is Outcome.SEGMENTATION_FAULT
    space.protect(10, 10, RW)
    check(machine)
    assert bool(entry(machine) & WRITABLE) is writable


def test_a_shared_file_page_gets_write_back_only_if_it_is_dirty() -> None:
    """A clean page must trap, so that its first write is noted."""
    machine = shared_file_read()
    write(machine, 13)
    for protection in (R, RW):
        machine.spaces[0].protect(10, 10, protection)
    assert not entry(machine, 12) & WRITABLE
    assert entry(machine, 13) & WRITABLE


def test_under_prot_none_entries_stay_but_every_access_traps() -> None:
    """The bytes are there again once the protection allows it."""
    machine = machine_with()
    space = machine.spaces[0]
    space.store(12 * PAGE, b"kept")
    space.protect(10, 10, NONE)
    check(machine)
    assert (read(machine), write(machine)) == (Outcome.SEGMENTATION_FAULT,) * 2
    space.protect(10, 10, R)
    assert space.load(12 * PAGE, 4) == b"kept"


def test_unmap_splits_at_both_borders_and_drops_what_is_inside() -> None:
    """Both halves keep their entries, tag and `anon_vma`; the second one's offset moves along."""
    machine = machine_with(kind=Kind.FILE, file=1, offset=100, tag=7)
    for page in (12, 14, 17):
        write(machine, page)
    assert machine.spaces[0].unmap(13, 3) == Dropped(entries=1, own=1)
    check(machine)
    mappings = machine.spaces[0].mappings
    assert list(zip(mappings.start.tolist(), mappings.end.tolist(), strict=True)) == [(10, 13), (16, 20)]
    assert (mappings.tag.tolist(), mappings.offset.tolist()) == ([7, 7], [100, 106])
    assert mappings.anon_vma.tolist() == [True, True]
    assert machine.spaces[0].present_pages().tolist() == [12, 17]
    assert write(machine, 14) is Outcome.SEGMENTATION_FAULT


def test_discard_drops_entries_and_keeps_the_mapping() -> None:
    """MADV_DONTNEED: the next read sees zeros."""
    machine = machine_with()
    machine.spaces[0].store(12 * PAGE, b"gone")
    assert machine.spaces[0].discard(10, 10).own == 1
    assert machine.spaces[0].load(12 * PAGE, 4) == bytes(4)
    assert machine.spaces[0].mappings.anon_vma.tolist() == [True]


def test_zap_drops_single_pages() -> None:
    """In any order, those without an entry too; neighbours stay."""
    machine = machine_with()
    for page in (11, 12, 13):
        write(machine, page)
    assert machine.spaces[0].zap(np.array([13, 11, 13, 18])).entries == 2
    check(machine)
    assert machine.spaces[0].present_pages().tolist() == [12]


def test_map_drops_what_lay_there() -> None:
    """mmap with MAP_FIXED."""
    machine = written_already()
    assert machine.spaces[0].map(0, 100, protection=RW) == Dropped(entries=1, own=1)
    assert machine.memory.frames.in_use == 0


def test_keep_entries_replaces_records_only() -> None:
    """Entries stay, W as `protect` would leave it, and the mapping keeps `anon_vma`."""
    machine = written_already()
    space = machine.spaces[0]
    assert space.map(8, 20, protection=R, tag=5, keep_entries=True) == Dropped()
    check(machine)
    assert not entry(machine) & WRITABLE
    space.map(8, 20, protection=RW, tag=6, keep_entries=True)
    assert entry(machine) & WRITABLE
    assert (space.mappings.tag.tolist(), space.mappings.anon_vma.tolist()) == ([6], [True])


def test_keep_entries_drops_where_private_turned_to_shared() -> None:
    """A private page must not become everybody's."""
    machine = written_already()
    dropped = machine.spaces[0].map(10, 10, protection=RW, shared=True, keep_entries=True)
    check(machine)
    assert dropped == Dropped(entries=1, own=1)
    assert write(machine) is Outcome.MAPPED


def test_keep_entries_over_nothing_is_a_plain_map() -> None:
    """The first time anybody hears of a mapping."""
    machine = Machine()
    machine.spawn().map(10, 10, protection=RW, keep_entries=True)
    assert write(machine) is Outcome.ZERO_FILLED


# --- pages that a census found ---


def test_installed_exclusive_pages_are_written_without_a_fault() -> None:
    """A census saw them mapped once: they are the process's own."""
    machine = machine_with()
    given = machine.spaces[0].install(np.array([12, 30, 12]), exclusive=True)
    assert given.tolist() == [True, False, False], "unmapped pages and repeats are left out"
    assert write(machine) is Outcome.NO_FAULT


def test_installed_pages_that_are_not_exclusive_trap_first() -> None:
    """Nobody else is known to map the page, so that its write is a reuse."""
    machine = machine_with()
    machine.spaces[0].install(np.array([12]), exclusive=False)
    check(machine)
    assert write(machine) is Outcome.REUSED


def test_install_leaves_present_pages_and_shared_mappings_alone() -> None:
    """What is known is not replaced by what is seen later."""
    machine = written_already()
    assert machine.spaces[0].install(np.array([12]), exclusive=True).tolist() == [False]
    machine.spaces[0].map(30, 1, protection=RW, shared=True)
    assert machine.spaces[0].install(np.array([30]), exclusive=True).tolist() == [False]


def test_installed_pages_in_a_read_only_mapping_are_not_writable() -> None:
    """The mapping's word goes before the page's."""
    machine = machine_with(protection=R)
    machine.spaces[0].install(np.array([12]), exclusive=True)
    check(machine)
    assert not entry(machine) & WRITABLE


def test_install_shared_joins_equal_groups_in_one_frame() -> None:
    """As after forks that nobody saw: the first stands for the writer, the others have inherited."""
    machine = machine_with()
    for _ in range(2):
        machine.spawn().map(10, 10, protection=RW)
    given = machine.install_shared([0, 1, 2, 0, 1], [12, 12, 12, 13, 99], [5, 5, 5, 6, 6])
    check(machine)
    assert given == 4, "page 99 is mapped nowhere"
    states = [machine.spaces[n].page_states(np.array([12])) for n in range(3)]
    assert [int(state.map_count[0]) for state in states] == [3, 3, 3]
    assert [bool(state.inherited[0]) for state in states] == [False, True, True]
    assert [write(machine, space=n) for n in (2, 0, 1)] == [Outcome.COPIED, Outcome.COPIED, Outcome.REUSED]
