"""Totals and their labels: what is exact, what is at least, what is an estimate, and why."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cowscope.insight.labels import Doubts, Figure, Label, doubts
from cowscope.insight.sharing import Sharing, sharing
from cowscope.recording.meta import Host, Meta
from cowscope.recording.schema import Allocation, Columns, empty, from_rows
from cowscope.replay.verdicts import Fate, ForkShare, Reconciliation, Replay, Verdict

WATCHED = Meta(kernel_allocations=True, kernel_fork_counts=True, operations_seen=True, first_touch=True)
SEEN = ForkShare(
    parent=0, child=1, time_ns=1, kernel_pages=10, replay_pages=10, seen=True, before_start=False
)
VERDICTS = [Verdict.COPIED] * 3 + [Verdict.REUSED] * 2 + [Verdict.ZERO_FILLED, Verdict.COPIED_FROM_FILE]


def replayed(verdicts: list[Verdict] = VERDICTS, **fields: object) -> Replay:
    """A replay with these verdicts; one fork of ten pages, all told and seen."""
    given: dict[str, object] = {
        "forks": (SEEN,),
        "fates": (Fate(process=1, dropped=1, still_shared=4, alone=2),),
        "reconciliations": (),
        "overruled": 0,
        "unforeseen": 0,
    }
    n = len(verdicts)
    return Replay(
        verdict=np.array(verdicts, np.int8),
        mapping=np.zeros(n, np.int32),
        **{**given, **fields},  # type: ignore[arg-type]
    )


def tables(n_faults: int, allocation: Allocation = Allocation.PAGE) -> dict[str, Columns]:
    """Two processes, one fork, one vfork."""
    faults = [(i, 1, 101, 4096, 0, 7, int(allocation)) for i in range(n_faults)]
    forks = [(1, 0, 1, False, 10, 0, 0, False), (2, 0, 2, True, 0, 0, 0, False)]
    processes = [(i, 100 + i, -1, 0, -1, -1, -1, "w", "", "") for i in range(3)]
    return {
        "faults": from_rows("faults", [*faults]),
        "forks": from_rows("forks", [*forks]),
        "processes": from_rows("processes", [*processes]),
        "mappings": empty("mappings"),
        "census": empty("census"),
    }


def counted(meta: Meta = WATCHED, replay: Replay | None = None) -> Sharing:
    """The totals of a replay."""
    replay = replay or replayed()
    return sharing(meta, replay, tables(len(replay.verdict)))


def labels(found: Sharing) -> dict[str, str]:
    """The label of each total that is not exact."""
    totals = found.totals
    figures = {
        "shared at fork": totals.shared_at_fork,
        "copied": totals.copied,
        "reused": totals.reused,
        "still shared": totals.still_shared,
        "new": totals.new,
        "alone": found.leftover.alone,
        "dropped": found.leftover.dropped,
    }
    return {title: str(figure.label) for title, figure in figures.items() if figure.label is not Label.EXACT}


def test_all_is_exact_where_everything_was_seen() -> None:
    """Values are plain counts of verdicts, forks and fates; a vfork is no fork of memory."""
    found = counted()
    totals, left = found.totals, found.leftover
    assert (totals.shared_at_fork, totals.copied) == (Figure(10), Figure(3))
    assert (totals.reused, totals.new, totals.still_shared) == (Figure(2), Figure(2), Figure(4))
    assert (left.alone, left.dropped, totals.lost_events) == (Figure(2), Figure(1), Figure(0))
    assert (found.forks, found.processes, found.faults, found.unknown) == (1, 3, 7, 0)
    assert (labels(found), found.differences) == ({}, ())


def test_lost_faults_make_counts_at_least_and_leftovers_an_estimate() -> None:
    """A missed copy makes what is left look larger."""
    found = counted(replace(WATCHED, lost={"fault": 1234}))
    assert labels(found) == {
        "copied": "at least",
        "reused": "at least",
        "new": "at least",
        "still shared": "estimate",
        "alone": "estimate",
        "dropped": "estimate",
    }
    assert found.totals.copied.reason == "1,234 fault events were lost"
    assert found.totals.lost_events == Figure(1234)


@pytest.mark.parametrize("channel", ["task", "map"])
def test_lost_sideband_events_bear_on_everything(channel: str) -> None:
    """What a process or mapping was is guessed; a fork may be missing."""
    found = counted(replace(WATCHED, lost={channel: 5}))
    assert labels(found)["copied"] == "estimate"
    assert found.totals.shared_at_fork == Figure(10, Label.AT_LEAST, f"5 {channel} events were lost")


def test_a_software_source_is_an_estimate() -> None:
    """And says why."""
    found = counted(replace(WATCHED, source="software"))
    assert found.totals.copied.label is Label.ESTIMATE
    assert "without error codes" in found.totals.copied.reason


def test_without_the_kernels_allocations_rules_decide() -> None:
    """An estimate of copies; what forks shared is not touched by it."""
    found = counted(replace(WATCHED, kernel_allocations=False))
    assert "page allocations were not watched" in found.totals.copied.reason
    assert "shared at fork" not in labels(found)


def test_faults_decided_by_rule_are_counted_in_the_reason() -> None:
    """Only those on shared pages: three copies and two reuses."""
    replay = replayed()
    rows = tables(7, Allocation.NOT_WATCHED)
    found = doubts(WATCHED, replay, rows["faults"], rows["census"])
    assert "5 " in found.estimate[0]
    assert "decided by rule" in found.estimate[0]


def test_a_recovered_recording_is_at_least() -> None:
    """Everything after the last flush is missing."""
    assert labels(counted(replace(WATCHED, recovered=True)))["copied"] == "at least"


def test_without_first_touches_new_pages_are_at_least() -> None:
    """Unless the source told them anyhow."""
    assert labels(counted(replace(WATCHED, first_touch=False))) == {"new": "at least"}


def test_unseen_unmaps_bear_on_what_is_left() -> None:
    """And on nothing else."""
    found = counted(replace(WATCHED, operations_seen=False))
    assert labels(found) == {"still shared": "estimate", "alone": "estimate", "dropped": "estimate"}


@pytest.mark.parametrize(
    ("share", "label", "reason"),
    [
        (
            replace(SEEN, kernel_pages=-1),
            Label.ESTIMATE,
            "the kernel's own page counts of forks were not watched",
        ),
        (
            replace(SEEN, kernel_pages=-1, seen=False),
            Label.ESTIMATE,
            "1 children had no census: they were gone before it, or too sparse for one at birth",
        ),
        (
            replace(SEEN, kernel_pages=-1, before_start=True),
            Label.AT_LEAST,
            "1 forks were done before the recording began",
        ),
        (replace(SEEN, seen=False), Label.EXACT, ""),
    ],
)
def test_how_exactly_is_known_what_forks_shared(share: ForkShare, label: Label, reason: str) -> None:
    """The kernel's count is exact; without it a census is an estimate."""
    assert counted(replay=replayed(forks=(share,))).totals.shared_at_fork == Figure(10, label, reason)


@pytest.mark.parametrize("host", [Host(swap_on=True), Host(exact_map_counts=False)])
def test_facts_of_the_host_lower_what_is_left(host: Host) -> None:
    """Swap and large folios hide pages from a census."""
    assert labels(counted(replace(WATCHED, host=host)))["still shared"] == "estimate"


def test_unknown_faults_may_be_reuses() -> None:
    """So there are at least as many as were told."""
    found = counted(replay=replayed([*VERDICTS, Verdict.UNKNOWN]))
    assert found.totals.reused == Figure(2, Label.AT_LEAST, "1 faults could not be judged")
    assert found.unknown == 1


def test_copies_that_no_fault_explains_make_copies_at_least() -> None:
    """And stand among the differences, never spread over other figures."""
    gap = Reconciliation(
        process=1, time_ns=9, pages=8, replay_private=3, census_private=5, replay_copies=3, vanished=0
    )
    found = counted(replay=replayed(reconciliations=(gap,)))
    assert found.totals.copied == Figure(
        3, Label.AT_LEAST, "a census found 2 pages copied that no fault explains"
    )
    assert [(d.what, d.pages, d.sentence) for d in found.differences] == [
        ("mapped once", 2, "censuses found 5 pages mapped once, the replay 3: +2")
    ]
    assert (found.reconciled_processes, found.reconciled_pages, found.reconciled_difference) == (1, 8, 2)


def test_every_disagreement_is_told() -> None:
    """Fork counts, unforeseen copies, overruled decisions: one sentence each."""
    found = counted(replay=replayed(forks=(replace(SEEN, replay_pages=7),), unforeseen=2, overruled=1))
    assert [(d.what, d.pages) for d in found.differences] == [
        ("shared at fork", 3),
        ("unforeseen copies", 2),
        ("overruled", 1),
    ]
    assert found.differences[0].sentence == "at forks the kernel counted 10 pages shared, the replay 7: +3"
    assert labels(found)["still shared"] == "estimate"


def test_an_estimate_goes_before_at_least() -> None:
    """The weaker label holds, and all reasons are told."""
    figure = Doubts(("a",), ("b",)).figure(1, estimate=("c",), missing=("d",))
    assert figure == Figure(1, Label.ESTIMATE, "a; c; b; d")


def test_pages_that_no_fault_claims_make_copies_at_least() -> None:
    """The kernel copies without a fault for I/O: allocations that nothing accounts for bound how many."""
    found = counted(replace(WATCHED, unclaimed_pages=3)).totals
    assert found.copied.label is Label.AT_LEAST
    assert "up to 3 more" in found.copied.reason
    assert found.still_shared.label is Label.ESTIMATE


def test_copies_that_the_replay_did_not_foresee_are_not_exact() -> None:
    """Two sources disagree on them."""
    found = counted(replay=replayed(unforeseen=2)).totals.copied
    assert (found.label, "at most 2 pages off" in found.reason) == (Label.ESTIMATE, True)


def test_reuse_that_silence_alone_proves_is_not_exact() -> None:
    """If a copy was made after all, there is one more of those, and one page less is left shared; what forks shared
    and what came new is not touched by it."""
    found = counted(replay=replayed(overruled=3, silent=2))
    assert labels(found) == {
        "copied": "at least",
        "reused": "estimate",
        "still shared": "estimate",
        "alone": "estimate",
        "dropped": "estimate",
    }
    assert "at most 2 pages off" in found.totals.reused.reason


@pytest.mark.parametrize("ended", ["size", "disk", "write error: Input/output error"])
def test_a_recording_that_was_cut_short_is_at_least(ended: str) -> None:
    """What came after is missing, and nobody chose the time."""
    assert counted(replace(WATCHED, ended=ended)).totals.copied.label is Label.AT_LEAST


def test_huge_pages_make_an_estimate() -> None:
    """One fault on a huge page is 512 pages; a huge page of a file, or of zeroes, is none of ours."""
    rows = tables(7)
    for state, label in ((17, Label.ESTIMATE), (21, Label.EXACT), (25, Label.EXACT)):
        rows["census"] = from_rows("census", [(0, 1, 5, 6, 16, 512, state, -1)])
        assert sharing(WATCHED, replayed(), rows).totals.reused.label is label
