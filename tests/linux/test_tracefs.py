"""Format files and mount tables on bytes; a tracepoint of the running kernel where it may be read."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope.errors import MissingRight
from cowscope.linux import tracefs
from cowscope.linux.tracefs import TraceField

Require = Callable[[object, str], None]

FORMAT = b"""name: page_fault_user
ID: 190
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;
\tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;

\tfield:unsigned long address;\toffset:8;\tsize:8;\tsigned:0;
\tfield:char comm[16];\toffset:16;\tsize:16;\tsigned:0;
\tfield:__data_loc char[] name;\toffset:32;\tsize:4;\tsigned:0;

print fmt: "field:%d;", REC->address
"""


def test_a_format_file_gives_number_and_fields() -> None:
    """Arrays are named without their length, and the print format is no field."""
    number, fields = tracefs.parse_format(FORMAT)
    assert number == 190
    assert list(fields) == ["common_type", "common_pid", "address", "comm", "name"]
    assert fields["common_pid"] == TraceField(4, 4, signed=True)
    assert fields["comm"] == TraceField(16, 16, signed=False)


@given(st.binary() | st.lists(st.sampled_from(FORMAT.splitlines(keepends=True))).map(b"".join))
def test_the_format_parser_takes_anything(data: bytes) -> None:
    """Bytes that are no format file are refused with a ValueError and nothing else."""
    with contextlib.suppress(ValueError):
        tracefs.parse_format(data)


@given(st.binary())
def test_the_mounts_parser_takes_anything(data: bytes) -> None:
    """No bytes make the parser fail."""
    assert isinstance(tracefs.parse_mounts(data + b"\nx /t tracefs rw 0 0\n"), list)


def _event(require: Require) -> tracefs.TraceEvent | None:
    try:
        return tracefs.event("sched", "sched_process_fork")
    except MissingRight as error:
        require(False, str(error))
        raise


@pytest.mark.live
def test_a_tracepoint_of_this_kernel_has_a_number_and_fields(require: Require) -> None:
    """The fork tracepoint is everywhere, and tells the child's pid."""
    event = _event(require)
    assert event is not None
    assert event.id > 0
    assert event.fields["child_pid"].size == 4


@pytest.mark.live
def test_an_event_that_is_not_there_is_none(require: Require) -> None:
    """Absence is told from a missing right."""
    _event(require)
    assert tracefs.event("sched", "no_such_event") is None


@pytest.mark.live
def test_a_detached_mount_leaves_the_mount_table_alone(
    require: Require, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where tracefs is not mounted, root reads it all the same, and nobody sees a new mount."""
    require(os.geteuid() == 0, "root, to mount")
    monkeypatch.setattr(tracefs, "_open_mounted", lambda: None)
    before = tracefs.read_mounts()
    with tracefs.open_tracefs() as root:
        assert os.stat("events", dir_fd=root).st_ino
        assert tracefs.read_mounts() == before


def test_a_plain_user_is_told_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the right to mount, the error names the command."""

    def refuse(*_: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(tracefs, "_open_mounted", lambda: None)
    monkeypatch.setattr(tracefs, "_syscall", refuse)
    with pytest.raises(MissingRight, match=r"tracefs|locked down") as caught:
        tracefs.event("sched", "sched_process_fork")
    assert caught.value.remedy
