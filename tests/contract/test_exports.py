"""Names and numbers that others count on."""

from __future__ import annotations

import importlib
import pkgutil
from enum import IntEnum
from types import ModuleType

import pytest

import cowscope
from cowscope import vm
from cowscope.linux import page_runs, proc
from cowscope.recording import schema
from cowscope.replay.verdicts import OF_OUTCOME, Verdict
from cowscope.vm import Kind, Outcome, Protection

MOST_NAMES = 25


def modules_with_all() -> list[ModuleType]:
    """Every package and module that lists its names."""
    names = [info.name for info in pkgutil.walk_packages(cowscope.__path__, "cowscope.")]
    modules = [importlib.import_module(name) for name in names if not name.endswith("__main__")]
    return [module for module in modules if hasattr(module, "__all__")]


def test_the_package_exports_few_names() -> None:
    """At most 25, as the design has it."""
    public = [name for name in vars(cowscope) if not name.startswith("_")]
    exported = getattr(cowscope, "__all__", [])
    own = [name for name in public if not isinstance(getattr(cowscope, name), ModuleType)]
    assert len(exported) <= MOST_NAMES
    assert len(own) <= MOST_NAMES
    assert cowscope.__version__.count(".") == 2


@pytest.mark.parametrize("module", modules_with_all(), ids=lambda module: str(module.__name__))
def test_listed_names_are_there_once(module: ModuleType) -> None:
    """And whatever is a package's own is documented."""
    names: list[str] = module.__all__
    assert sorted(set(names)) == sorted(names)
    for name in names:
        assert hasattr(module, name), name


def test_the_vm_exports_its_words() -> None:
    """What an example in the documentation begins with."""
    assert {"Machine", "Outcome", "Protection", "Dropped", "POLICIES"} <= set(vm.__all__)


def values(kind: type[IntEnum]) -> dict[str, int]:
    """Names and numbers of an enumeration."""
    return {member.name: int(member) for member in kind}


def test_outcomes_keep_their_numbers() -> None:
    """They go into recordings and tables: a number once given stays."""
    assert values(Outcome) == {
        "NO_FAULT": 0,
        "COPIED": 1,
        "REUSED": 2,
        "ZERO_FILLED": 3,
        "COPIED_FROM_FILE": 4,
        "MAPPED": 5,
        "WRITE_TRACKED": 6,
        "SEGMENTATION_FAULT": 7,
        "BUS_ERROR": 8,
        "OUT_OF_MEMORY": 9,
    }


def test_verdicts_keep_their_numbers() -> None:
    """As outcomes do."""
    assert values(Verdict) == {
        "UNKNOWN": 0,
        "COPIED": 1,
        "REUSED": 2,
        "ZERO_FILLED": 3,
        "COPIED_FROM_FILE": 4,
        "FIRST_TOUCH": 5,
        "WRITE_TRACKED": 6,
        "REFUSED": 7,
        "RACED": 8,
    }


def test_every_outcome_has_a_verdict() -> None:
    """Unknown only where nothing happened, or where memory ran out."""
    unknown = {outcome for outcome in Outcome if OF_OUTCOME[outcome] == Verdict.UNKNOWN}
    assert unknown == {Outcome.NO_FAULT, Outcome.OUT_OF_MEMORY}


def test_page_states_are_one_thing_on_both_sides() -> None:
    """The census writes what `linux` reads: value for value, for the two may not import each other."""
    assert {flag.name: int(flag) for flag in schema.PageState} == {
        flag.name: int(flag) for flag in page_runs.PageState
    }
    assert schema.NONE == page_runs.NO_FRAME


def test_protections_and_kinds_are_one_thing_on_all_sides() -> None:
    """Columns go from `linux` through recordings into the vm unchanged."""
    assert {flag.name: int(flag) for flag in proc.Protection} == {
        flag.name: int(flag) for flag in Protection if flag
    }
    assert values(schema.MappingKind) == values(Kind)


def test_codes_of_a_recording_keep_their_numbers() -> None:
    """Format 1.0: other numbers would be another format."""
    assert (schema.FORMAT_MAJOR, schema.FORMAT_MINOR) >= (1, 0)
    assert values(schema.Operation) == {"UNMAP": 1, "DISCARD": 2, "MOVE": 3, "EXEC": 4, "EXIT": 5}
    assert values(schema.Allocation) == {"NOT_WATCHED": 0, "NONE_SEEN": 1, "PAGE": 2, "LATE": 3}
    assert {flag.name: int(flag) for flag in schema.Access} == {
        "PRESENT": 1,
        "WRITE": 2,
        "USER": 4,
        "UNKNOWN": 128,
    }


def test_every_column_has_a_meaning() -> None:
    """The schema is the documentation; text that a process chose is called hostile."""
    for columns in schema.TABLES.values():
        assert len({column.name for column in columns}) == len(columns)
        for column in columns:
            assert column.meaning
            if column.sql == "VARCHAR":
                assert "hostile" in column.meaning
