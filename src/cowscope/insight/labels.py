"""How exactly a figure is known: a label for each, with the reasons for anything less than exact."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from cowscope.recording.meta import Meta
from cowscope.recording.schema import Allocation, Columns, PageState
from cowscope.replay.verdicts import Replay, Verdict


class Label(StrEnum):
    """Exact: every event was there. At least: some are missing. Estimate: rules stood in for facts."""

    EXACT = "exact"
    ESTIMATE = "estimate"
    AT_LEAST = "at least"


@dataclass(frozen=True)
class Figure:
    """A number with its label; `reason` says why it is not exact, empty when it is."""

    value: int
    label: Label = Label.EXACT
    reason: str = ""


@dataclass(frozen=True)
class Doubts:
    """The reasons against the exactness of each kind of figure; an empty tuple is none."""

    estimate: tuple[str, ...]
    missing: tuple[str, ...]

    def figure(self, value: int, *, estimate: tuple[str, ...] = (), missing: tuple[str, ...] = ()) -> Figure:
        """`value` with its label; doubts of its own beside the common ones.

        >>> Doubts((), ()).figure(3)
        Figure(value=3, label=<Label.EXACT: 'exact'>, reason='')
        >>> Doubts((), ("2 events were lost",)).figure(3).label.value
        'at least'
        """
        estimates, gaps = self.estimate + estimate, self.missing + missing
        if not estimates and not gaps:
            return Figure(value)
        label = Label.ESTIMATE if estimates else Label.AT_LEAST
        return Figure(value, label, "; ".join(estimates + gaps))


def doubts(meta: Meta, replay: Replay, faults: Columns, census: Columns) -> Doubts:
    """What holds against every count of faults in this recording."""
    estimate, missing = [], []
    if meta.source == "software":
        estimate.append(
            "page-fault events without error codes: what a fault did is inferred from page states"
        )
    elif not meta.kernel_allocations:
        estimate.append("page allocations were not watched: copy or reuse follows the rules of Linux alone")
    guessed = _decided_by_rule(replay, faults) if meta.kernel_allocations else 0
    if guessed:
        estimate.append(f"at most {guessed:,} pages off: so many faults were decided by rule alone")
    if _huge_anonymous(census):
        estimate.append("huge pages: a fault on one, of 2 MiB, counts as one page")
    for channel in ("task", "map"):
        if meta.lost.get(channel):
            estimate.append(f"{meta.lost[channel]:,} {channel} events were lost")
    if meta.lost.get("fault"):
        missing.append(f"{meta.lost['fault']:,} fault events were lost")
    if meta.recovered:
        missing.append("the recorder died: everything after its last flush is missing")
    cut = CUT_SHORT.get(meta.ended, meta.ended if meta.ended.startswith("write error") else "")
    if cut:
        missing.append(f"the recording ended before the program did ({cut})")
    return Doubts(tuple(estimate), tuple(missing))


CUT_SHORT = {"size": "--max-size", "disk": "the disk was full"}
"""Ends of a recording that nobody chose the time of."""


def _huge_anonymous(census: Columns) -> bool:
    """Whether any census met memory mapped by huge entries, beside files and the huge zero page."""
    state = census["state"]
    other = PageState.FILE | PageState.ZERO
    return bool((((state & PageState.HUGE) != 0) & ((state & other) == 0)).any())


def _decided_by_rule(replay: Replay, faults: Columns) -> int:
    """Faults on shared pages for which a rule had to stand in for the kernel's allocation.

    A late allocation and a rule that says copied agree; where the rule says reused, the page must have been for
    something else, and that is the rule's word alone.
    """
    copied, reused = replay.verdict == Verdict.COPIED, replay.verdict == Verdict.REUSED
    silent = faults["allocation"] == Allocation.NOT_WATCHED
    late = faults["allocation"] == Allocation.LATE
    return int(np.count_nonzero(((copied | reused) & silent) | (reused & late)))
