"""Recordings whose answer is known, made by hand."""

from __future__ import annotations

import pytest
from tests.replay.recorded import LATE, OWN, READ_ABSENT, SHARED, UNTOLD, WRITE_ABSENT, Recorded

from cowscope.recording.schema import Allocation, Operation, PageState
from cowscope.replay.verdicts import Fate, Reconciliation, Verdict

V = Verdict


def forked(*, pages: int = 4) -> Recorded:
    """Process 0 writes pages 16 to 19 before it forks process 1 at time 100; a census proves them shared."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1, pages=pages)
    recorded.census(110, 1, (16, 4, SHARED))
    return recorded


def test_the_child_copies_and_the_parent_reuses() -> None:
    """Whoever writes first gets the copy; the other finds nobody sharing."""
    recorded = forked()
    recorded.fault(200, 1, 16)
    recorded.fault(300, 0, 16)
    assert recorded.verdicts() == [V.COPIED, V.REUSED]


def test_the_parent_copies_and_the_child_reuses() -> None:
    """It is not a question of rank."""
    recorded = forked()
    recorded.fault(200, 0, 16)
    recorded.fault(300, 1, 16)
    assert recorded.verdicts() == [V.COPIED, V.REUSED]


def test_what_a_fork_shared_is_told_by_both_counts() -> None:
    """The kernel's and the replay's; the kernel's is the better."""
    (share,) = forked(pages=5).replay().forks
    assert (share.kernel_pages, share.replay_pages, share.seen, share.pages) == (5, 4, True, 5)
    (share,) = forked(pages=-1).replay().forks
    assert (share.kernel_pages, share.pages) == (-1, 4)


def test_where_untouched_pages_stood_at_the_end() -> None:
    """Pages that the child never wrote: shared to the end, left alone by the parent, dropped."""
    recorded = forked()
    recorded.fault(200, 1, 16)
    recorded.fault(210, 0, 17)
    recorded.operation(220, 1, Operation.UNMAP, 18, 1)
    assert recorded.replay().fates == (Fate(process=1, dropped=1, still_shared=1, alone=1),)


@pytest.mark.parametrize(
    ("allocation", "first", "second"),
    [
        (Allocation.NOT_WATCHED, V.COPIED, V.REUSED),
        (Allocation.LATE, V.COPIED, V.REUSED),
        (Allocation.PAGE, V.COPIED, V.COPIED),
        (Allocation.NONE_SEEN, V.REUSED, V.REUSED),
    ],
)
def test_the_kernels_word_goes_before_the_rules(allocation: Allocation, first: V, second: V) -> None:
    """A page allocated is a copy, none is a reuse, and only what was not watched is left to the rules."""
    recorded = forked()
    recorded.fault(200, 1, 16, allocation=allocation)
    recorded.fault(300, 0, 16, allocation=allocation)
    assert recorded.verdicts() == [first, second]


def test_where_kernel_and_rules_disagree_it_is_counted() -> None:
    """Each disagreement once, and apart those where only silence speaks for reuse."""
    recorded = forked()
    recorded.fault(200, 1, 16, allocation=Allocation.PAGE)
    recorded.fault(210, 1, 17, allocation=Allocation.NONE_SEEN)
    recorded.fault(220, 0, 16, allocation=Allocation.PAGE)
    replay = recorded.replay()
    assert (replay.overruled, replay.silent) == (2, 1)


def test_a_copy_of_a_page_not_known_as_shared_stands_and_is_counted() -> None:
    """The kernel made it, so it was."""
    recorded = Recorded.start()
    recorded.fault(100, 0, 20, allocation=Allocation.PAGE)
    replay = recorded.replay()
    assert (replay.verdict.tolist(), replay.unforeseen) == ([V.COPIED], 1)


def test_exec_drops_what_was_shared() -> None:
    """The parent's next write is a reuse; what the child left behind is counted."""
    recorded = forked()
    recorded.operation(200, 1, Operation.EXEC)
    recorded.fault(300, 0, 16)
    assert recorded.verdicts() == [V.REUSED]
    assert recorded.replay().fates == (Fate(process=1, dropped=4),)


def test_exit_leaves_the_pages_to_the_other() -> None:
    """And the child's fate is told as it stood at its end."""
    recorded = forked()
    recorded.operation(200, 1, Operation.EXIT)
    recorded.fault(300, 0, 16)
    assert recorded.verdicts() == [V.REUSED]
    assert recorded.replay().fates == (Fate(process=1, still_shared=4),)


@pytest.mark.parametrize("what", [Operation.UNMAP, Operation.DISCARD])
def test_unmapped_by_one_is_reused_by_the_other(what: Operation) -> None:
    """munmap and MADV_DONTNEED let go of the page."""
    recorded = forked()
    recorded.operation(200, 1, what, 16, 2)
    recorded.fault(300, 0, 16)
    recorded.fault(310, 0, 18)
    assert recorded.verdicts() == [V.REUSED, V.COPIED]


def test_after_a_vfork_nothing_is_shared_by_copy() -> None:
    """One address space: no fork of memory, and the child's exec takes nothing from its parent."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1, vfork=True)
    recorded.fault(110, 1, 16, WRITE_ABSENT)
    recorded.operation(120, 1, Operation.EXEC)
    recorded.fault(130, 0, 16)
    recorded.fork(200, 0, 2)
    recorded.fault(210, 2, 16)
    replay = recorded.replay()
    assert [V(int(v)) for v in replay.verdict] == [V.ZERO_FILLED, V.UNKNOWN, V.COPIED]
    assert [share.child for share in replay.forks] == [2]


def test_a_vforked_child_that_exits_leaves_the_space_to_its_parent() -> None:
    """Only the last to leave ends it."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1, vfork=True)
    recorded.operation(120, 1, Operation.EXIT)
    recorded.fault(130, 0, 16, WRITE_ABSENT)
    assert recorded.verdicts() == [V.ZERO_FILLED]


def test_the_first_write_to_a_private_file_page_copies_from_the_file() -> None:
    """Read before or not: it is not the work of a fork."""
    recorded = Recorded.start()
    recorded.map(0, 0, 100, 110, file=True, name="/lib/libc.so.6")
    recorded.fault(10, 0, 100, WRITE_ABSENT)
    recorded.fault(20, 0, 101, READ_ABSENT)
    recorded.fault(30, 0, 101)
    assert recorded.verdicts() == [V.COPIED_FROM_FILE, V.FIRST_TOUCH, V.COPIED_FROM_FILE]


def test_a_shared_mapping_is_never_copied() -> None:
    """First touch, then nothing but dirty tracking."""
    recorded = Recorded.start()
    recorded.map(0, 0, 100, 110, file=True, shared=True, name="/data")
    recorded.fault(10, 0, 100, WRITE_ABSENT)
    recorded.fault(20, 0, 101, READ_ABSENT)
    recorded.fault(30, 0, 101)
    assert recorded.verdicts() == [V.FIRST_TOUCH, V.FIRST_TOUCH, V.WRITE_TRACKED]


def test_first_touches_of_anonymous_memory() -> None:
    """A read maps the zero page (code 4), a write a page of zeroes (code 6), a write after a read likewise."""
    recorded = Recorded.start()
    recorded.fault(10, 0, 16, READ_ABSENT)
    recorded.fault(20, 0, 17, WRITE_ABSENT)
    recorded.fault(30, 0, 16)
    assert recorded.verdicts() == [V.FIRST_TOUCH, V.ZERO_FILLED, V.ZERO_FILLED]


def test_a_page_read_and_written_in_one_batch() -> None:
    """The read comes first, whatever the order of the columns."""
    recorded = Recorded.start()
    recorded.fault(10, 0, 16, READ_ABSENT)
    recorded.fault(11, 0, 16)
    assert recorded.verdicts() == [V.FIRST_TOUCH, V.ZERO_FILLED]


def test_an_absent_page_that_the_replay_believed_present_was_dropped_unseen() -> None:
    """The kernel's word: a write to an absent page fills a new one."""
    recorded = forked()
    recorded.fault(200, 1, 16, WRITE_ABSENT)
    recorded.fault(300, 0, 16)
    assert recorded.verdicts() == [V.ZERO_FILLED, V.REUSED]


def test_two_threads_that_race() -> None:
    """One resolves the fault, the other finds it resolved."""
    recorded = forked()
    recorded.fault(200, 1, 16, tid=101)
    recorded.fault(201, 1, 16, tid=777)
    recorded.fault(210, 1, 25, WRITE_ABSENT, tid=101)
    recorded.fault(211, 1, 25, WRITE_ABSENT, tid=777)
    assert recorded.verdicts() == [V.COPIED, V.RACED, V.ZERO_FILLED, V.RACED]


def test_a_fault_of_an_unknown_process_is_unknown() -> None:
    """And disturbs nobody else's."""
    recorded = forked()
    recorded.fault(200, -1, 16)
    recorded.fault(201, -1, 16, UNTOLD)
    recorded.fault(202, -1, 16, WRITE_ABSENT)
    recorded.fault(210, 1, 16)
    replay = recorded.replay()
    assert [V(int(v)) for v in replay.verdict] == [V.UNKNOWN, V.UNKNOWN, V.UNKNOWN, V.COPIED]
    assert replay.mapping.tolist() == [-1, -1, -1, 0]


def test_a_fault_of_a_process_that_has_exited_is_unknown() -> None:
    """There is no space to look at."""
    recorded = forked()
    recorded.operation(150, 1, Operation.EXIT)
    recorded.fault(200, 1, 16)
    assert recorded.verdicts() == [V.UNKNOWN]


def test_a_write_outside_of_all_mappings_is_refused() -> None:
    """A signal, most likely."""
    recorded = Recorded.start()
    recorded.fault(10, 0, 5000, WRITE_ABSENT)
    recorded.map(0, 0, 100, 110, protection=1)
    recorded.fault(20, 0, 100, WRITE_ABSENT)
    assert recorded.verdicts() == [V.REFUSED, V.REFUSED]


def test_software_events_are_judged_by_page_states() -> None:
    """Access bit 128: write if the page is present or anonymous, else read."""
    recorded = forked()
    recorded.map(0, 0, 100, 110, file=True, name="/lib/x")
    recorded.fault(200, 1, 16, UNTOLD)
    recorded.fault(300, 0, 16, UNTOLD)
    recorded.fault(310, 0, 30, UNTOLD)
    recorded.fault(320, 0, 100, UNTOLD)
    assert recorded.verdicts() == [V.COPIED, V.REUSED, V.ZERO_FILLED, V.FIRST_TOUCH]


def test_nested_forks_share_among_three() -> None:
    """Two of three writers copy, the last reuses; each fork counts what it shared."""
    recorded = forked()
    recorded.fork(200, 1, 2, pages=4)
    recorded.census(210, 2, (16, 4, SHARED))
    for time, process in ((300, 0), (310, 2), (320, 1)):
        recorded.fault(time, process, 16)
    replay = recorded.replay()
    assert [V(int(v)) for v in replay.verdict] == [V.COPIED, V.COPIED, V.REUSED]
    assert [(share.parent, share.child, share.replay_pages) for share in replay.forks] == [
        (0, 1, 4),
        (1, 2, 4),
    ]


def test_faults_know_their_mapping() -> None:
    """By the mapping's row; an inherited mapping goes by the row of the process that made it."""
    recorded = forked()
    recorded.map(0, 50, 100, 110)
    recorded.fault(60, 0, 20, WRITE_ABSENT)
    recorded.fault(70, 0, 105, WRITE_ABSENT)
    recorded.fault(200, 1, 17)
    assert recorded.replay().mapping.tolist() == [0, 2, 0]


def test_a_stack_grows_without_an_event() -> None:
    """What lies within its limit below it belongs to it; what lies far below does not."""
    recorded = Recorded.start()
    recorded.map(0, 0, 10_000, 10_010, name="[stack]")
    recorded.fault(10, 0, 9_990, WRITE_ABSENT)
    recorded.fault(20, 0, 9_995, WRITE_ABSENT)
    recorded.fault(30, 0, 5_000, WRITE_ABSENT)
    replay = recorded.replay()
    assert [V(int(v)) for v in replay.verdict] == [V.ZERO_FILLED, V.ZERO_FILLED, V.REFUSED]
    assert replay.mapping.tolist() == [1, 1, -1]


def test_a_mapping_that_ends_takes_its_pages_along() -> None:
    """Unless another has taken its place: then only its record changes."""
    recorded = Recorded.start()
    recorded.map(0, 0, 100, 110, to=150)
    recorded.map(0, 0, 200, 210, to=150)
    recorded.map(0, 150, 200, 210, protection=1)
    recorded.fault(50, 0, 100, WRITE_ABSENT)
    recorded.fault(60, 0, 200, WRITE_ABSENT)
    recorded.fork(200, 0, 1)
    assert recorded.replay().forks[0].replay_pages == 1


# --- trees that had forked before anybody looked ---


def attached() -> Recorded:
    """Processes 0 and 1 share pages 16 and 17 (groups 0, 1); page 18 is each one's own."""
    recorded = Recorded.start()
    recorded.fork(0, 0, 1, before=True, inherit=False)
    recorded.map(1, 0)
    for process in (0, 1):
        recorded.census(0, process, (16, 1, SHARED, 0), (17, 1, SHARED, 1), (18, 1, OWN))
    return recorded


def test_attached_processes_share_what_has_one_group() -> None:
    """First writer copies, second reuses; own pages take no part."""
    recorded = attached()
    recorded.fault(200, 1, 16)
    recorded.fault(300, 0, 16)
    replay = recorded.replay()
    assert [V(int(v)) for v in replay.verdict] == [V.COPIED, V.REUSED]
    (share,) = replay.forks
    assert (share.before_start, share.replay_pages, share.kernel_pages) == (True, 2, -1)
    assert replay.fates == (Fate(process=1, still_shared=1),)


def test_attached_without_groups_the_same_page_number_stands_for_the_same_page() -> None:
    """A plain user gets no frame numbers: the estimate goes by address."""
    recorded = Recorded.start()
    recorded.fork(0, 0, 1, before=True, inherit=False)
    recorded.map(1, 0)
    for process in (0, 1):
        recorded.census(0, process, (16, 2, SHARED), (18, 1, OWN))
    recorded.fault(200, 1, 16)
    recorded.fault(300, 0, 16)
    assert recorded.verdicts() == [V.COPIED, V.REUSED]


# --- censuses ---


def test_a_difference_between_census_and_replay_is_shown() -> None:
    """The census finds page 16 mapped once, though no fault copied it: one copy unexplained."""
    recorded = forked()
    recorded.census(LATE, 1, (16, 1, OWN), (17, 3, SHARED))
    (found,) = recorded.replay().reconciliations
    assert found == Reconciliation(
        process=1, time_ns=LATE, pages=4, replay_private=0, census_private=1, replay_copies=0, vanished=0
    )
    assert found.difference == 1


def test_a_census_that_agrees_has_no_difference() -> None:
    """After the copies that faults explain."""
    recorded = forked()
    recorded.fault(200, 1, 16)
    recorded.census(LATE, 1, (16, 1, OWN), (17, 3, SHARED))
    last = recorded.replay().reconciliations[-1]
    assert (last.difference, last.replay_private, last.replay_copies) == (0, 1, 1)


def test_pages_written_while_a_census_looked_are_left_out() -> None:
    """Nobody knows whether it saw them before or after."""
    recorded = forked()
    recorded.census(LATE, 1, (16, 4, SHARED), lasts=50)
    recorded.fault(LATE + 10, 1, 16)
    last = recorded.replay().reconciliations[-1]
    assert (last.pages, last.difference) == (3, 0)


@pytest.mark.parametrize("state", [PageState.FILE, PageState.ZERO, PageState.GUARD, PageState.SWAPPED])
def test_only_anonymous_pages_in_memory_count(state: PageState) -> None:
    """Page cache, zero page, guards and swapped pages are not shared by fork as far as the replay goes."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1)
    recorded.census(110, 1, (16, 1, SHARED), (17, 3, PageState.PRESENT | state))
    assert recorded.replay().forks[0].replay_pages == 1


def test_a_recording_of_nothing() -> None:
    """No process, no fault, no finding."""
    replay = Recorded().replay()
    assert (len(replay.verdict), replay.forks, replay.fates, replay.reconciliations) == (0, (), (), ())


def test_a_moved_page_keeps_its_sharers() -> None:
    """mremap in the parent after the fork: its write at the new place copies, the child's then reuses."""
    recorded = forked()
    recorded.operation(150, 0, Operation.MOVE, 16, 16, 64)
    recorded.map(0, 150, 64, 80)
    recorded.fault(200, 0, 65)
    recorded.fault(300, 1, 17)
    assert recorded.verdicts() == [V.COPIED, V.REUSED]
