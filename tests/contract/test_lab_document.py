"""What docs/lab.md shows is a scenario, and says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from cowscope.lab.kernel import _MERGING, _UPSETS
from cowscope.lab.model import Model
from cowscope.lab.parser import _FOLIO_PAGES, _VERBS, parse
from cowscope.lab.result import OUTCOMES
from cowscope.lab.scenario import PIPE_PAGES
from cowscope.lab.steps import OPTIONS, Advice
from cowscope.lab.story import Story
from cowscope.views.story import lines

DOCUMENT = (Path(__file__).parents[2] / "docs" / "lab.md").read_text(encoding="utf-8")


def test_the_scenario_shown_does_what_it_says() -> None:
    """On the vm; the live tests have its like."""
    (text,) = re.findall(r"```scenario\n(.*?)```", DOCUMENT, re.DOTALL)
    scenario = parse(text)
    model = Model(scenario)
    for line in scenario:
        outcome = model.do(line).outcome
        assert line.expected in (None, outcome), str(line)


def test_every_rule_that_leaves_something_out_is_listed() -> None:
    """By name, with the counter that it looks at."""
    for counter, rule in {**_UPSETS, b"pages_scanned": _MERGING}.items():
        assert f"| {rule.split(':')[0]} |" in DOCUMENT
        assert f"`{counter.decode()}`" in DOCUMENT


def test_every_word_is_listed() -> None:
    """Operations, kinds of advice, options, outcomes; and the numbers beside them."""
    told = set(re.findall(r"[\w-]+", " ".join(re.findall(r"`([^`\n]+)`", DOCUMENT))))
    words = {
        *_VERBS,
        *map(str, Advice),
        *OPTIONS,
        *map(str, OUTCOMES),
        "memfd",
        "disk",
        "folios",
        "merge",
        "sparse",
        "at",
    }
    assert words - told == set()
    assert f"at most {PIPE_PAGES} pages" in DOCUMENT
    assert f"({min(_FOLIO_PAGES)} to {max(_FOLIO_PAGES)})" in DOCUMENT


def test_the_step_that_is_told_is_told_so() -> None:
    """Line by line; but for the live kernel's, which has a time."""
    (text,) = re.findall(r"```scenario\n(.*?)```", DOCUMENT, re.DOTALL)
    (shown,) = re.findall(r"```explain\n(.*?)```", DOCUMENT, re.DOTALL)
    number = int(shown.split()[0])
    *_, before, chapter = list(Story(parse(text)))[:number]
    told = ["".join(part.text for part in line) for line in lines(chapter, before, 80)]
    assert [line for line in shown.splitlines() if "live kernel" not in line] == told
