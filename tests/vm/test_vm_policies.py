"""Other kernels: the same scenario under each policy, and the ways in which they part."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.errors import CowscopeError, NoMemory
from cowscope.vm import POLICIES, BusError, Machine, Outcome, Process, Protection
from cowscope.vm.architecture import ARCHITECTURES
from cowscope.vm.compare import PolicyCosts, compare
from cowscope.vm.laws import check

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096
AT = 0x10000000


def written(policy: str, n: int = 4) -> Process:
    """A process that wrote `n` pages at AT."""
    process = Machine(policy).start()
    process.mmap(n * PAGE, RW, address=AT, fixed=True)
    process.store(AT, b"x" * n * PAGE)
    return process


def write(process: Process, page: int = 0) -> Outcome:
    """What one write comes to; the laws hold after it."""
    outcome = process.machine.write_faults([process.space.id], [AT // PAGE + page])[0]
    check(process.machine)
    return Outcome(int(outcome))


def both_write(machine: Machine) -> None:
    """Four pages, a fork, and one page written by the child, then by the parent."""
    process = machine.start()
    process.mmap(4 * PAGE, RW, address=AT, fixed=True)
    process.store(AT, b"x" * 4 * PAGE)
    child = process.fork()
    child.load(AT + PAGE)
    child.store(AT, b"y")
    process.store(AT, b"z")
    check(machine)
    assert (process.load(AT), child.load(AT), child.load(AT + PAGE)) == (b"z", b"y", b"x")


def test_what_differs_for_two_writers_of_one_page() -> None:
    """Columns: faults after the fork, copies, reuses, frames at the end, entries and pages copied by fork."""
    table = {
        row.policy: (row.faults - 4, row.copies, row.reuses, row.frames, row.fork_entries, row.fork_copies)
        for row in compare(both_write)
    }
    assert table == {
        "linux": (2, 1, 1, 5, 4, 0),
        "linux-aex": (2, 1, 1, 5, 4, 0),
        "linux-refcount": (2, 1, 1, 5, 4, 0),
        "linux-mapcount": (2, 1, 1, 5, 4, 0),
        "svr4-anon": (3, 1, 1, 5, 4, 0),
        "mach-shadow": (2, 2, 0, 6, 4, 0),
        "eager": (0, 0, 0, 8, 4, 4),
        "on-demand-fork": (2, 1, 1, 5, 4, 0),
    }


def test_an_exclusive_page_that_lost_write_traps_where_nothing_marks_it() -> None:
    """R4.5 against kernels before 5.19."""
    found = {}
    for name in POLICIES:
        process = written(name)
        process.mprotect(AT, PAGE, R)
        process.mprotect(AT, PAGE, RW)
        found[name] = write(process)
    traps = {name for name, outcome in found.items() if outcome is Outcome.REUSED}
    assert traps == {"linux-refcount", "linux-mapcount", "svr4-anon", "mach-shadow"}
    assert set(found.values()) == {Outcome.REUSED, Outcome.NO_FAULT}


@pytest.mark.parametrize(("policy", "outcome"), [("linux", "COPIED"), ("linux-mapcount", "REUSED")])
def test_who_counts_a_pipes_reference(policy: str, outcome: str) -> None:
    process = written(policy)
    process.fork().exit()
    process.splice(AT, PAGE)
    assert write(process).name == outcome


def test_a_pinned_page_was_shared_by_fork_up_to_5_8() -> None:
    process = written("linux-mapcount")
    process.pin(AT, PAGE)
    assert process.fork().space.shared_at_fork == 4


def test_a_child_of_svr4_loads_each_page_by_a_fault() -> None:
    child = written("svr4-anon").fork()
    page = [AT // PAGE]
    assert Outcome(int(child.machine.read_faults([child.space.id], page)[0])) is Outcome.MAPPED
    assert Outcome(int(child.machine.read_faults([child.space.id], page)[0])) is Outcome.NO_FAULT
    check(child.machine)


# --- shadow objects ---


def test_a_shadow_chain_collapses_when_one_side_ends() -> None:
    """Before: both writers copy, and the page stays below. After: the one that is left reuses."""
    parent = written("mach-shadow")
    child = parent.fork()
    assert [write(child), write(parent)] == [Outcome.COPIED] * 2
    assert parent.machine.memory.frames.in_use == 6, "the page that both copied lies below, unseen"
    child.exit()
    check(parent.machine)
    assert parent.machine.memory.frames.in_use == 4
    assert write(parent, 1) is Outcome.REUSED


def test_pages_move_up_step_by_step_in_a_chain_of_forks() -> None:
    parent = written("mach-shadow")
    child = parent.fork()
    grandchild = child.fork()
    parent.exit()
    assert write(child) is Outcome.COPIED, "child and grandchild still have an object in common"
    child.exit()
    check(grandchild.machine)
    assert write(grandchild) is Outcome.REUSED
    assert grandchild.machine.memory.frames.in_use == 4


# --- eager ---


def test_an_eager_fork_without_frames_is_undone() -> None:
    parent = written("eager")
    parent.machine.memory.frames.limit = 7
    with pytest.raises(NoMemory, match="fork needs 4 frames"):
        parent.fork()
    check(parent.machine)
    assert parent.machine.processes == {parent.pid: parent}
    assert write(parent) is Outcome.NO_FAULT


# --- on-demand fork ---


def test_tables_are_shared_until_somebody_changes_something() -> None:
    parent = written("on-demand-fork", 1024)
    child = parent.fork()
    tables = parent.machine.memory.tables
    check(parent.machine)
    assert (tables.in_use, parent.machine.memory.work.fork_entries) == (2, 0)
    assert child.load(AT + PAGE) == b"x"
    assert tables.in_use == 2
    child.store(AT, b"y")
    check(parent.machine)
    assert (tables.in_use, parent.machine.memory.work.fork_entries) == (3, 512)
    assert (parent.load(AT), child.load(AT)) == (b"x", b"y")
    child.exit()
    check(parent.machine)
    assert write(parent, 512) is Outcome.NO_FAULT, (
        "never written since the fork: the table is the parent's again"
    )
    assert write(parent, 1) is Outcome.REUSED


# --- all of them ---

steps = st.lists(
    st.tuples(
        st.sampled_from(["fork", "store", "store", "load", "exit", "discard", "protect", "allow", "unmap"]),
        st.integers(0, 3),
        st.integers(0, 5),
    ),
    max_size=30,
)


def _run(policy: str, plan: list[tuple[str, int, int]]) -> tuple[Machine, list[bytes]]:
    """Every policy must show every process the same bytes."""
    machine = Machine(policy)
    first = machine.start()
    first.mmap(6 * PAGE, RW, address=AT, fixed=True)
    living, seen = [first], []
    for number, (step, who, page) in enumerate(plan):
        process = living[who % len(living)]
        at = AT + page * PAGE
        try:
            if step == "fork" and len(living) < 5:
                living.append(process.fork())
            elif step == "store":
                process.store(at, bytes([number + 1]))
            elif step == "load":
                seen.append(process.load(at))
            elif step == "exit" and len(living) > 1:
                living.remove(process)
                process.exit()
            elif step == "discard":
                process.madvise(at, PAGE, 4)
            elif step == "unmap" and page > 3:
                process.munmap(at, PAGE)
            elif step in ("protect", "allow"):
                process.mprotect(at, PAGE, R if step == "protect" else RW)
        except CowscopeError as refused:
            seen.append(type(refused).__name__.encode())
        check(machine)
    return machine, seen


@settings(max_examples=60, deadline=None)
@given(plan=steps)
def test_bytes_are_the_same_under_every_policy(plan: list[tuple[str, int, int]]) -> None:
    """What differs is the cost; and the laws hold after each step."""
    expected = _run("linux", plan)[1]
    for name in POLICIES:
        assert _run(name, plan)[1] == expected, name


def test_the_table_names_every_policy() -> None:
    rows: list[PolicyCosts] = compare(both_write)
    assert [row.policy for row in rows] == list(POLICIES)
    scenario: Callable[[Machine], object] = both_write
    assert compare(scenario, ["eager"])[0].table_bytes == 8 * PAGE, "four levels for each of two spaces"


# --- architectures ---


@pytest.mark.parametrize(
    ("name", "tables"),
    [
        ("x86-64", [3, 2, 1, 1]),
        ("x86-64-5", [3, 2, 1, 1, 1]),
        ("arm64-16k", [2, 1, 1, 1]),
        ("arm64-64k", [2, 1, 1]),
    ],
)
def test_tables_that_a_few_pages_need(name: str, tables: list[int]) -> None:
    """Pages 0, 511, 512 and 262144: fan-out decides how many tables they are spread over."""
    assert ARCHITECTURES[name].n_tables(np.array([0, 511, 512, 1 << 18])) == tables


@pytest.mark.parametrize("name", list(ARCHITECTURES))
def test_the_unit_of_copying_is_the_base_page(name: str) -> None:
    """One byte written: one base page copied; a file's end and its fault-around count in base pages too."""
    machine = Machine(architecture=name)
    size = ARCHITECTURES[name].page_size
    process = machine.start()
    at = process.mmap(4 * size, RW)
    assert at % size == 0
    process.store(at, b"x" * 4 * size)
    child = process.fork()
    child.store(at + size - 1, b"y")
    check(machine)
    assert machine.memory.frames.in_use == 5
    assert (process.load(at + size - 1), child.load(at, size)[-2:]) == (b"x", b"xy")
    with pytest.raises(CowscopeError):
        process.munmap(at + size // 2, size)
    file = machine.file(3 * size + 1)
    for page in range(4):
        file.write(page * size, b"f")
    shown = process.mmap(5 * size, R, file=file)
    assert process.load(shown + 3 * size) == b"f"
    with pytest.raises(BusError):
        process.load(shown + 4 * size)
    child.brk(child.brk() + size)
    child.map_stack()
    check(machine)


def test_page_tables_of_all_levels_are_counted() -> None:
    """Two pages far apart, in spaces of 4 and 5 levels, and with 64 KiB pages."""
    found = {}
    for name in ("x86-64", "x86-64-5", "arm64-16k", "arm64-64k"):
        process = Machine(architecture=name).start()
        for at in (1 << 30, 1 << 40):
            process.store(process.mmap(PAGE, RW, address=at), b"x")
        found[name] = process.machine.table_bytes >> 10
    assert found == {"x86-64": 7 * 4, "x86-64-5": 8 * 4, "arm64-16k": 6 * 16, "arm64-64k": 4 * 64}


def test_huge_pages_of_larger_base_pages_are_refused() -> None:
    with pytest.raises(CowscopeError, match="not modelled"):
        Machine(architecture="arm64-64k", huge_pages=True)


def test_on_demand_fork_shows_common_entries_as_what_they_do() -> None:
    """Through a table that two spaces have nobody writes, and what stands in it is mapped once for each."""
    parent = Machine("on-demand-fork").start()
    at = parent.mmap(2 * PAGE, 3)
    parent.store(at, b"mine")
    child = parent.fork()
    for process in (parent, child):
        found = process.pages(at, PAGE)
        assert (found.present[0], found.writable[0], found.exclusive[0]) == (True, False, False)
        assert found.map_count[0] == 2
    child.store(at, b"ours")
    assert [bool(p.pages(at, PAGE).writable[0]) for p in (parent, child)] == [False, True]
    assert [int(p.pages(at, PAGE).map_count[0]) for p in (parent, child)] == [1, 1]
