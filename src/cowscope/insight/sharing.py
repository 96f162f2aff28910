"""The totals: what forks shared, what was copied since, what is left; and where two sources differ."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cowscope.insight.labels import Doubts, Figure, doubts
from cowscope.recording.meta import Meta
from cowscope.recording.schema import Allocation, Columns
from cowscope.replay.verdicts import ForkShare, Replay, Verdict


@dataclass(frozen=True)
class Totals:
    """Pages over the whole recording. A page shared with four children counts four times at their forks.

    `shared_at_fork`: anonymous pages mapped into children by fork. `copied`: of those, pages that were copied on a write
    by either side. `reused`: writes that found nobody sharing any more. `still_shared`: pages that a child never wrote and
    that others mapped too when it ended. `new`: pages that came otherwise (zeroes, private copies of file pages).
    """

    shared_at_fork: Figure
    copied: Figure
    reused: Figure
    still_shared: Figure
    new: Figure
    lost_events: Figure


@dataclass(frozen=True)
class Leftover:
    """What became of the pages that children shared at their fork and never wrote themselves, beside still_shared.

    `alone`: at the end nobody else mapped them any more. `dropped`: unmapped, discarded, or left behind by exec.
    """

    alone: Figure
    dropped: Figure


@dataclass(frozen=True)
class Difference:
    """Two sources of one figure that do not agree, in one sentence, never spread over other figures."""

    what: str
    pages: int
    sentence: str


@dataclass(frozen=True)
class Sharing:
    """All of it."""

    totals: Totals
    leftover: Leftover
    forks: int
    processes: int
    faults: int
    unknown: int
    reconciled_processes: int
    reconciled_pages: int
    reconciled_difference: int
    differences: tuple[Difference, ...]


def sharing(meta: Meta, replay: Replay, tables: dict[str, Columns]) -> Sharing:
    """Count everything up."""
    counts = np.bincount(replay.verdict, minlength=len(Verdict))
    common = doubts(meta, replay, tables["faults"], tables["census"])
    gap = sum(item.difference for item in replay.reconciliations)
    unexplained = (f"a census found {gap:,} pages copied that no fault explains",) if gap > 0 else ()
    unknown = int(counts[Verdict.UNKNOWN])
    open_ = (f"{unknown:,} faults could not be judged",) if unknown else ()
    new = int(counts[Verdict.ZERO_FILLED] + counts[Verdict.COPIED_FROM_FILE])
    untouched = (
        ()
        if meta.first_touch or meta.source == "software"
        else ("first touches were not recorded (--first-touch)",)
    )
    fork_doubts = _fork_doubts(meta, replay)
    state_doubts = () if meta.operations_seen else ("unmapped pages were not seen",)
    assumed = (
        (
            f"{replay.assumed:,} writes were taken as reuse of pages that forks shared: none could be looked at in time",
        )
        if replay.assumed
        else ()
    )
    hidden = _hidden_copies(meta, replay, tables["faults"])
    silent = _silent_reuses(replay)
    unforeseen = (
        (f"at most {replay.unforeseen:,} pages off: so many copies the replay did not foresee",)
        if replay.unforeseen
        else ()
    )
    # Without its allocation a copy looks like a reuse: copies are then at least so many, and the others are guesses.
    n = meta.lost.get("page", 0)
    pages_lost = (f"{n:,} page events were lost",) if n else ()
    left_doubts = fork_doubts + state_doubts + hidden + silent + pages_lost
    totals = Totals(
        shared_at_fork=_shared(replay, meta, fork_doubts),
        copied=common.figure(
            int(counts[Verdict.COPIED]),
            estimate=unforeseen,
            missing=unexplained + hidden + silent + pages_lost,
        ),
        reused=common.figure(
            int(counts[Verdict.REUSED]), estimate=assumed + silent + pages_lost, missing=open_
        ),
        still_shared=_fate_figure(sum(f.still_shared for f in replay.fates), common, left_doubts),
        new=common.figure(new, estimate=assumed, missing=untouched),
        lost_events=Figure(meta.lost_events),
    )
    return Sharing(
        totals=totals,
        leftover=Leftover(
            alone=_fate_figure(sum(f.alone for f in replay.fates), common, left_doubts),
            dropped=_fate_figure(sum(f.dropped for f in replay.fates), common, left_doubts),
        ),
        forks=int(np.count_nonzero(~tables["forks"]["shares_memory"].astype(bool))),
        processes=len(tables["processes"]["process"]),
        faults=len(replay.verdict),
        unknown=unknown,
        reconciled_processes=len(replay.reconciliations),
        reconciled_pages=sum(item.pages for item in replay.reconciliations),
        reconciled_difference=gap,
        differences=tuple(_differences(replay, gap)),
    )


def _hidden_copies(meta: Meta, replay: Replay, faults: Columns) -> tuple[str, ...]:
    """Pages allocated that no copying fault accounts for: the kernel may have copied without a fault."""
    late = (faults["allocation"] == Allocation.LATE) & (replay.verdict != Verdict.COPIED)
    n = meta.unclaimed_pages + int(np.count_nonzero(late))
    return (
        (f"up to {n:,} more: pages allocated without a fault to copy them (for I/O, file reads)",)
        if n
        else ()
    )


def _silent_reuses(replay: Replay) -> tuple[str, ...]:
    """Reuse that nothing but silence tells of: where it is wrong, a copy was made and not seen."""
    if not replay.silent:
        return ()
    return (
        f"at most {replay.silent:,} pages off: so many reuses of pages known as shared rest on the kernel's silence alone",
    )


def _shared(replay: Replay, meta: Meta, fork_doubts: tuple[str, ...]) -> Figure:
    value = sum(share.pages for share in replay.forks)
    told = all(share.kernel_pages >= 0 for share in replay.forks if not share.before_start)
    estimate = () if told else fork_doubts or ("the kernel's own page counts of forks were not watched",)
    earlier = [share for share in replay.forks if share.before_start]
    missing = (f"{len(earlier)} forks were done before the recording began",) if earlier else ()
    lost = tuple(f"{meta.lost[c]:,} {c} events were lost" for c in ("task", "map") if meta.lost.get(c))
    return Doubts(estimate, missing + lost).figure(value)


def _fork_doubts(meta: Meta, replay: Replay) -> tuple[str, ...]:
    """Why the set of pages that forks shared may not be what the replay took it for."""
    found = []
    unseen = sum(not share.seen for share in replay.forks)
    if unseen:
        found.append(
            f"{unseen:,} children had no census: they were gone before it, or too sparse for one at birth"
        )
    off = [share for share in replay.forks if share.kernel_pages not in (-1, share.replay_pages)]
    if off:
        found.append(f"{len(off):,} forks shared other page counts by the kernel's word than by census")
    if meta.host.swap_on:
        found.append("swap is on: swapped pages are not followed")
    if meta.host.exact_map_counts is False:
        found.append("this kernel does not count mappings of single pages in large folios")
    return tuple(found)


def _fate_figure(value: int, common: Doubts, own: tuple[str, ...]) -> Figure:
    """Missed faults make what is left look larger, so here they make an estimate."""
    return Doubts(common.estimate + common.missing + own, ()).figure(value)


def _differences(replay: Replay, gap: int) -> list[Difference]:
    found = []
    kernel, ours = _fork_counts(replay.forks)
    if kernel != ours:
        text = f"at forks the kernel counted {kernel:,} pages shared, the replay {ours:,}"
        found.append(Difference("shared at fork", kernel - ours, f"{text}: {kernel - ours:+,}"))
    if gap:
        mapped_once = sum(item.census_private for item in replay.reconciliations)
        replayed = sum(item.replay_private for item in replay.reconciliations)
        text = f"censuses found {mapped_once:,} pages mapped once, the replay {replayed:,}"
        found.append(Difference("mapped once", gap, f"{text}: {gap:+,}"))
    if replay.unforeseen:
        text = f"the kernel copied {replay.unforeseen:,} pages that the replay did not know as shared"
        found.append(Difference("unforeseen copies", replay.unforeseen, text))
    if replay.overruled:
        text = f"for {replay.overruled:,} faults the kernel's allocations and the vm's rules disagree on copy or reuse"
        found.append(Difference("overruled", replay.overruled, f"{text}; the kernel's word was taken"))
    return found


def _fork_counts(forks: tuple[ForkShare, ...]) -> tuple[int, int]:
    told = [share for share in forks if share.kernel_pages >= 0]
    return sum(share.kernel_pages for share in told), sum(share.replay_pages for share in told)
