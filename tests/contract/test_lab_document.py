"""What docs/lab.md shows is a scenario, and says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

from cowscope.lab.kernel import _UPSETS
from cowscope.lab.model import Model
from cowscope.lab.parser import parse

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
    for counter, rule in _UPSETS.items():
        assert f"| {rule.split(':')[0]} |" in DOCUMENT
        assert f"`{counter.decode()}`" in DOCUMENT
