"""What follows from what was read: each machine and user gets the level and the remedy that fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cowscope.errors import MissingRight
from cowscope.linux.boot import BootFacts
from cowscope.linux.capabilities import Capability
from cowscope.linux.facts import Abilities, Check, Host, Level, PerfSupport, abilities, judge
from cowscope.linux.pagemap_scan import Category
from cowscope.linux.tracefs import TraceEvent, Unreadable

BOOT = BootFacts("6.18.0", "x86_64", 4096, "madvise", "never", False, False, True)
EVENT = TraceEvent("exceptions", "page_fault_user", 190, {})
CLOSED = Unreadable("tracefs may not be read by this user", "sudo mount -o remount,gid=7 /sys/kernel/tracing")
NOT_MOUNTED = MissingRight("tracefs is not mounted", "sudo mount -t tracefs nodev /sys/kernel/tracing")
ROOT = Host(
    boot=BOOT,
    capabilities=frozenset(Capability),
    is_root=True,
    paranoid=2,
    mlock_kb=516,
    kptr_restrict=0,
    ptrace_scope=None,
    scan=Category.PRESENT | Category.GUARD,
    frames_visible=True,
    kallsyms_visible=True,
    fault_event=EVENT,
    python="/opt/my python/bin/python3",
)
USER = replace(
    ROOT,
    capabilities=frozenset(),
    is_root=False,
    frames_visible=False,
    kallsyms_visible=False,
    fault_event=CLOSED,
)


def check(found: Abilities, name: str) -> Check:
    """The check of that name, which must be there once."""
    (one,) = (check for check in found.checks if check.name == name)
    return one


@pytest.mark.parametrize(
    ("host", "level"),
    [
        (ROOT, Level.TRACEPOINT),
        (replace(ROOT, paranoid=4), Level.TRACEPOINT),
        (replace(ROOT, fault_event=None), Level.SOFTWARE),
        (replace(ROOT, capabilities=frozenset(), paranoid=3), Level.STATES),
        (USER, Level.SOFTWARE),
        (replace(USER, paranoid=3), Level.STATES),
        (replace(USER, paranoid=None), Level.STATES),
        (replace(USER, fault_event=EVENT), Level.SOFTWARE),
        (replace(USER, fault_event=EVENT, paranoid=-1), Level.TRACEPOINT),
        (
            replace(USER, fault_event=EVENT, capabilities=frozenset({Capability.CAP_PERFMON})),
            Level.TRACEPOINT,
        ),
    ],
)
def test_the_level_follows_from_rights_and_settings(host: Host, level: Level) -> None:
    """The table in the module's docstring, row by row."""
    assert judge(host).level == level


def test_what_was_tried_outweighs_what_settings_say() -> None:
    """A sandbox that refuses perf events makes root a plain looker-on, and says how it answered."""
    refused = PerfSupport(tracepoint=False, software=False, detail="EPERM from perf_event_open")
    found = judge(ROOT, refused)
    assert found.level == Level.STATES
    assert "EPERM" in check(found, "page faults of own processes").detail
    assert "seccomp" in check(found, "write faults with error code").remedy
    assert judge(USER, PerfSupport(False, True, "opened")).level == Level.SOFTWARE


@pytest.mark.parametrize(("software", "level"), [(True, Level.SOFTWARE), (False, Level.STATES)])
def test_what_a_number_above_2_means_is_tried(software: bool, level: Level) -> None:
    """perf_event_paranoid 3 closes everything on some distributions, and nothing more than 2 elsewhere."""
    found = judge(replace(USER, paranoid=3), PerfSupport(False, software, "as tried"))
    assert found.level == level
    remedy = "" if software else "sudo sysctl kernel.perf_event_paranoid=2"
    assert check(found, "page faults of own processes").remedy == remedy


def test_every_missing_right_of_a_plain_user_has_a_remedy() -> None:
    """No check says no to a plain user without a command that changes it, and what holds until then; none of the
    commands is to look again as root."""
    for one in judge(replace(USER, paranoid=4)).checks:
        assert one.ok is not False or (one.remedy and one.without), one
        assert "doctor" not in one.remedy


@pytest.mark.parametrize(
    ("event", "rights"),
    [(EVENT, "cap_perfmon,cap_ipc_lock"), (CLOSED, "cap_perfmon,cap_ipc_lock,cap_dac_read_search")],
    ids=["open", "closed"],
)
def test_capabilities_for_every_fault(event: TraceEvent | MissingRight, rights: str) -> None:
    """As many as are needed, for the interpreter, with what that means and how it is undone."""
    one = check(judge(replace(USER, fault_event=event)), "write faults with error code")
    assert one.remedy == f"sudo setcap {rights}+ep '/opt/my python/bin/python3'"
    assert "sudo setcap -r '/opt/my python/bin/python3'" in one.caution
    assert ("any file" in one.caution) == ("dac_read_search" in rights)


def test_first_tracefs_then_rights() -> None:
    """Where it is not mounted, that comes first."""
    found = judge(replace(USER, fault_event=NOT_MOUNTED))
    for name in ("write faults with error code", "tracefs"):
        assert check(found, name).remedy == NOT_MOUNTED.remedy


def test_a_remedy_is_given_only_where_something_is_missing() -> None:
    """Root on a good machine is told to do nothing."""
    assert [one.remedy for one in judge(ROOT).checks if one.remedy] == []


def test_this_machine_has_some_level() -> None:
    """Reading the real facts works for any user, and gives one of the levels."""
    found = abilities()
    assert found.level in Level
    assert check(found, "page size").detail.endswith("bytes")
