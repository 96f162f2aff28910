"""Synthetic records in, tables out: who lived when, mapped what, and forked whom."""

from __future__ import annotations

import numpy as np
import pytest

from cowscope.linux.perf_records import Comm, Exit, Fork, Mmap, RawSample
from cowscope.recorder.channels import FORK_COUNT_EVENT, NEW_TASK_EVENT
from cowscope.recorder.timeline import Timeline
from cowscope.recording.schema import NONE, Operation

PAGE = 4096
FORMATS = {
    FORK_COUNT_EVENT: {"id": 1, "fields": {"mm_id": 8, "curr": 12, "member": 16, "size": 24}},
    NEW_TASK_EVENT: {"id": 2, "fields": {"pid": 8, "clone_flags": 32}},
    "syscalls:sys_enter_munmap": {"id": 3, "fields": {"addr": 16, "len": 24}},
    "syscalls:sys_enter_madvise": {"id": 4, "fields": {"start": 16, "len_in": 24}},
    "syscalls:sys_enter_brk": {"id": 5, "fields": {"brk": 16}},
    "syscalls:sys_enter_mremap": {"id": 6, "fields": {"addr": 16, "old_len": 24, "new_len": 32}},
    "syscalls:sys_exit_mremap": {"id": 7, "fields": {"ret": 16}},
    "syscalls:sys_enter_mmap": {"id": 8, "fields": {"addr": 16, "len": 24}},
}


def sample(name: str, time: int, pid: int = 100, **values: int) -> RawSample:
    """A tracepoint hit with its fields where `FORMATS` has them, as wide as the kernel's."""
    event = FORMATS[name]
    raw = bytearray(48)
    fields = event["fields"]
    assert isinstance(fields, dict)
    for key, value in values.items():
        width = 4 if key in ("member", "mm_id", "curr", "pid") else 8
        raw[fields[key] : fields[key] + width] = value.to_bytes(width, "little")
    return RawSample(time, pid, pid, int(str(event["id"])), bytes(raw))


def mmap(
    time: int, start: int, end: int, *, pid: int = 100, file: bytes = b"//anon", shared: bool = False
) -> Mmap:
    """A mapping of pages."""
    return Mmap(time, pid, pid, start * PAGE, end * PAGE, 0, 3, shared, file)


def timeline(*records: object) -> Timeline:
    """Process 100 was noted at time 0; then the records."""
    found = Timeline(FORMATS, started_ns=0)
    found.note_process(
        {
            "pid": 100,
            "time": 0,
            "parent": 1,
            "name": "main",
            "executable": "/bin/main",
            "command_line": "main -x",
        }
    )
    for record in records:
        found.apply(record)
    return found


def fork(time: int, child: int, parent: int = 100) -> Fork:
    """A process was made."""
    return Fork(time, child, parent, child, parent)


def column(found: Timeline, table: str, *names: str) -> list[tuple[object, ...]]:
    """Some columns of a table as rows."""
    columns = getattr(found, f"{table}_table")()
    return list(zip(*(columns[name].tolist() for name in names), strict=True))


def test_a_fork_makes_a_process_with_its_parents_mappings_and_name() -> None:
    """A key of its own, and rows of its own from the fork on."""
    found = timeline(mmap(5, 16, 32), fork(10, 200))
    assert column(found, "processes", "process", "pid", "parent", "start_ns", "name") == [
        (0, 100, NONE, 0, "main"),
        (1, 200, 0, 10, "main"),
    ]
    assert column(found, "mappings", "process", "from_ns", "start_page", "end_page") == [
        (0, 5, 16, 32),
        (1, 10, 16, 32),
    ]
    assert column(found, "forks", "time_ns", "parent", "child", "shares_memory") == [(10, 0, 1, False)]


def test_a_thread_is_no_process() -> None:
    """Its fork record has its own process as parent."""
    found = timeline(Fork(10, 100, 100, 101, 100))
    assert len(found.processes) == 1
    assert found.forks == []


def test_the_kernels_counts_belong_to_the_fork_that_follows() -> None:
    """Anonymous pages, file pages, swap; the size is in bytes; the time is that of the last count."""
    found = timeline(
        sample(FORK_COUNT_EVENT, 7, member=1, size=40 * PAGE),
        sample(FORK_COUNT_EVENT, 8, member=0, size=3 * PAGE),
        sample(FORK_COUNT_EVENT, 9, member=2, size=2 * PAGE),
        sample(FORK_COUNT_EVENT, 9, pid=500, member=1, size=999 * PAGE),
        fork(10, 200),
        fork(20, 300),
    )
    assert column(found, "forks", "time_ns", "anonymous_pages", "file_pages", "swapped_pages") == [
        (9, 40, 3, 2),
        (20, 0, 0, 0),
    ]


def test_counts_that_were_not_watched_are_unknown() -> None:
    """And not zero."""
    found = Timeline({}, started_ns=0)
    found.apply(fork(10, 200))
    assert column(found, "forks", "anonymous_pages", "file_pages", "swapped_pages") == [(NONE, NONE, NONE)]


@pytest.mark.parametrize(("flags", "shares"), [(0x4111, True), (0x1200011, False)])
def test_a_vfork_shares_the_address_space(flags: int, shares: bool) -> None:
    """CLONE_VM in task_newtask tells it."""
    found = timeline(fork(10, 200), new_task(11, 200, flags))
    assert column(found, "forks", "shares_memory") == [(shares,)]


def new_task(time: int, child: int, flags: int) -> RawSample:
    """task_newtask, told by the parent."""
    raw = bytearray(48)
    raw[8:12], raw[32:40] = child.to_bytes(4, "little"), flags.to_bytes(8, "little")
    return RawSample(time, 100, 100, 2, bytes(raw))


def test_a_pid_used_twice_is_two_processes() -> None:
    """Each fault belongs to the one that lived then."""
    found = timeline(fork(10, 200), Exit(20, 200, 200), fork(30, 200))
    assert column(found, "processes", "process", "pid", "start_ns", "end_ns") == [
        (0, 100, 0, NONE),
        (1, 200, 10, 20),
        (2, 200, 30, NONE),
    ]
    pids, times = [200, 200, 200, 100, 999], [10, 29, 30, 5, 5]
    assert found.keys(np.array(pids, np.uint32), np.array(times, np.uint64)).tolist() == [1, 1, 2, 0, NONE]


def test_a_process_ends_with_its_last_thread() -> None:
    """Not with its main thread; and one whose main thread lives on has not ended."""
    found = timeline(
        fork(10, 200), mmap(11, 16, 20, pid=200), Exit(20, 200, 200), Exit(25, 200, 201), Exit(26, 100, 102)
    )
    found.close()
    assert column(found, "processes", "end_ns") == [(NONE,), (25,)]
    assert column(found, "operations", "time_ns", "process", "operation") == [(25, 1, Operation.EXIT)]
    assert column(found, "mappings", "to_ns") == [(25,)]


def test_exec_closes_all_mappings_and_takes_the_new_name() -> None:
    """A rename by prctl does neither."""
    found = timeline(mmap(5, 16, 20), Comm(10, 100, 100, b"re\xffnamed", False))
    assert column(found, "processes", "name", "exec_ns") == [("re\udcffnamed", NONE)]
    found.apply(Comm(20, 100, 100, b"other", True))
    assert column(found, "processes", "name", "exec_ns") == [("other", 20)]
    assert column(found, "mappings", "to_ns") == [(20,)]
    assert column(found, "operations", "time_ns", "operation") == [(20, Operation.EXEC)]


def test_a_threads_name_is_not_its_processes() -> None:
    """Only the main thread's counts."""
    assert column(timeline(Comm(10, 100, 101, b"helper", False)), "processes", "name") == [("main",)]


def test_munmap_and_madvise() -> None:
    """An unmap closes the row and is an operation; a discard is only that. Odd lengths cover whole pages."""
    found = timeline(
        mmap(5, 16, 32),
        sample("syscalls:sys_enter_munmap", 10, addr=16 * PAGE, len=PAGE + 1),
        sample("syscalls:sys_enter_madvise", 11, start=20 * PAGE, len_in=2 * PAGE),
        sample("syscalls:sys_enter_munmap", 12, addr=20 * PAGE, len=0),
    )
    assert column(found, "operations", "time_ns", "operation", "start_page", "n_pages") == [
        (10, Operation.UNMAP, 16, 2),
        (11, Operation.DISCARD, 20, 2),
    ]
    assert column(found, "mappings", "from_ns", "to_ns", "start_page", "end_page") == [
        (5, 10, 16, 32),
        (10, NONE, 18, 32),
    ]


def test_a_fixed_mapping_first_drops_what_lies_there() -> None:
    """mmap(MAP_FIXED) replaces pages, which no munmap tells."""
    found = timeline(mmap(5, 16, 32), sample("syscalls:sys_enter_mmap", 10, addr=18 * PAGE, len=PAGE))
    assert column(found, "operations", "operation", "start_page", "n_pages") == [(Operation.UNMAP, 18, 1)]


@pytest.mark.parametrize(
    ("brk", "dropped"),
    [(26 * PAGE, [(26, 6)]), (26 * PAGE + 1, [(27, 5)]), (40 * PAGE, []), (0, []), (32 * PAGE, [])],
)
def test_a_heap_that_shrinks_drops_pages(brk: int, dropped: list[tuple[int, int]]) -> None:
    """Whole pages above the new end; growth and the question where it ends drop none."""
    found = timeline(mmap(5, 16, 32, file=b"[heap]"), sample("syscalls:sys_enter_brk", 10, brk=brk))
    assert column(found, "operations", "start_page", "n_pages") == dropped


def test_mremap_moves_what_it_says() -> None:
    """The row goes along; the operation tells where to. What is cut off is an unmap."""
    found = timeline(
        mmap(5, 16, 20),
        sample("syscalls:sys_enter_mremap", 10, addr=16 * PAGE, old_len=4 * PAGE, new_len=6 * PAGE),
        sample("syscalls:sys_exit_mremap", 11, ret=100 * PAGE),
        sample("syscalls:sys_enter_mremap", 20, addr=100 * PAGE, old_len=6 * PAGE, new_len=PAGE),
        sample("syscalls:sys_exit_mremap", 21, ret=100 * PAGE),
    )
    assert column(found, "operations", "time_ns", "operation", "start_page", "n_pages", "to_page") == [
        (11, Operation.MOVE, 16, 4, 100),
        (21, Operation.UNMAP, 101, 5, NONE),
    ]
    live = [row for row in column(found, "mappings", "to_ns", "start_page", "end_page") if row[0] == NONE]
    assert live == [(NONE, 100, 101)]


def test_an_mremap_that_failed_changes_nothing() -> None:
    """Its result is a small negative number, which is no page."""
    found = timeline(
        mmap(5, 16, 20),
        sample("syscalls:sys_enter_mremap", 10, addr=16 * PAGE, old_len=4 * PAGE, new_len=6 * PAGE),
        sample("syscalls:sys_exit_mremap", 11, ret=(1 << 64) - 12),
        sample("syscalls:sys_exit_mremap", 12, ret=100 * PAGE),
    )
    assert found.operations == []
    assert column(found, "mappings", "to_ns", "start_page") == [(NONE, 16)]


def test_what_proc_says_mends_the_mappings() -> None:
    """Whatever no event told."""
    found = timeline(mmap(5, 16, 32))
    maps = b"00010000-00014000 rw-p 00000000 00:00 0 \n00100000-00101000 r--s 00002000 08:01 7    /data (deleted)\n"
    found.note_maps({"pid": 100, "time": 50}, maps)
    live = [row for row in found.rows if row.to_ns == NONE]
    assert [(row.start, row.end, row.backing.name, row.backing.shared) for row in live] == [
        (16, 20, "[anon]", False),
        (256, 257, "/data (deleted)", True),
    ]


def test_a_process_met_without_a_fork_was_there_before() -> None:
    """It began no later than the recording; its parent, if observed, forked it before."""
    found = timeline()
    found.note_process(
        {"pid": 200, "time": 40, "parent": 100, "name": "w", "executable": "", "command_line": ""}
    )
    assert column(found, "processes", "pid", "parent", "start_ns") == [(100, NONE, 0), (200, 0, 0)]
    assert column(found, "forks", "parent", "child", "before_start", "anonymous_pages") == [
        (0, 1, True, NONE)
    ]


@pytest.mark.parametrize(
    ("file", "shared", "kind", "name"),
    [
        (b"//anon", False, 0, "[anon]"),
        (b"", False, 0, "[anon]"),
        (b"[heap]", False, 0, "[heap]"),
        (b"[anon:glibc]", False, 0, "[anon:glibc]"),
        (b"/dev/zero", False, 0, "/dev/zero"),
        (b"/dev/zero", True, 1, "/dev/zero"),
        (b"/lib/\xff", False, 1, "/lib/\udcff"),
    ],
)
def test_what_stands_behind_a_mapping(file: bytes, shared: bool, kind: int, name: str) -> None:
    """A private page of it begins as zeroes, or it is a file's."""
    found = timeline(mmap(5, 16, 20, file=file, shared=shared))
    assert column(found, "mappings", "kind", "name", "shared") == [(kind, name, shared)]


def test_no_process_at_all() -> None:
    """Tables without rows, and every pid unknown."""
    found = Timeline(FORMATS, started_ns=0)
    assert found.keys(np.array([5], np.uint32), np.array([1], np.uint64)).tolist() == [NONE]
    assert column(found, "processes", "pid") == []
