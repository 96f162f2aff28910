"""What check says in words."""

from __future__ import annotations

from tests.views.test_views_story import beside

from cowscope.lab.search import Found
from cowscope.views.check import Done, disagreements, lines


def test_agreement_is_two_lines() -> None:
    """And a line for what was not compared."""
    reports = [chapter.kernel.report for chapter in beside("linux") if chapter.kernel]
    found = Found(7, scenarios=2, operations=100, seconds=0.5)
    done = Done(found, reports, 2.0, ["faults: needs root"])
    assert list(lines(done)) == [
        "6 of 6 scenarios agree: 21 operations, 10 a second",
        "2 random scenarios agree: 100 operations, 200 a second, seed 7",
        "not compared: faults: needs root",
    ]
    assert disagreements(done) == []


def test_an_interruption_tells_what_was_compared_until_then() -> None:
    """Also a disagreement that was not made short any more."""
    report = next(c.kernel.report for c in beside("eager") if c.kernel and not c.kernel.agrees)
    done = Done(Found(7, 1, 4, 0.5, report=report), interrupted=True)
    told = list(lines(done))
    assert told[0] == "DISAGREEMENT in scenario"
    assert told[-3:] == [
        "interrupted; until then:",
        "0 of 0 scenarios agree: 0 operations, 0 a second",
        "1 random scenarios: 4 operations, 8 a second, seed 7",
    ]
    assert "≠ A  m[0]  A f1×2 mine  Ax f1×1 mine" in told
