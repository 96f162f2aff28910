"""The BPF programs beside real faults: who is watched, from when, and what is not hidden."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.conftest import Require

from cowscope.linux import tracefs
from cowscope.linux.perf import Event
from cowscope.linux.perf_abi import Attributes, EventType, Flag, Sample
from cowscope.linux.perf_records import RawSample, records
from cowscope.recorder.channels import ALLOCATION_EVENT, FAULT_EVENTS, NEW_TASK_EVENT, Channel
from cowscope.recorder.probes import online_cpus
from cowscope.recorder.programs import RECORD_BYTES, FaultPrograms
from cowscope.units import PAGE_SIZE

PAGES = 64
SMALL = {Channel.FAULT: 1 << 16, Channel.PAGE: 1 << 15}
NAMES = (*FAULT_EVENTS, ALLOCATION_EVENT, NEW_TASK_EVENT)


@pytest.fixture
def programs(require: Require) -> Iterator[FaultPrograms]:
    """With rings of 1,024 faults a CPU; nobody is watched."""
    require(os.geteuid() == 0, "root")
    with_programs = loaded()
    yield with_programs
    with_programs.close()


def loaded() -> FaultPrograms:
    """All programs of this kernel."""
    found = {name: tracefs.event(*name.split(":")) for name in NAMES}
    events = {name: event for name, event in found.items() if event is not None}
    return FaultPrograms(events, first_touch=False, ring_bytes=SMALL, cpus=online_cpus())


def taken(programs: FaultPrograms, channel: Channel) -> list[RawSample]:
    """What waits in the rings of a channel, read as perf's own records are; the rings are empty after."""
    found: list[RawSample] = []
    for (which, _), ring in programs.rings().items():
        if which is channel:
            data: NDArray[np.uint8] = np.frombuffer(b"".join(ring.slices()), np.uint8)
            ring.take(len(data))
            if channel is Channel.FAULT:
                found += [record for record in records(data) if isinstance(record, RawSample)]
            else:
                rows = data.reshape(-1, RECORD_BYTES[channel])[:, 8:24].copy().view(np.uint64)
                found += [
                    RawSample(int(time), int(ids) & 0xFFFFFFFF, int(ids) >> 32, 0, b"") for ids, time in rows
                ]
    return found


def addresses(samples: list[RawSample], pid: int) -> set[int]:
    """Page numbers of the faults of a process."""
    at = tracefs.event(*FAULT_EVENTS[0].split(":"))
    assert at is not None
    offset = at.fields["address"].offset
    return {
        int.from_bytes(s.raw[offset : offset + 8], "little") // PAGE_SIZE for s in samples if s.pid == pid
    }


class Shared:
    """Private pages that a child copies when it writes them, each once."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, PAGES * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self.write()
        self.first = ctypes.addressof(ctypes.c_char.from_buffer(self.memory)) // PAGE_SIZE
        self.pages = set(range(self.first, self.first + PAGES))

    def write(self) -> None:
        for page in range(PAGES):
            self.memory[page * PAGE_SIZE] = 1


def in_child(work: Callable[[], object], before: Callable[[int], object] = lambda pid: None) -> int:
    """Fork, let `before` happen in the parent, then `work` in the child; its pid after its end."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.read(reader, 1)
        work()
        os._exit(0)
    before(pid)
    os.write(writer, b"x")
    os.waitpid(pid, 0)
    os.close(reader)
    os.close(writer)
    return pid


def test_faults_of_a_watched_process_and_of_nobody_else(programs: FaultPrograms) -> None:
    """Each page that it writes, and as many allocations; another child of ours leaves no trace."""
    shared = Shared()
    stranger = in_child(shared.write)
    watched = in_child(shared.write, before=programs.watch)
    faults, pages = taken(programs, Channel.FAULT), taken(programs, Channel.PAGE)
    assert addresses(faults, watched) >= shared.pages
    assert {sample.pid for sample in (*faults, *pages)} == {watched}
    assert stranger != watched
    assert PAGES <= len(pages) <= len(faults)


def test_children_and_threads_of_a_watched_process_are_watched(programs: FaultPrograms) -> None:
    """A grandchild, and a thread."""
    shared = Shared()
    watched = in_child(lambda: in_child(shared.write), before=programs.watch)
    grandchildren = {sample.pid for sample in taken(programs, Channel.FAULT)} - {watched}
    assert len(grandchildren) == 1

    def in_thread() -> None:
        thread = threading.Thread(target=shared.write)
        thread.start()
        thread.join()

    watched = in_child(in_thread, before=programs.watch)
    tids = {s.tid for s in taken(programs, Channel.FAULT) if addresses([s], watched) & shared.pages}
    assert tids
    assert watched not in tids


def test_a_reused_thread_id_inherits_nothing(programs: FaultPrograms) -> None:
    """The byte of an id is written anew at each birth, whoever had it."""
    shared = Shared()
    watched = in_child(lambda: None, before=programs.watch)
    soon = range(watched + 1, watched + 2000)
    for tid in soon:
        programs.watch(tid)
    later = [in_child(shared.write) for _ in range(2)]
    assert set(later) <= set(soon), "the next ids"
    assert not {sample.pid for sample in taken(programs, Channel.FAULT)} & set(later)


def test_watching_begins_at_exec(programs: FaultPrograms) -> None:
    """What the child copies before it becomes another program is not the program's."""
    shared = Shared()

    def write_and_exec() -> None:
        shared.write()
        os.execv(sys.executable, [sys.executable, "-S", "-c", "import os; os._exit(os.fork() and 0)"])

    watched = in_child(write_and_exec, before=programs.watch_at_exec)
    faults = taken(programs, Channel.FAULT)
    assert any(sample.pid == watched for sample in faults)
    assert not addresses(faults, watched) & shared.pages


def test_a_full_ring_is_counted(programs: FaultPrograms) -> None:
    """What found no room is lost, and told; what was there before stays as it is."""
    shared = Shared()
    rounds = 3 * (SMALL[Channel.FAULT] // RECORD_BYTES[Channel.FAULT]) // PAGES * len(online_cpus())

    def write_all() -> None:
        for _ in range(rounds):
            in_child(lambda: None)
            child = os.fork()
            if not child:
                shared.write()
                os._exit(0)
            os.waitpid(child, 0)

    in_child(write_all, before=programs.watch)
    lost = programs.lost()[Channel.FAULT]
    faults = taken(programs, Channel.FAULT)
    assert lost > 0
    assert lost + len(faults) >= rounds * PAGES
    assert programs.lost()[Channel.TASK] == 0


def test_stopped_programs_write_nothing_and_closed_ones_are_gone(programs: FaultPrograms) -> None:
    """And may be closed again."""
    shared = Shared()
    programs.stop()
    in_child(shared.write, before=programs.watch)
    assert taken(programs, Channel.FAULT) == []
    programs.close()
    programs.close()


def test_perf_events_of_others_at_the_same_tracepoint_miss_nothing(programs: FaultPrograms) -> None:
    """A program's answer may keep a hit from everybody: ours never does."""
    shared = Shared()
    event = tracefs.event(*FAULT_EVENTS[0].split(":"))
    assert event is not None
    attributes = Attributes(type=EventType.TRACEPOINT, config=event.id, sample=Sample(0), flags=Flag.INHERIT)

    def counted() -> int:
        counter = Event(attributes, pid=0, cpu=-1)
        in_child(shared.write)
        count = int.from_bytes(os.read(counter.fd, 8), "little")
        counter.close()
        return count

    with_programs = counted()
    assert with_programs >= PAGES
    programs.close()
    assert abs(counted() - with_programs) < PAGES
