"""The same scenario under several policies, and what differs.

>>> def both_write(machine: Machine) -> None:
...     parent = machine.start()
...     at = parent.mmap(4 * 4096, 3)
...     parent.store(at, bytes(4 * 4096))
...     child = parent.fork()
...     child.store(at, b"x")
...     parent.store(at, b"y")
>>> [(row.policy, row.copies) for row in compare(both_write, ["linux", "mach-shadow", "eager"])]
[('linux', 1), ('mach-shadow', 2), ('eager', 0)]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cowscope.errors import InvalidArgument
from cowscope.vm.machine import Machine
from cowscope.vm.policies import POLICIES
from cowscope.vm.rules import Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCosts:
    """What a scenario cost under one policy; frames and table bytes are those in use at its end."""

    policy: str
    faults: int
    copies: int
    reuses: int
    zero_fills: int
    frames: int
    table_bytes: int
    fork_entries: int
    """Page table entries that forks copied, also those that an on-demand fork copied later; under svr4-anon the slots of
    its maps of anonymous pages, which stand in page tables here."""
    fork_tables: int
    """Leaf tables that forks copied, shared, or copied later."""
    fork_copies: int
    """Pages that forks copied at once."""


def compare(
    scenario: Callable[[Machine], object], policies: Iterable[str] = tuple(POLICIES)
) -> list[PolicyCosts]:
    """Run `scenario` on a new machine for each of `policies`, in this order; `InvalidArgument` for unknown ones."""
    if not callable(scenario):
        raise InvalidArgument(f"compare: scenario must be a function, not {scenario!r}")
    if not isinstance(policies, Iterable):
        raise InvalidArgument(f"compare: policies must be several names, not {policies!r}")
    return [_costs(scenario, name) for name in policies]


def _costs(scenario: Callable[[Machine], object], name: str) -> PolicyCosts:
    machine = Machine(name)
    scenario(machine)
    work = machine.memory.work
    return PolicyCosts(
        policy=name,
        faults=int(work.faults.sum() - work.faults[Outcome.NO_FAULT]),
        copies=int(work.faults[Outcome.COPIED]),
        reuses=int(work.faults[Outcome.REUSED]),
        zero_fills=int(work.faults[Outcome.ZERO_FILLED]),
        frames=machine.memory.frames.in_use,
        table_bytes=machine.table_bytes,
        fork_entries=work.fork_entries,
        fork_tables=work.fork_tables,
        fork_copies=work.fork_copies,
    )
