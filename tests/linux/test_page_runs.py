"""Runs of pages against a plain model: a dictionary from page to state and frame."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from hypothesis import given
from hypothesis import strategies as st

from cowscope.linux.page_runs import NO_FRAME, PageRuns, PageState, join, mark_foreign
from cowscope.linux.pagemap import Entry, entries_as_runs

ENTRIES = st.sampled_from(
    [
        0,
        Entry.PRESENT | 7,
        Entry.PRESENT | 8,
        Entry.PRESENT | 9,
        Entry.PRESENT | Entry.MAPPED_ONCE | 10,
        Entry.PRESENT | Entry.FILE_OR_SHARED | Entry.MAPPED_ONCE | 11,
        Entry.SWAPPED | 99,
        Entry.SWAPPED | Entry.GUARD,
    ]
)


def pages_of(runs: PageRuns) -> dict[int, tuple[int, int | None]]:
    """Every page of a census with its state and frame, spelt out one by one."""
    pages = {}
    for i in range(len(runs)):
        for k in range(int(runs.n_pages[i])):
            frame = None if runs.frame is None else int(runs.frame[i])
            told = frame if frame in (None, NO_FRAME) else frame + k
            pages[int(runs.start_page[i]) + k] = (int(runs.state[i]), told)
    return pages


def model_state(entry: int) -> int:
    """The state of one entry, by the kernel's documentation."""
    if entry & Entry.GUARD:
        return PageState.GUARD
    if entry & Entry.SWAPPED:
        return PageState.SWAPPED
    if not entry:
        return 0
    if entry & Entry.FILE_OR_SHARED:
        return PageState.PRESENT | PageState.FILE
    return PageState.PRESENT | (PageState.EXCLUSIVE if entry & Entry.MAPPED_ONCE else 0)


def census(entries: list[int], first: int, *, frames: bool) -> PageRuns:
    """The runs of `entries` from page `first` on."""
    whole = PageRuns(np.array([first]), np.array([len(entries)]), np.zeros(1, np.uint8))
    return entries_as_runs(np.array(entries, np.uint64), whole, frames=frames)


@given(st.lists(ENTRIES, min_size=1, max_size=30))
def test_runs_hold_the_state_and_frame_of_every_page(entries: list[int]) -> None:
    """Nothing is lost or added when entries become runs."""
    expected = {}
    for page, entry in enumerate(entries, start=100):
        state = model_state(entry)
        if state:
            expected[page] = (state, entry & 0xFF if state == PageState.PRESENT else NO_FRAME)
    assert pages_of(census(entries, 100, frames=True)) == expected


@given(st.lists(st.lists(ENTRIES, min_size=1, max_size=12), max_size=5))
def test_joined_parts_hold_the_same_pages_in_fewer_runs(parts: list[list[int]]) -> None:
    """Joining keeps every page, sorts, and leaves no neighbours that could be one run."""
    first, censuses = 0, []
    for entries in parts:
        censuses.append(census(entries, first, frames=True))
        first += len(entries)
    joined = join(censuses[::-1])
    expected = {page: told for part in censuses for page, told in pages_of(part).items()}
    assert pages_of(joined) == expected
    assert len(joined) == len(join([joined])) <= sum(len(part) for part in censuses)
    assert (np.diff(joined.start_page) > 0).all()


@given(st.lists(ENTRIES, min_size=1, max_size=30), st.lists(st.integers(95, 135), max_size=6, unique=True))
def test_foreign_pages_are_files_and_nothing_else_changes(entries: list[int], edges: list[int]) -> None:
    """Present pages inside a foreign range become FILE; all others stay as they were."""
    edges = sorted(edges)[: len(edges) // 2 * 2]
    first, end = np.array(edges[0::2], np.int64), np.array(edges[1::2], np.int64)
    runs = census(entries, 100, frames=True)
    expected = {}
    for page, (state, frame) in pages_of(runs).items():
        foreign = state & PageState.PRESENT and any(a <= page < b for a, b in zip(first, end, strict=True))
        expected[page] = (PageState.PRESENT | PageState.FILE, NO_FRAME) if foreign else (state, frame)
    assert pages_of(mark_foreign(runs, (first, end))) == expected


def test_states_keep_the_huge_mark_of_their_range() -> None:
    """Entries know nothing of huge mappings: that comes from the range."""
    huge = np.array([PageState.PRESENT | PageState.HUGE], np.uint8)
    entries: npt.NDArray[np.uint64] = np.full(512, Entry.PRESENT | Entry.MAPPED_ONCE, np.uint64)
    runs = entries_as_runs(entries, PageRuns(np.array([512]), np.array([512]), huge))
    assert runs.state.tolist() == [PageState.PRESENT | PageState.HUGE | PageState.EXCLUSIVE]


def test_an_empty_census_has_no_runs() -> None:
    """A kernel thread has no pages; that is no error of arrays."""
    assert len(join([])) == 0
    assert join([]).count(PageState.PRESENT) == 0
