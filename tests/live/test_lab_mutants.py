"""The lab is tested, too: a vm with a broken rule must not pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext

import pytest
from tests.lab.mutants import MUTANTS, Mutant, hunt

from cowscope.lab.kernel import Stage

pytestmark = [pytest.mark.live, pytest.mark.slow]

ENOUGH = 5_000
"""Operations in which each must be caught; `make mutants` shows how many each takes."""


@pytest.fixture(scope="module")
def stage(root: None) -> Iterator[Stage]:
    """One for all."""
    with Stage() as stage:
        yield stage


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: str(mutant.name))
def test_every_mutant_is_caught(stage: Stage, mutant: Mutant) -> None:
    """And what gives it away is said."""
    caught = hunt(mutant, stage, most=ENOUGH)
    assert caught.difference, f"{mutant.breaks}: not noticed in {caught.operations} operations"


def test_the_vm_itself_is_not_caught(stage: Stage) -> None:
    """The same draws without a mutation."""
    none = Mutant("none", "nothing", nullcontext)
    assert hunt(none, stage, most=2_000).difference == ""
