"""One test for each row of the tables at the head of `cowscope.vm.rules`, `processes` and `spaces`."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cowscope.vm import Dropped, FrameFlag, Kind, Machine, MappingFlag, Outcome, Protection
from cowscope.vm.entry import ACCESSED, DIRTY, INHERITED, PRESENT, USER, WRITABLE
from cowscope.vm.laws import check
from cowscope.vm.rules import classify_writes

R, RW, NONE = Protection.READ, Protection.READ | Protection.WRITE, Protection.NONE
PAGE = 4096


def machine_with(**mapping: object) -> Machine:
    """A machine whose space 0 maps pages 10 to 19."""
    machine = Machine()
    machine.spawn().map(10, 10, **{"protection": RW, **mapping})  # type: ignore[arg-type]
    return machine


def write(machine: Machine, page: int = 12, space: int = 0, decided: int = -1) -> Outcome:
    """The outcome of one write fault; laws hold after it."""
    outcome = Outcome(int(machine.write_faults([space], [page], decided=[decided])[0]))
    check(machine)
    return outcome


def read(machine: Machine, page: int = 12, space: int = 0) -> Outcome:
    """The outcome of one read fault; laws hold after it."""
    outcome = Outcome(int(machine.read_faults([space], [page])[0]))
    check(machine)
    return outcome


def entry(machine: Machine, page: int = 12, space: int = 0) -> int:
    """The bits of a page's entry, without the frame."""
    slot = machine.spaces[space].table.slot(page)
    return int(machine.memory.tables.entries[slot]) & 0xFFF


# --- what a write fault does ---


def nothing_mapped() -> Machine:
    """No mapping at all."""
    machine = Machine()
    machine.spawn()
    return machine


def not_writable() -> Machine:
    """A read-only mapping."""
    return machine_with(protection=R)


def written_already() -> Machine:
    """Page 12 is the process's own, and writable."""
    machine = machine_with()
    write(machine)
    return machine


def shared_untouched() -> Machine:
    """A shared anonymous mapping."""
    return machine_with(shared=True)


def shared_file_read() -> Machine:
    """A clean page of a shared file."""
    machine = machine_with(shared=True, kind=Kind.FILE, file=1)
    read(machine)
    return machine


def anonymous_untouched() -> Machine:
    """A private anonymous mapping."""
    return machine_with()


def file_untouched() -> Machine:
    """A private mapping of a file."""
    return machine_with(kind=Kind.FILE, file=1)


def zero_page_read() -> Machine:
    """Page 12 names the zero page."""
    machine = machine_with()
    read(machine)
    return machine


def file_page_read() -> Machine:
    """Page 12 names the page cache's frame."""
    machine = machine_with(kind=Kind.FILE, file=1)
    read(machine)
    return machine


def exclusive_but_read_only() -> Machine:
    """No way through the interface leaves such an entry, so the bit is cleared by hand."""
    machine = written_already()
    machine.memory.tables.entries[machine.spaces[0].table.slot(12)] &= ~np.uint64(WRITABLE)
    return machine


def shared_by_fork() -> Machine:
    """Page 12 is shared with a child."""
    machine = written_already()
    machine.fork(0)
    return machine


def left_by_the_child() -> Machine:
    """Page 12 was shared, and the child has gone."""
    machine = shared_by_fork()
    machine.exit(1)
    return machine


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
    with pytest.raises(KeyError):
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
    assert (machine.memory.overruled, machine.memory.frames.in_use) == (1, 1)


def test_an_imposed_reuse_of_a_shared_frame_makes_it_disputed() -> None:
    """Writable but not exclusive: the law of isolation is lifted for this frame alone."""
    machine = shared_by_fork()
    assert write(machine, decided=Outcome.REUSED) is Outcome.REUSED
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
    with pytest.raises(KeyError, match="windows"):
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
