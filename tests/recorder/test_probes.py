"""Events on threads of this process, with the real kernel: what is opened, drained, counted, handed on, given back."""

from __future__ import annotations

import errno
import mmap
import os
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.conftest import Require

from cowscope.errors import NoSuchProcess
from cowscope.linux.perf_abi import Flag
from cowscope.linux.perf_records import Fork, records
from cowscope.recorder.channels import SMALL_RING_BYTES, Channel, Plan, software_plan
from cowscope.recorder.probes import Probes
from cowscope.units import PAGE_SIZE

PAGES = 50
RECORD_BYTES = {Channel.FAULT: 40, Channel.PAGE: 32}


@pytest.fixture
def plan(require: Require) -> Plan:
    """Page faults of user code by the software event, tasks, and mappings."""
    require(os.geteuid() == 0, "needs root")
    return software_plan(flags=Flag.INHERIT | Flag.EXCLUDE_KERNEL, rings=SMALL_RING_BYTES)


@pytest.fixture
def probes(plan: Plan, tmp_path: Path) -> Iterator[Probes]:
    """None open yet; all closed after, without a descriptor left."""
    before = set(os.listdir("/proc/self/fd"))
    made = Probes(plan, SMALL_RING_BYTES, tmp_path, record_bytes=RECORD_BYTES)
    yield made
    made.close()
    assert set(os.listdir("/proc/self/fd")) == before


def touch(pages: int = PAGES) -> None:
    """So many page faults, and whatever the interpreter adds."""
    with mmap.mmap(-1, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for page in range(pages):
            memory[page * PAGE_SIZE] = 1


def drained(probes: Probes) -> bytes:
    """What the task rings held; all rings are empty after."""
    return b"".join([probes.drain(line) for line in probes.lines()])


def test_faults_flow_into_files(probes: Probes, tmp_path: Path) -> None:
    """Each of them once, whole records, counted as they are written; there is no file of what the plan lacks."""
    probes.open_for(threading.get_native_id())
    touch()
    drained(probes)
    n = probes.n_records(Channel.FAULT)
    assert n >= PAGES
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    assert set(files) == {f"{c}.{cpu}" for c in ("fault", "task", "map") for cpu in probes.cpus}
    assert sum(size for name, size in files.items() if name.startswith("fault")) == probes.n_bytes(
        Channel.FAULT
    )
    assert n * RECORD_BYTES[Channel.FAULT] == probes.n_bytes(Channel.FAULT)
    assert (probes.watches(Channel.FAULT), probes.watches(Channel.PAGE)) == (True, False)
    assert probes.lost() == {}


def test_births_are_handed_out_beside(probes: Probes) -> None:
    """The task rings alone, and they come first."""
    probes.open_for(threading.get_native_id())
    started = threading.Thread(target=str)
    started.start()
    started.join()
    forks = [r for r in records(np.frombuffer(drained(probes), np.uint8)) if isinstance(r, Fork)]
    assert [(fork.pid, fork.tid) for fork in forks] == [(os.getpid(), started.native_id)]
    assert next(probes.lines()).channel is Channel.TASK


def test_nothing_more_once_disabled(probes: Probes) -> None:
    """What waited stays to be drained."""
    probes.open_for(threading.get_native_id())
    touch()
    probes.disable()
    drained(probes)
    before = probes.n_records(Channel.FAULT)
    touch()
    drained(probes)
    assert PAGES <= before == probes.n_records(Channel.FAULT)


def test_a_full_ring_counts_what_it_lost(plan: Plan, tmp_path: Path, require: Require) -> None:
    """By channel, as the events themselves tell it; the other channels lost nothing."""
    least = {**SMALL_RING_BYTES, Channel.FAULT: PAGE_SIZE}
    probes = Probes(plan, least, tmp_path, record_bytes=RECORD_BYTES)
    try:
        probes.open_for(threading.get_native_id())
        fit = PAGE_SIZE // RECORD_BYTES[Channel.FAULT]
        touch(len(probes.cpus) * fit + PAGES)
        drained(probes)
        lost = probes.lost()
        require(lost, "needs a kernel that tells what was lost (6.0)")
        assert set(lost) == {"fault"}
        assert lost["fault"] >= PAGES
    finally:
        probes.close()


def test_a_ring_outlives_the_thread_that_it_was_opened_for(probes: Probes) -> None:
    """Its bell is handed on to the events of another thread, as long as there are any."""
    hold = threading.Barrier(2)
    other = threading.Thread(target=hold.wait)
    other.start()
    try:
        probes.open_for(threading.get_native_id())
        assert other.native_id is not None
        probes.open_for(other.native_id)
        bells = probes.poll_fds()
        assert len(bells) == 3 * len(probes.cpus)
        heirs = [probes.heir(fd) for fd in bells]
        assert None not in heirs
        assert not set(heirs) & set(bells)
        assert [probes.heir(fd) for fd in heirs if fd is not None] == [None] * len(bells)
        assert probes.heir(bells[0]) is None
    finally:
        hold.wait()
        other.join()


def test_a_process_that_is_gone(probes: Probes) -> None:
    """Is told as such."""
    with subprocess.Popen(["true"]) as gone:
        gone.wait()
    with pytest.raises(NoSuchProcess):
        probes.open_for(gone.pid)


def test_a_filter_that_the_kernel_refuses_is_no_filter(plan: Plan, tmp_path: Path) -> None:
    """It would let everything through, so it is an error."""
    (spec,) = plan[Channel.FAULT]
    probes = Probes(
        {Channel.FAULT: [replace(spec, filter="no_such_field == 1")]},
        SMALL_RING_BYTES,
        tmp_path,
        record_bytes=RECORD_BYTES,
    )
    try:
        with pytest.raises(OSError, match="SET_FILTER") as caught:
            probes.open_for(threading.get_native_id())
        assert caught.value.errno == errno.EINVAL
    finally:
        probes.close()
