"""Machines in the states that the rules tell apart, and single faults on them; page 12 is the one looked at."""

from __future__ import annotations

import numpy as np

from cowscope.vm import Kind, Machine, Outcome, Protection
from cowscope.vm.entry import WRITABLE
from cowscope.vm.laws import check

R, RW, NONE = Protection.READ, Protection.READ | Protection.WRITE, Protection.NONE
PAGE = 4096


def machine_with(**mapping: object) -> Machine:
    """A machine whose space 0 maps pages 10 to 19."""
    machine = Machine()
    machine.spawn().map(10, 10, **{"protection": RW, **mapping})  # type: ignore[arg-type]
    return machine


def write(machine: Machine, page: int = 12, space: int = 0, decided: int = -1) -> Outcome:
    """The outcome of one write fault; laws hold after it."""
    outcome = Outcome(int(machine.write_faults([space], [page], decided=[decided])[0]))
    check(machine)
    return outcome


def read(machine: Machine, page: int = 12, space: int = 0) -> Outcome:
    """The outcome of one read fault; laws hold after it."""
    outcome = Outcome(int(machine.read_faults([space], [page])[0]))
    check(machine)
    return outcome


def entry(machine: Machine, page: int = 12, space: int = 0) -> int:
    """The bits of a page's entry, without the frame."""
    slot = machine.spaces[space].table.slot(page)
    return int(machine.memory.tables.entries[slot]) & 0xFFF


def nothing_mapped() -> Machine:
    """No mapping at all."""
    machine = Machine()
    machine.spawn()
    return machine


def not_writable() -> Machine:
    """A read-only mapping."""
    return machine_with(protection=R)


def written_already() -> Machine:
    """Page 12 is the process's own, and writable."""
    machine = machine_with()
    write(machine)
    return machine


def shared_untouched() -> Machine:
    """A shared anonymous mapping."""
    return machine_with(shared=True)


def shared_file_read() -> Machine:
    """A clean page of a shared file."""
    machine = machine_with(shared=True, kind=Kind.FILE, file=1)
    read(machine)
    return machine


def anonymous_untouched() -> Machine:
    """A private anonymous mapping."""
    return machine_with()


def file_untouched() -> Machine:
    """A private mapping of a file."""
    return machine_with(kind=Kind.FILE, file=1)


def zero_page_read() -> Machine:
    """Page 12 names the zero page."""
    machine = machine_with()
    read(machine)
    return machine


def file_page_read() -> Machine:
    """Page 12 names the page cache's frame."""
    machine = machine_with(kind=Kind.FILE, file=1)
    read(machine)
    return machine


def exclusive_but_read_only() -> Machine:
    """No way through the interface leaves such an entry, so the bit is cleared by hand."""
    machine = written_already()
    machine.memory.tables.entries[machine.spaces[0].table.slot(12)] &= ~np.uint64(WRITABLE)
    return machine


def shared_by_fork() -> Machine:
    """Page 12 is shared with a child."""
    machine = written_already()
    machine.fork(0)
    return machine


def left_by_the_child() -> Machine:
    """Page 12 was shared, and the child has gone."""
    machine = shared_by_fork()
    machine.exit(1)
    return machine
