"""Parsers of settings and rights, on bytes; the live values only as far as they must hold anywhere."""

from __future__ import annotations

import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope.linux import boot, capabilities
from cowscope.linux.capabilities import Capability


def test_effective_capabilities_are_bits_of_one_line() -> None:
    """Only the effective set counts, not the permitted one."""
    status = b"Name:\tCapEff: 1\nCapPrm:\tffffffffffffffff\nCapEff:\t0000004000200000\nCapBnd:\t0\n"
    mask = capabilities.parse_effective(status)
    assert [c.name for c in Capability if mask >> c & 1] == ["CAP_SYS_ADMIN", "CAP_PERFMON"]


@given(st.binary().map(lambda data: b"CapEff:" + data) | st.binary())
def test_the_status_parser_takes_anything(status: bytes) -> None:
    """Bytes that are no status file grant nothing and break nothing."""
    assert isinstance(capabilities.parse_effective(status), int)


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("always [madvise] never", "madvise"),
        ("[never]", "never"),
        ("", "absent"),
        (None, "absent"),
        ("[", "absent"),
    ],
)
def test_the_chosen_word_of_a_setting(text: str | None, choice: str) -> None:
    """The kernel puts what is chosen in square brackets."""
    assert boot.parse_choice(text) == choice


def test_map_counts_are_exact_unless_the_kernel_was_built_without() -> None:
    """A commented-out option is not set."""
    assert boot.parse_map_counts(b"# CONFIG_NO_PAGE_MAPCOUNT is not set\nCONFIG_PAGE_MAPCOUNT=y\n") is True
    assert boot.parse_map_counts(b"CONFIG_A=y\nCONFIG_NO_PAGE_MAPCOUNT=y\n") is False


def test_boot_facts_name_this_machine() -> None:
    """What uname says is what the facts say."""
    facts = boot.boot_facts()
    assert (facts.kernel, facts.machine) == (os.uname().release, os.uname().machine)
    assert facts.page_size >= 4096
