"""What TLBs have to forget, and how many processors are interrupted."""

from __future__ import annotations

from cowscope.vm import Event, Flushed, Machine, Process, Protection
from cowscope.vm.tlb import Tlb

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096


def counted(process: Process) -> tuple[int, int, int]:
    """The counters since the last time, which are reset."""
    tlb = process.machine.memory.tlb
    process.machine.memory.tlb = Tlb()
    return tlb.page_flushes, tlb.full_flushes, tlb.shootdowns


def test_what_flushes_and_what_does_not() -> None:
    process = Machine().start()
    at = process.mmap(64 * PAGE, RW)
    process.store(at, bytes(64 * PAGE))
    assert counted(process) == (0, 0, 0), "nothing was there before"
    child = process.fork()
    assert counted(process) == (0, 1, 0), "the parent's entries lost W"
    child.store(at, b"x")
    assert counted(process) == (1, 0, 0), "a copy replaces the entry"
    process.store(at, b"x")
    assert counted(process) == (0, 0, 0), "reuse only gives W"
    process.mprotect(at, PAGE, R)
    assert counted(process) == (1, 0, 0)
    process.mprotect(at, PAGE, RW)
    assert counted(process) == (0, 0, 0)
    process.munmap(at, 33 * PAGE)
    assert counted(process) == (33, 0, 0)
    child.munmap(at, 34 * PAGE)
    assert counted(process) == (0, 1, 0)


def test_threads_on_other_processors_are_interrupted() -> None:
    process = Machine(n_cpus=4).start()
    at = process.mmap(2 * PAGE, RW)
    process.store(at, b"x")
    for _ in range(3):
        process.thread()
    counted(process)
    events: list[Event] = []
    process.machine.listen(events.append)
    process.fork()
    process.store(at, b"y")
    others = len(process.space.cpus) - 1
    assert others >= 2
    assert counted(process) == (1, 1, 2 * others)
    assert [event.shootdowns for event in events if isinstance(event, Flushed)] == [others]


def test_a_write_after_a_read_of_nothing_flushes_the_zero_page() -> None:
    process = Machine().start()
    at = process.mmap(PAGE, RW)
    process.load(at)
    process.store(at, b"x")
    assert counted(process) == (1, 0, 0)
