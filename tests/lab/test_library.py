"""The shipped scenarios and the random ones, without a kernel: they are well-formed, and the vm does as they say."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.lab.chance import LIMITS, Chance, Draw
from cowscope.lab.library import BACKINGS, matrix, rules
from cowscope.lab.model import Model
from cowscope.lab.parser import parse
from cowscope.lab.scenario import Scenario
from cowscope.lab.steps import LABEL_BYTES, Load
from cowscope.vm import laws

RULES = list(rules())
KNOWN_RULES = ("R1.1", "R1.2", "R1.4", "R2.1", "R2.2", "R3.1", "R3.2", "R4.1", "R4.2", "R4.3", "R4.4", "R4.5")
MORE_RULES = ("R2.5", "R4.6", "R4.7", "R4.8", "§5.1", "§5.3", "R6", "R7", "§11")


@pytest.mark.parametrize("scenario", RULES, ids=lambda scenario: str(scenario.name))
def test_the_vm_does_what_the_rules_say(scenario: Scenario) -> None:
    """Outcome by outcome, byte by byte, and by the laws."""
    model = Model(scenario)
    checked = 0
    for line in scenario:
        result = model.do(line)
        if line.expected:
            assert result.outcome == line.expected, f"line {line.number}: {line}"
        if isinstance(line.step, Load) and line.step.data is not None:
            assert result.data == line.step.data.ljust(LABEL_BYTES, b"\0"), f"line {line.number}"
        laws.check(model.machine)
        checked += 1
    assert checked == len(scenario.lines) > 3


def test_every_rule_has_a_scenario_with_its_sentence() -> None:
    """Named by its number."""
    for rule in (*KNOWN_RULES, *MORE_RULES):
        assert any(scenario.sentence.startswith(f"{rule}: ") for scenario in RULES), rule
    for scenario in RULES:
        assert scenario.sentence.endswith("."), scenario.name


def test_every_case_meets_every_backing() -> None:
    """And all of them can be written down and read again."""
    scenarios = list(matrix())
    cases = {scenario.name.split(", ")[0] for scenario in scenarios}
    assert {scenario.name for scenario in scenarios} == {f"{c}, {b}" for c in cases for b in BACKINGS}
    for scenario in scenarios:
        assert str(parse(str(scenario))) == str(scenario)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*(st.integers(0, limit) for limit in LIMITS)), max_size=60))
def test_every_list_of_draws_is_a_scenario(draws: list[Draw]) -> None:
    """It can be written down, read again, and run on the vm, whose laws hold."""
    chance = Chance()
    model = Model(chance.scenario)
    for line in chance.prologue:
        model.do(line)
    for draw in draws:
        for line in chance.take(draw):
            model.do(line)
    laws.check(model.machine)
    again = parse(str(chance.scenario))
    assert [str(line) for line in again] == [str(line) for line in chance.scenario]
