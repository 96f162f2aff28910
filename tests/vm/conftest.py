"""A process to try calls on."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cowscope.vm import Machine, Process
from cowscope.vm.laws import check


@pytest.fixture
def process() -> Iterator[Process]:
    """A process; the laws hold after each test."""
    started = Machine().start()
    yield started
    check(started.machine)
