"""Which allocation belongs to which fault, and raw files to columns."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope.linux.perf_records import Exit, Fork
from cowscope.recorder.channels import ALLOCATION_EVENT, Channel
from cowscope.recorder.rawfiles import PROMPT_NS, channel_files, matched, read_faults, read_records
from cowscope.recording.schema import Access, Allocation, Columns

PAGE, NONE_SEEN, LATE = Allocation.PAGE, Allocation.NONE_SEEN, Allocation.LATE
FAULT_EVENT = "exceptions:page_fault_user"
EVENTS = {
    FAULT_EVENT: {"id": 1, "fields": {"address": 8, "ip": 16, "error_code": 24}},
    ALLOCATION_EVENT: {"id": 2, "fields": {}},
}


def signs(faults: list[tuple[int, int]], pages: list[tuple[int, int]]) -> list[Allocation]:
    """`matched` over rows of time and thread."""

    def columns(rows: list[tuple[int, int]]) -> Columns:
        time, tid = [time for time, _ in rows], [tid for _, tid in rows]
        return {"time": np.array(time, np.uint64), "tid": np.array(tid, np.uint32)}

    return [Allocation(int(sign)) for sign in matched(columns(faults), columns(pages))[0]]


@pytest.mark.parametrize(
    ("faults", "pages", "expected"),
    [
        ([(10, 1)], [], [NONE_SEEN]),
        ([], [(10, 1)], []),
        ([(10, 1)], [(11, 1)], [PAGE]),
        ([(10, 1)], [(9, 1)], [NONE_SEEN]),
        ([(10, 1)], [(11, 2)], [NONE_SEEN]),
        ([(10, 1), (20, 1)], [(21, 1)], [NONE_SEEN, PAGE]),
        ([(10, 1), (20, 2)], [(21, 1)], [NONE_SEEN, NONE_SEEN]),
        ([(10, 1)], [(10 + PROMPT_NS, 1)], [PAGE]),
        ([(10, 1)], [(11 + PROMPT_NS, 1)], [LATE]),
        ([(10, 1)], [(11, 1), (11 + PROMPT_NS, 1)], [PAGE]),
    ],
)
def test_an_allocation_belongs_to_the_last_fault_before_it(
    faults: list[tuple[int, int]], pages: list[tuple[int, int]], expected: list[Allocation]
) -> None:
    """By the same thread; late ones are not to be sure of, unless a prompt one came first."""
    assert signs(faults, pages) == expected


times = st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 3)), max_size=30).map(sorted)


@given(times, times)
def test_matching_is_what_a_loop_would_do(
    faults: list[tuple[int, int]], pages: list[tuple[int, int]]
) -> None:
    """A page goes to the last fault not later than it; a prompt one beats a late one."""
    expected = [NONE_SEEN] * len(faults)
    for time, tid in pages:
        before = [i for i, (at, _) in enumerate(faults) if at <= time]
        if before and faults[before[-1]][1] == tid:
            prompt = time - faults[before[-1]][0] <= PROMPT_NS
            if prompt or expected[before[-1]] is not PAGE:
                expected[before[-1]] = PAGE if prompt else LATE
    assert signs(faults, pages) == expected


def fault(time: int, address: int, *, error: int = 7, pid: int = 100, tid: int = 101) -> bytes:
    """A record of the tracepoint: header, identity, raw size, the tracepoint's own fields."""
    raw = struct.pack("<HHiQQQ", 1, 0, pid, address, 0x400000, error).ljust(36, b"\0")
    body = struct.pack("<IIQI", pid, tid, time, len(raw)) + raw
    return struct.pack("<IHH", 9, 0, 8 + len(body)) + body


def page(time: int, tid: int = 101) -> bytes:
    """An allocation's record."""
    return struct.pack("<IHHIIQ", 9, 0, 24, 100, tid, time)


def lost(count: int) -> bytes:
    """The kernel's word for records it could not write."""
    return struct.pack("<IHHQQIIQ", 2, 0, 40, 1, count, 0, 0, 5)


def test_faults_of_all_cpus_come_in_order_of_time(tmp_path: Path) -> None:
    """With what their own CPU allocated for them; a cut record at the end is left out."""
    (tmp_path / "fault.0").write_bytes(fault(10, 0x1000) + fault(30, 0x3000) + fault(50, 0x5000)[:-1])
    (tmp_path / "page.0").write_bytes(page(31))
    (tmp_path / "fault.1").write_bytes(fault(20, 0x2000, error=6))
    (tmp_path / "page.1").write_bytes(page(11))
    found = read_faults(tmp_path, {"source": "tracepoint", "events": EVENTS})
    assert (found.time.tolist(), found.address.tolist()) == ([10, 20, 30], [0x1000, 0x2000, 0x3000])
    assert (found.access.tolist(), found.ip.tolist()) == ([7, 6, 7], [0x400000] * 3)
    # The page on CPU 1 came before any fault there: its thread was moved, and the fault at 10 may be its own.
    assert found.allocation.tolist() == [LATE, NONE_SEEN, PAGE]
    assert (found.pid.tolist(), found.tid.tolist(), len(found)) == ([100] * 3, [101] * 3, 3)


def test_what_the_rings_lost_is_counted_by_channel(tmp_path: Path) -> None:
    """Between records, wherever it stands, and several times."""
    (tmp_path / "fault.0").write_bytes(lost(5) + fault(10, 0x1000) + lost(7) * 2 + fault(20, 0x2000))
    (tmp_path / "page.0").write_bytes(lost(1))
    found = read_faults(tmp_path, {"source": "tracepoint", "events": EVENTS})
    assert (dict(found.lost), len(found)) == ({"fault": 19, "page": 1}, 2)


def test_without_the_allocation_event_nothing_was_watched(tmp_path: Path) -> None:
    """And not: nothing was allocated."""
    (tmp_path / "fault.0").write_bytes(fault(10, 0x1000))
    found = read_faults(tmp_path, {"source": "tracepoint", "events": {FAULT_EVENT: EVENTS[FAULT_EVENT]}})
    assert found.allocation.tolist() == [Allocation.NOT_WATCHED]


def test_software_events_have_no_error_code(tmp_path: Path) -> None:
    """Access says that the kernel did not say."""
    record = struct.pack("<IHHQIIQQ", 9, 0, 40, 0x400000, 100, 101, 10, 0x1000)
    (tmp_path / "fault.0").write_bytes(record * 2)
    found = read_faults(tmp_path, {"source": "software", "events": {}})
    assert found.access.tolist() == [Access.UNKNOWN | Access.USER] * 2
    assert (found.address.tolist(), found.ip.tolist()) == ([0x1000] * 2, [0x400000] * 2)


def test_no_raw_files_are_no_faults(tmp_path: Path) -> None:
    """Empty files neither."""
    (tmp_path / "fault.0").touch()
    found = read_faults(tmp_path, {"source": "tracepoint", "events": EVENTS})
    assert (len(found), found.time.dtype.name, found.allocation.dtype.name) == (0, "uint64", "uint8")


def test_task_and_map_records_come_by_time_and_once(tmp_path: Path) -> None:
    """The map ring holds task records too, which the task ring has already."""
    forked = struct.pack("<IHHIIIIQIIQ", 7, 0, 48, 200, 100, 200, 100, 10, 100, 100, 10)
    exited = struct.pack("<IHHIIIIQIIQ", 4, 0, 48, 200, 100, 200, 100, 20, 200, 200, 20)
    (tmp_path / "task.0").write_bytes(exited + lost(2))
    (tmp_path / "task.1").write_bytes(forked)
    (tmp_path / "map.0").write_bytes(forked + exited + lost(3))
    found, counts = read_records(tmp_path)
    assert found == [Fork(10, 200, 100, 200, 100), Exit(20, 200, 200)]
    assert counts == {"task": 2, "map": 3}


def test_files_of_a_channel_come_by_cpu(tmp_path: Path) -> None:
    """In order of number, not of text."""
    for name in ("fault.10", "fault.9", "page.1", "journal"):
        (tmp_path / name).touch()
    assert [file.name for file in channel_files(tmp_path, Channel.FAULT)] == ["fault.9", "fault.10"]


KERNEL_WRITE = 3


@pytest.mark.parametrize(
    ("time", "address", "tid", "signs_found"),
    [
        (20, 0x1F00, 101, [PAGE, NONE_SEEN]),
        (20, 0x2000, 101, [NONE_SEEN, PAGE]),
        (20, 0x1F00, 102, [NONE_SEEN, PAGE]),
        (60_000, 0x1F00, 101, [NONE_SEEN, PAGE]),
    ],
    ids=["repeated", "another page", "another thread", "much later"],
)
def test_a_fault_that_the_kernel_refused_itself_is_one_with_its_repetition(
    time: int, address: int, tid: int, signs_found: list[Allocation], tmp_path: Path
) -> None:
    """It writes a signal's frame with faults switched off, and then again: the copy is the first one's."""
    again = fault(time, address, error=KERNEL_WRITE, tid=tid)
    (tmp_path / "fault.0").write_bytes(fault(10, 0x1000, error=KERNEL_WRITE) + again)
    (tmp_path / "page.0").write_bytes(page(time + 1, tid))
    found = read_faults(tmp_path, {"source": "tracepoint", "events": EVENTS})
    assert [Allocation(sign) for sign in found.allocation] == signs_found


def test_a_fault_of_user_code_is_never_taken_for_refused(tmp_path: Path) -> None:
    """A reuse, and then a copy of the same page: two faults."""
    (tmp_path / "fault.0").write_bytes(fault(10, 0x1000) + fault(20, 0x1000))
    (tmp_path / "page.0").write_bytes(page(21))
    found = read_faults(tmp_path, {"source": "tracepoint", "events": EVENTS})
    assert [Allocation(sign) for sign in found.allocation] == [NONE_SEEN, PAGE]
