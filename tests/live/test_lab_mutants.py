"""The lab is tested, too: a vm with a broken rule must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from tests.lab.mutants import MUTANTS, Mutant, hunt

from cowscope.lab.kernel import Stage
from cowscope.lab.library import matrix, rules
from cowscope.lab.lockstep import play
from cowscope.lab.scenario import Scenario
from cowscope.lab.search import search

pytestmark = [pytest.mark.live, pytest.mark.slow]

RULES = [
    *rules(),
    *(case for case in matrix() if case.name.endswith((", anonymous", ", private-memfd-read"))),
]


@pytest.fixture(scope="module")
def stage(root: None) -> Iterator[Stage]:
    """One for all."""
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_every_mutant_is_caught(stage: Stage, mutant: Mutant) -> None:
    """By a shipped scenario; `make mutants` shows how many random operations each takes instead."""
    with mutant.change():
        assert any(_notices(scenario, stage) for scenario in RULES), f"{mutant.breaks}: not noticed"


def _notices(scenario: Scenario, stage: Stage) -> bool:
    """By what the kernel says, not by what the text expects."""
    plain = Scenario(scenario.sentence, scenario.name)
    for line in scenario:
        plain.add(line.step)
    try:
        return bool(play(plain, stage).differences)
    except (AssertionError, IndexError, KeyError):
        return True  # the mutation broke the vm outright


def test_the_vm_itself_is_not_caught(stage: Stage) -> None:
    """The same draws without a mutation."""
    none = Mutant("none", "nothing", nullcontext)
    assert hunt(none, stage, most=2_000).difference == ""


def test_a_counter_example_is_made_short(stage: Stage) -> None:
    """Nothing is left in it that the disagreement does not need."""
    (mutant,) = (mutant for mutant in MUTANTS if mutant.name == "dontfork-ignored")
    with mutant.change():
        found = search(stage, seed=1, operations=20_000)
    assert found.report is not None
    told = [str(line) for line in found.report.scenario]
    assert told[0] == "A start"
    assert told[-1] == "A fork B"
    assert len(told) == 4
