"""What every test may use: `require`, which turns a missing prerequisite into a skip, or on CI into a
failure."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Require = Callable[[object, str], None]


def _require(condition: object, reason: str) -> None:
    if condition:
        return
    if os.environ.get("COWSCOPE_REQUIRE_ALL"):
        pytest.fail(f"missing prerequisite: {reason}", pytrace=False)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def require() -> Require:
    """`require(condition, reason)`: skip unless the condition holds; fail if COWSCOPE_REQUIRE_ALL is set."""
    return _require
