"""Runs of pages in the same state: the form in which a census leaves this floor. Arrays alone, no kernel.

A run stands for `n_pages` neighbours from `start_page` on that share one state and, where frames are known,
lie in frames that count up with them. Runs are sorted, do not overlap, and none could be joined with the
next.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt

Pages = npt.NDArray[np.int64]
States = npt.NDArray[np.uint8]

NO_FRAME = -1
"""In a frame column: not a page whose frame is told."""


class PageState(IntFlag):
    """What a census knows of a page; a page that is in no run has never been touched (or was given back)."""

    PRESENT = 1
    """A page table entry points at a frame."""
    SWAPPED = 2
    """The entry says where the page went: to swap, or for a moment elsewhere (migration)."""
    FILE = 4
    """Not anonymous: page cache, shared memory, or a page of the kernel's own such as vvar."""
    ZERO = 8
    """The shared page of zeros (or the huge one) that a read of untouched memory maps."""
    HUGE = 16
    """Mapped by one huge entry."""
    GUARD = 32
    """A guard marker (MADV_GUARD_INSTALL): any access kills."""
    EXCLUSIVE = 64
    """Anonymous and mapped once in the whole system. That does not mean that a write takes no fault."""


_NO_STATE = PageState(0)


@dataclass(frozen=True)
class PageRuns:
    """A census of one process as columns; row `i` of each is the same run."""

    start_page: Pages
    """Page number (address // page size) of the first page."""
    n_pages: Pages
    """Pages in the run, at least 1."""
    state: States
    """Sum of `PageState` flags."""
    frame: Pages | None = None
    """Physical frame number of the first page, for anonymous pages that are not exclusive, else `NO_FRAME`;
    None if not asked for. To be renumbered by the caller at once: such numbers help attackers, and never go
    to disk."""
    zero_known: bool = True
    """Whether zero pages were told from pages that really hold memory. If False, `ZERO` is never set, and
    zero pages count as anonymous pages shared with others."""

    def __len__(self) -> int:
        """Number of runs."""
        return len(self.start_page)

    def select(self, which: npt.NDArray[np.bool_]) -> PageRuns:
        """The runs for which `which` is true."""
        frame = None if self.frame is None else self.frame[which]
        return PageRuns(
            self.start_page[which], self.n_pages[which], self.state[which], frame, self.zero_known
        )

    def count(self, having: PageState, lacking: PageState = _NO_STATE) -> int:
        """Pages whose state has all flags of `having` and none of `lacking`.

        >>> runs = PageRuns(np.array([1, 9]), np.array([4, 2]), np.array([1, 65], np.uint8))
        >>> runs.count(PageState.PRESENT), runs.count(PageState.PRESENT, PageState.EXCLUSIVE)
        (6, 4)
        """
        fits = (self.state & (having | lacking)) == having
        return int(self.n_pages[fits].sum())


def expand(first: Pages, n: Pages) -> Pages:
    """`first[i]`, `first[i] + 1`, … `n[i]` numbers of them, for every `i` in turn.

    >>> expand(np.array([10, 50]), np.array([3, 2])).tolist()
    [10, 11, 12, 50, 51]
    """
    before = np.cumsum(n) - n
    return np.repeat(first - before, n) + np.arange(int(n.sum()), dtype=np.int64)


def mark_foreign(runs: PageRuns, ranges: tuple[Pages, Pages]) -> PageRuns:
    """`runs` with every present page in `ranges` (first pages, and pages after the last; sorted) marked as
    `FILE`.

    >>> runs = PageRuns(np.array([10]), np.array([5]), np.array([65], np.uint8))
    >>> marked = mark_foreign(runs, (np.array([12]), np.array([14])))
    >>> marked.start_page.tolist(), marked.n_pages.tolist(), marked.state.tolist()
    ([10, 12, 14], [2, 2, 1], [65, 5, 65])
    """
    first, end = ranges
    if len(first) == 0 or len(runs) == 0:
        return runs
    runs = _split(runs, np.concatenate(ranges))
    of = np.searchsorted(first, runs.start_page, "right") - 1
    present = (runs.state & PageState.PRESENT) != 0
    inside = present & (of >= 0) & (runs.start_page < end[of])
    state = np.where(inside, (runs.state | PageState.FILE) & np.uint8(255 - PageState.EXCLUSIVE), runs.state)
    frame = None if runs.frame is None else np.where(inside, NO_FRAME, runs.frame)
    return PageRuns(runs.start_page, runs.n_pages, state, frame, runs.zero_known)


def _split(runs: PageRuns, cuts: Pages) -> PageRuns:
    """`runs` with every run that goes on over one of the pages in `cuts` made two there."""
    of = np.searchsorted(runs.start_page, cuts, "right") - 1
    inside = (of >= 0) & (cuts > runs.start_page[of]) & (cuts < runs.start_page[of] + runs.n_pages[of])
    if not inside.any():
        return runs
    start = np.union1d(runs.start_page, cuts[inside])
    of = np.searchsorted(runs.start_page, start, "right") - 1
    end = np.minimum((runs.start_page + runs.n_pages)[of], np.append(start[1:], np.iinfo(np.int64).max))
    frame = None
    if runs.frame is not None:
        frame = runs.frame[of]
        frame = np.where(frame == NO_FRAME, NO_FRAME, frame + start - runs.start_page[of])
    return PageRuns(start, end - start, runs.state[of], frame, runs.zero_known)


def join(parts: list[PageRuns], *, zero_known: bool = True) -> PageRuns:
    """All runs of `parts` (that do not overlap, in any order) as one census, neighbours joined where they
    can be.

    >>> a, b = (PageRuns(np.array([p]), np.array([2]), np.array([1], np.uint8)) for p in (6, 4))
    >>> join([a, b]).start_page.tolist(), join([a, b]).n_pages.tolist()
    ([4], [4])
    """
    if not parts:
        none = np.empty(0, np.int64)
        return PageRuns(none, none, np.empty(0, np.uint8), None, zero_known)
    start = np.concatenate([part.start_page for part in parts])
    order = np.argsort(start, kind="stable")
    start, n = start[order], np.concatenate([part.n_pages for part in parts])[order]
    state = np.concatenate([part.state for part in parts])[order]
    frame = last_frame = None
    if any(part.frame is not None for part in parts):
        frame = np.concatenate([_frames(part) for part in parts])[order]
        last_frame = np.where(frame == NO_FRAME, NO_FRAME, frame + n - 1)
    starts = _starts(start, start + n - 1, state, frame, last_frame)
    n = np.add.reduceat(n, starts) if len(starts) else n
    return PageRuns(start[starts], n, state[starts], None if frame is None else frame[starts], zero_known)


def _frames(part: PageRuns) -> Pages:
    return np.full(len(part), NO_FRAME, np.int64) if part.frame is None else part.frame


def _starts(
    first: Pages, last: Pages, state: States, first_frame: Pages | None, last_frame: Pages | None
) -> npt.NDArray[np.intp]:
    """Indices of the rows that do not go on from the row before."""
    if len(first) == 0:
        return np.empty(0, np.intp)
    breaks = (first[1:] != last[:-1] + 1) | (state[1:] != state[:-1])
    if first_frame is not None and last_frame is not None:
        counts_up = first_frame[1:] == last_frame[:-1] + 1
        neither = (first_frame[1:] == NO_FRAME) & (last_frame[:-1] == NO_FRAME)
        breaks |= ~(counts_up & (last_frame[:-1] != NO_FRAME) | neither)
    return np.concatenate([np.zeros(1, np.intp), np.flatnonzero(breaks) + 1])
