"""Calls that the kernel would refuse, and arguments that mean nothing: each its own error, and nothing changed."""

from __future__ import annotations

import pytest
from tests.vm.frozen import frozen
from tests.vm.mapped import AT, PAGE, RW, R, put

from cowscope.errors import (
    AlreadyMapped,
    BadAddress,
    CallRefused,
    Forbidden,
    InvalidArgument,
    NoChild,
    NoMemory,
    NotRunning,
)
from cowscope.vm import Advice, Machine, Process
from cowscope.vm.laws import check


def refusals(process: Process) -> list[tuple[type[CallRefused], object]]:
    """Calls that a kernel would refuse: what each must raise, and the call. Wrong types: `test_vm_arguments`."""
    file = process.machine.file(PAGE)
    big = 1 << 60
    p = process
    return [
        (InvalidArgument, lambda: p.mmap(0, RW)),
        (InvalidArgument, lambda: p.mmap(-1, RW)),
        (InvalidArgument, lambda: p.mmap(PAGE, 64)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, address=AT + 1, fixed=True)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, address=0, fixed=True)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, file=file, offset=7)),
        (NoMemory, lambda: p.mmap(big, RW)),
        (NoMemory, lambda: p.mmap(PAGE, RW, address=big, fixed=True)),
        (AlreadyMapped, lambda: p.mmap(PAGE, RW, address=AT, fixed=True, replace=False)),
        (Forbidden, lambda: p.mmap(PAGE, RW, shared=True, file=file, opened_for_writing=False)),
        (InvalidArgument, lambda: p.munmap(AT + 1, PAGE)),
        (InvalidArgument, lambda: p.munmap(AT, 0)),
        (InvalidArgument, lambda: p.munmap(AT, -PAGE)),
        (InvalidArgument, lambda: p.munmap(AT, big)),
        (InvalidArgument, lambda: p.munmap(-PAGE, PAGE)),
        (InvalidArgument, lambda: p.mprotect(AT + 1, PAGE, R)),
        (InvalidArgument, lambda: p.mprotect(AT, PAGE, 8)),
        (NoMemory, lambda: p.mprotect(AT - PAGE, PAGE, R)),
        (NoMemory, lambda: p.mprotect(AT, big, R)),
        (Forbidden, lambda: p.mprotect(AT + 16 * PAGE, PAGE, RW)),
        (InvalidArgument, lambda: p.mremap(AT + 1, PAGE, PAGE)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, 0)),
        (InvalidArgument, lambda: p.mremap(AT, 0, PAGE)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, 2 * PAGE, keep_old=True)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, PAGE, new_address=AT + 5)),
        (InvalidArgument, lambda: p.mremap(AT, 2 * PAGE, 2 * PAGE, new_address=AT + PAGE)),
        (InvalidArgument, lambda: p.mremap(AT, PAGE, PAGE, new_address=AT + PAGE, may_move=False)),
        (BadAddress, lambda: p.mremap(AT - PAGE, PAGE, PAGE)),
        (BadAddress, lambda: p.mremap(AT, 8 * PAGE, 9 * PAGE)),
        (NoMemory, lambda: p.mremap(AT, PAGE, 2 * PAGE, may_move=False)),
        (InvalidArgument, lambda: p.madvise(AT + 1, PAGE, Advice.DONTNEED)),
        (InvalidArgument, lambda: p.madvise(AT, PAGE, 77)),
        (InvalidArgument, lambda: p.madvise(AT + 16 * PAGE, PAGE, Advice.FREE)),
        (InvalidArgument, lambda: p.madvise(AT + 16 * PAGE, PAGE, Advice.WIPEONFORK)),
        (InvalidArgument, lambda: p.madvise(AT, PAGE, Advice.REMOVE)),
        (Forbidden, lambda: p.madvise(AT + 16 * PAGE, PAGE, Advice.REMOVE)),
        (NoMemory, lambda: p.madvise(AT - PAGE, PAGE, Advice.GUARD_INSTALL)),
        (NoMemory, lambda: p.mlock(AT - PAGE, PAGE)),
        (InvalidArgument, lambda: p.mlock(AT, big)),
        (NoMemory, lambda: p.brk(big)),
        (InvalidArgument, lambda: p.load(-1)),
        (InvalidArgument, lambda: p.load(AT, -1)),
        (InvalidArgument, lambda: p.store(-1, b"x")),
        (InvalidArgument, lambda: p.pages(AT + 1, PAGE)),
        (InvalidArgument, lambda: p.exit(-1)),
        (NoChild, lambda: p.wait()),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, huge=0)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, huge=3, address=AT, fixed=True)),
        (NoMemory, lambda: p.mmap(PAGE, RW, huge=512)),
        (InvalidArgument, lambda: p.mmap(2 * PAGE, RW, file=file, offset=(1 << 63) - PAGE)),
        (InvalidArgument, lambda: p.mmap(PAGE, RW, file=Machine().file(PAGE))),
        (InvalidArgument, lambda: p.load((1 << 64) - 1, 2)),
        (InvalidArgument, lambda: p.machine.fork(99)),
        (InvalidArgument, lambda: p.machine.exec(99)),
        (InvalidArgument, lambda: p.machine.exit(-1)),
        (InvalidArgument, lambda: file.truncate(1 << 63)),
        (InvalidArgument, lambda: file.write((1 << 63) - 1, b"x")),
        (InvalidArgument, lambda: p.machine.file(-1)),
        (InvalidArgument, lambda: file.truncate(-1)),
        (InvalidArgument, lambda: file.write(-1, b"x")),
        (InvalidArgument, lambda: file.read(-1, 1)),
    ]


def test_every_refused_call_leaves_the_machine_as_it_was() -> None:
    process = Machine().start()
    put(process, 0, 2)
    put(process, 2, 2, R)
    process.store(AT, b"x")
    file = process.machine.file(PAGE)
    put(process, 16, 1, R, shared=True, file=file, opened_for_writing=False)
    for expected, call in refusals(process):
        before = frozen(process.machine)
        with pytest.raises(expected):
            call()  # type: ignore[operator]
        check(process.machine)
        assert frozen(process.machine) == before


def test_every_call_of_a_process_that_ended_is_refused() -> None:
    machine = Machine()
    parent = machine.start()
    child = parent.fork()
    child.exit()
    calls = [call for expected, call in refusals(parent)]
    assert len(calls) > 40
    for call in (child.fork, child.vfork, child.exec, child.exit, child.wait, child.thread, child.mappings):
        with pytest.raises(NotRunning):
            call()
    for wrong in (
        lambda: child.mmap(PAGE, RW),
        lambda: child.munmap(AT, PAGE),
        lambda: child.brk(),
        lambda: child.load(AT),
    ):
        with pytest.raises(NotRunning):
            wrong()
    check(machine)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frame_limit": -1},
        {"swap_pages": -1},
        {"n_cpus": 0},
        {"folio_orders": [0]},
        {"folio_orders": [9]},
        {"hugetlb_pages": {3: 1}},
        {"hugetlb_pages": {512: -1}},
        {"hugetlb_pages": 5},
        {"hugetlb_pages": {512: 1.5}},
        {"hugetlb_pages": {512: True}},
        {"folio_orders": 3},
        {"folio_orders": "12"},
        {"folio_orders": [True]},
        {"advised_orders": [9]},
        {"advised_orders": 3},
        {"policy": "nope"},
        {"architecture": "vax"},
    ],
)
def test_a_machine_that_cannot_be_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument):
        Machine(**wrong)  # type: ignore[arg-type]
