"""docs/rules.md: every rule that is named anywhere stands in it, with a module that has such a table and function."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

from tests.lab.mutants import MUTANTS
from tests.vm.mutants import MUTANTS as WATCHED

from cowscope.lab.library import rules

DOCUMENT = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for line in DOCUMENT.splitlines()
    if re.match(r"\| [R§]\d", line)
]


def test_every_rule_that_is_named_is_explained() -> None:
    """By scenarios and mutants; each once."""
    listed = [row[0] for row in ROWS]
    named = {scenario.sentence.split(":")[0] for scenario in rules()}
    named |= {mutant.breaks.split(":")[0] for mutant in MUTANTS}
    named |= {watched.mutant.breaks.split(":")[0] for watched in WATCHED}
    assert len(set(listed)) == len(listed)
    assert named <= set(listed)


def test_each_module_mirrors_the_function_named() -> None:
    """Its head has a table of rules, and the function among its sources."""
    assert len(ROWS) > 20
    for rule, _, modules, functions, _ in ROWS:
        heads = [importlib.import_module(f"cowscope.vm.{name}").__doc__ or "" for name in names(modules)]
        assert all("|---|" in head for head in heads), rule
        for function in names(functions):
            assert any(f"`{function}`" in head for head in heads), (rule, function)


def test_what_is_said_to_be_shown_by_scenarios_is() -> None:
    """And nothing else is."""
    shown = {scenario.sentence.split(":")[0] for scenario in rules()}
    for row in ROWS:
        assert (row[0] in shown) is row[4].rstrip("|").strip().startswith("scenarios"), row[0]


def names(cell: str) -> list[str]:
    """What stands between backticks."""
    return re.findall(r"`([^`]+)`", cell)
