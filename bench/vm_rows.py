"""The vm's promised speeds: fork against the live kernel's, faults, loads, and cost that is flat in mapped size."""

from __future__ import annotations

import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np

from cowscope.vm import AddressSpace, Machine

GIB = 1 << 30
PAGE = 4096
PAGES_IN_GIB = GIB // PAGE
RW = 3
BATCH = 1 << 20


def main() -> None:
    """One measurement in a process of its own, so that none warms the memory of another: a number per line."""
    print(*MEASURES[sys.argv[1]](*map(int, sys.argv[2:])), sep="\n")


def touched(n_gib: int, mapped_gib: int | None = None) -> tuple[Machine, AddressSpace]:
    """A space that wrote every page of `n_gib` GiB."""
    machine = Machine()
    space = machine.spawn()
    space.map(0, (mapped_gib or n_gib) * PAGES_IN_GIB, protection=RW)
    for number in range(n_gib):
        pages = np.arange(number * PAGES_IN_GIB, (number + 1) * PAGES_IN_GIB)
        machine.write_faults(np.zeros(len(pages), np.int32), pages)
    return machine, space


def timed(action: Callable[[], object]) -> float:
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def fork_model(n_gib: int, mapped_gib: int | None = None) -> list[float]:
    """Seconds a GiB of several forks, each with an exit after it; the first grows the tables and does not count."""
    machine, space = touched(n_gib, mapped_gib)
    times = []
    for _ in range(4):
        times.append(timed(lambda: machine.fork(space.id)) / n_gib)
        machine.exit(max(machine.spaces))
    return times[1:]


def fork_kernel(n_gib: int) -> list[float]:
    """The same by os.fork, of memory in 4 KiB pages."""
    memory = mmap.mmap(-1, n_gib * GIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(mmap.MADV_NOHUGEPAGE)
    for at in range(0, n_gib * GIB, PAGE):
        memory[at] = 1
    times = []
    for _ in range(4):
        begin = time.perf_counter()
        pid = os.fork()
        if not pid:
            os._exit(0)
        times.append((time.perf_counter() - begin) / n_gib)
        os.waitpid(pid, 0)
    return times[1:]


def batches() -> list[float]:
    """Pages a second: zero-filled, copied, reused, a million at a time."""
    machine = Machine()
    space = machine.spawn()
    space.map(0, BATCH, protection=RW)
    pages, rates = np.arange(BATCH), []
    for _ in range(3):
        mine = np.zeros(BATCH, np.int32)
        filled = timed(lambda who=mine: machine.write_faults(who, pages))  # type: ignore[misc]
        child = machine.fork(space.id)
        theirs = np.full(BATCH, child.id, np.int32)
        copied = timed(lambda who=theirs: machine.write_faults(who, pages))  # type: ignore[misc]
        reused = timed(lambda who=mine: machine.write_faults(who, pages))  # type: ignore[misc]
        rates = [BATCH / spent for spent in (filled, copied, reused)]
        machine.exit(child.id)
        space.discard(0, BATCH)
    return rates


def lone() -> list[float]:
    """Seconds for a store that traps, copies and starts again, and for a load that hits: medians of rounds."""
    copies, hits = [], []
    for _ in range(7):
        machine = Machine()
        parent = machine.spawn()
        parent.map(1000, 500, protection=RW)
        parent.store(1000 * PAGE, bytes(500 * PAGE))
        child = machine.fork(parent.id)
        copies.append(timed(lambda s=child: [s.store((1000 + i) * PAGE, b"x") for i in range(500)]) / 500)  # type: ignore[misc]
        hits.append(timed(lambda s=child: [s.load((1000 + i) * PAGE, 1) for i in range(500)]) / 500)  # type: ignore[misc]
    return [statistics.median(copies), statistics.median(hits)]


MEASURES: dict[str, Callable[..., list[float]]] = {
    "fork-model": fork_model,
    "fork-kernel": fork_kernel,
    "batches": batches,
    "lone": lone,
}

if __name__ == "__main__":
    main()
