"""The tests are tested, too: a vm with a broken rule must not pass the one that is there to notice."""

from __future__ import annotations

import pytest
from tests.vm.mutants import MUTANTS, Watched


@pytest.mark.parametrize("watched", MUTANTS, ids=lambda watched: str(watched.mutant.name))
def test_every_mutant_is_noticed_by_its_witness(watched: Watched) -> None:
    """Which has nothing to say about the vm as it is."""
    watched.witness()
    assert _notices(watched), f"{watched.mutant.breaks}: not noticed"
    watched.witness()


def _notices(watched: Watched) -> bool:
    """A failed assertion or law, or an error that the test did not expect; no broken mutation."""
    with watched.mutant.change():
        try:
            watched.witness()
        except (AssertionError, pytest.fail.Exception):
            return True
    return False
