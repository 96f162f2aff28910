"""The comparison sees every kind of difference; made-up views stand for both sides."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cowscope.lab.comparison import Comparison, compare_results
from cowscope.lab.result import Result
from cowscope.lab.view import EVERYTHING, Border, Sight, State, View

PAGES = np.array([16, 17, 18])
ANON = int(State.PRESENT | State.ANON)


def view(*frames: int, state: int = ANON, count: int = 2) -> View:
    """Three pages in these frames."""
    n = len(frames)
    states, counts = np.full(n, state, np.uint16), np.full(n, count, np.int64)
    labels = np.zeros(n, np.uint64)
    return View(states, np.array(frames), counts, labels, (Border(16, 19, 3, False),))


def test_the_same_under_other_numbers_is_the_same() -> None:
    """Frames are compared by who shares them."""
    comparison = Comparison(EVERYTHING)
    model = {"A": view(1, 2, 3), "B": view(1, 2, 4)}
    kernel = {"A": view(91, 72, 83), "B": view(91, 72, 64)}
    assert comparison.views(model, kernel, PAGES) == []
    assert comparison.views(model, kernel, PAGES) == []


def changed(what: str) -> View:
    """A view that differs from `view(1, 2, 3)` in one thing."""
    plain = view(1, 2, 3)
    if what == "state":
        return replace(plain, state=plain.state | np.uint16(State.EXCLUSIVE))
    if what == "map count":
        return replace(plain, map_count=plain.map_count + 1)
    if what == "bytes":
        return replace(plain, label=plain.label + np.uint64(65))
    if what == "mappings":
        return replace(plain, borders=(Border(16, 18, 3, False),))
    return view(1, 2, 2)


@pytest.mark.parametrize("what", ["state", "map count", "bytes", "mappings", "sharers of the frame"])
def test_each_kind_of_difference_is_seen(what: str) -> None:
    """And named."""
    found = Comparison(EVERYTHING).views({"A": view(1, 2, 3)}, {"A": changed(what)}, PAGES)
    assert {difference.what for difference in found} == {what}
    assert "A" in str(found[0])


@pytest.mark.parametrize("what", ["state", "map count", "sharers of the frame"])
def test_what_a_user_may_not_see_is_not_compared(what: str) -> None:
    """A plain user sees neither the exclusive mark nor frames."""
    comparison = Comparison(Sight(State.PRESENT | State.FILE, False, False, True))
    assert comparison.views({"A": view(1, 2, 3)}, {"A": changed(what)}, PAGES) == []


def test_a_copy_that_should_have_been_a_reuse_is_seen() -> None:
    """Sharing alone would not tell: the frame is nobody else's either way."""
    comparison = Comparison(EVERYTHING)
    assert comparison.views({"A": view(1, 2, 3)}, {"A": view(91, 92, 93)}, PAGES) == []
    found = comparison.views({"A": view(4, 2, 3)}, {"A": view(91, 92, 93)}, PAGES)
    assert "frame" in {difference.what for difference in found}
    assert any("it kept its frame" in str(difference) for difference in found)


def test_a_frame_that_moved_by_itself_is_seen() -> None:
    """A live frame keeps its number."""
    comparison = Comparison(EVERYTHING)
    comparison.views({"A": view(1, 2, 3)}, {"A": view(91, 92, 93)}, PAGES)
    assert comparison.views({"A": view(1, 2, 3)}, {"A": view(91, 92, 94)}, PAGES)


def test_processes_on_one_side_only_are_seen() -> None:
    """Before anything else."""
    (found,) = Comparison(EVERYTHING).views({"A": view(1, 2, 3)}, {}, PAGES)
    assert found.what == "live processes"


def test_results_are_compared_as_far_as_both_know() -> None:
    """An empty outcome, no codes and no bytes mean: cannot tell."""
    told = Result("copied", (3,), b"x")
    assert compare_results(told, told, EVERYTHING) == []
    assert compare_results(told, Result("", None, None), EVERYTHING) == []
    found = compare_results(told, Result("reused", (3, 3), b"y"), EVERYTHING)
    assert [difference.what for difference in found] == ["outcome", "fault codes", "bytes loaded"]
