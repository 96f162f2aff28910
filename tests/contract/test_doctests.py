"""Every example in the documentation of the code runs."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
from pathlib import Path

import pytest

import cowscope

MODULES = sorted(
    info.name
    for info in pkgutil.walk_packages(cowscope.__path__, "cowscope.")
    if not info.name.endswith("__main__")
)


@pytest.mark.parametrize("name", MODULES)
def test_examples_say_what_happens(name: str) -> None:
    """Module by module; one without examples must at least be importable."""
    result = doctest.testmod(importlib.import_module(name))
    assert result.failed == 0


def test_there_are_examples() -> None:
    """The search finds modules on every floor, and examples in them."""
    finder = doctest.DocTestFinder(exclude_empty=True)
    packages = ("vm", "linux", "recording", "recorder", "replay", "insight", "views", "cli")
    for package in packages:
        mine = [name for name in MODULES if name.startswith(f"cowscope.{package}.")]
        assert mine, package
    examples = [
        example
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
        for example in test.examples
    ]
    assert len(examples) > 50


def test_the_guide_prints_what_it_says() -> None:
    """Every line of output in it was produced by running it."""
    guide = Path(__file__).parents[2] / "docs" / "virtual-memory.md"
    result = doctest.testfile(str(guide), module_relative=False)
    assert result.attempted > 40
    assert result.failed == 0
