"""Mutants of the vm: each breaks one rule on purpose, and the comparison with the live kernel must notice.

`python -m tests.lab.mutants` prints how many operations each took to be caught: of random ones, since the
shipped scenarios would show only how they are ordered.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import numpy as np

from cowscope.lab.chance import LIMITS, Draw
from cowscope.lab.kernel import Stage
from cowscope.lab.search import Disagreement, Found, once
from cowscope.vm import (
    advice,
    calls,
    faults,
    file_faults,
    frames,
    kernel_access,
    processes,
    remap,
    reverse,
    rules,
)
from cowscope.vm.architecture import Architecture
from cowscope.vm.columns import Bools, Ints
from cowscope.vm.entry import PRESENT, USER, WRITABLE, without
from cowscope.vm.frames import Frames
from cowscope.vm.mappings import Mappings
from cowscope.vm.policies import Policy
from cowscope.vm.rules import MappingFlag, Outcome
from cowscope.vm.spaces import AddressSpace

MOST_OPERATIONS = 60_000
_DRAWS = 120

Patch = AbstractContextManager[Any]


@dataclass(frozen=True)
class Mutant:
    """A rule that is broken, and how."""

    name: str
    breaks: str
    change: Callable[[], Patch]


@dataclass(frozen=True)
class Caught:
    """What gave a mutant away, after how many operations; no difference: it got away."""

    operations: int
    difference: str = ""


def _all(value: bool) -> Callable[..., Bools]:
    return lambda *arguments, **named: np.full(len(arguments[-1]), value)


def _keeps_mark(self: Frames, numbers: Ints) -> None:
    self.map(numbers)


def _inherits(clear: int) -> Callable[[Mappings], Mappings]:
    real = Mappings.inherited

    def inherited(self: Mappings) -> Mappings:
        kept = self._table[2].copy()
        self._table[2] &= ~clear
        try:
            return real(self)
        finally:
            self._table[2] = kept

    return inherited


def _forgets(space: AddressSpace, part: Any) -> None:
    space.discard(part.start, part.end - part.start, keep_guards=True)
    space.mappings.forget_anon_vma(part.start, part.end)


def _drops_guards(space: AddressSpace, part: Any) -> None:
    space.discard(part.start, part.end - part.start)


def _writes_through(space: AddressSpace, address: int, data: bytes) -> int:
    """The kernel writes into the frame as it is, once the page is there."""
    entry = int(space.memory.tables.entries[space.table.slot(address >> 12)])
    flags = int(space.mappings.flags_at(np.array([address >> 12]))[0])
    if entry & PRESENT and entry & USER and flags & MappingFlag.WRITE:
        space.memory.frames.write((entry & ((1 << 52) - 1)) >> 12, address % 4096, data)
        return len(data)
    return _copy_to_user(space, address, data)


_copy_to_user = kernel_access.copy_to_user


def _takes_read_only(self: AddressSpace, start: int, end: int) -> Any:
    taken = _take(self, start, end)
    return replace(taken, entries=without(taken.entries, WRITABLE))


_take = AddressSpace.take


def _zero_from_file(*arguments: Any) -> Any:
    outcomes = _classify(*arguments)
    outcomes[outcomes == Outcome.COPIED_FROM_FILE] = Outcome.ZERO_FILLED
    return outcomes


_classify = rules.classify_writes


def _unshare_writable(space: AddressSpace, page: int, access: int, *, unshare: bool = False) -> bool:
    return _fault(space, page, access, unshare=False)


_fault = kernel_access._fault


def _no_merging() -> Patch:
    stack = ExitStack()
    for module in (calls, remap):
        stack.enter_context(patch.object(module, "merge", lambda *arguments, **named: None))
    return stack


def _of(place: Any, name: str, value: Any) -> Callable[[], Patch]:
    return lambda: patch.object(place, name, value)


def _classifying(value: Any) -> Callable[[], Patch]:
    return lambda: patch.object(faults, "classify_writes", value)


def _no_parts(*arguments: Any, **named: Any) -> Any:
    """Nobody maps the file, as far as truncation knows."""
    return iter(())


MUTANTS = (
    Mutant("never-reuse", "R2.2: the last sharer copies, too", _of(Policy, "reusable", _all(False))),
    Mutant(
        "always-reuse",
        "R2.1: a page that others map is written in place",
        _of(Policy, "reusable", _all(True)),
    ),
    Mutant("fork-keeps-mark", "R1.2: fork leaves PageAnonExclusive", _of(Frames, "share", _keeps_mark)),
    Mutant("fork-keeps-writable", "R1.2: fork leaves entries writable", _of(processes, "WRITABLE", 0)),
    Mutant(
        "fork-copies-all",
        "R1.1: fork copies every mapping's entries",
        _of(processes, "_needs_copy", _all(True)),
    ),
    Mutant("fork-copies-none", "R1.1: fork copies no entries", _of(processes, "_needs_copy", _all(False))),
    Mutant(
        "fork-forgets-guards",
        "R1.1: a guard region does not make fork copy",
        _of(processes, "_MAYBE_GUARD", 0),
    ),
    Mutant(
        "wipe-ignored",
        "R1.1: MADV_WIPEONFORK has no effect",
        _of(processes, "_LEFT_OUT", int(MappingFlag.DONT_FORK)),
    ),
    Mutant(
        "dontfork-ignored",
        "R1.1: MADV_DONTFORK has no effect",
        _of(Mappings, "inherited", _inherits(int(MappingFlag.DONT_FORK))),
    ),
    Mutant("no-anon-vma", "R1.1: writes leave no anon_vma", _of(Mappings, "note_anon_vma", lambda *a: None)),
    Mutant(
        "dontneed-forgets",
        "R1.1: MADV_DONTNEED takes anon_vma away",
        lambda: patch.dict(advice._ACTIONS, {advice.Advice.DONTNEED: _forgets}),
    ),
    Mutant(
        "dontneed-drops-guards",
        "R4.6: MADV_DONTNEED takes guard markers away",
        lambda: patch.dict(advice._ACTIONS, {advice.Advice.DONTNEED: _drops_guards}),
    ),
    Mutant("file-zero-filled", "R4.3: private file pages are zero-filled", _classifying(_zero_from_file)),
    Mutant(
        "copies-are-empty",
        "R2.1: a copy has no contents",
        _of(Frames, "copy_contents", lambda *a: None),
    ),
    Mutant(
        "no-fault-around",
        "R4.1: a read maps one page",
        _of(Architecture, "fault_around", property(lambda self: 1)),
    ),
    Mutant(
        "narrow-fault-around",
        "R4.1: the window has 4 pages",
        _of(Architecture, "fault_around", property(lambda self: 4)),
    ),
    Mutant(
        "shared-read-only",
        "R4.2: a read maps shared memory read-only",
        _of(file_faults, "_SHARED_WRITABLE", 1 << 40),
    ),
    Mutant(
        "mprotect-gives-all",
        "R4.5: made writable, pages that are shared do not trap",
        _of(AddressSpace, "_writable_at_once", lambda self, entries, flags: np.full(len(entries), True)),
    ),
    Mutant(
        "mprotect-gives-none",
        "R4.5: made writable, pages of one's own trap",
        _of(AddressSpace, "_writable_at_once", lambda self, entries, flags: np.full(len(entries), False)),
    ),
    Mutant(
        "move-loses-writable",
        "R4.7: mremap leaves entries read-only",
        _of(AddressSpace, "take", _takes_read_only),
    ),
    Mutant("never-merge", "§11: neighbours never merge", _no_merging),
    Mutant(
        "read-writes-through",
        "R7: read(2) writes into shared pages",
        _of(kernel_access, "copy_to_user", _writes_through),
    ),
    Mutant(
        "truncate-keeps-entries",
        "R4.4: entries beyond the end stay",
        _of(reverse, "mapped_parts", _no_parts),
    ),
    Mutant(
        "pins-share",
        "R2.5: process_vm_readv leaves a shared page shared",
        _of(kernel_access, "_is_shared_anonymous", lambda space, page: False),
    ),
    Mutant(
        "unshare-writable",
        "R2.5: un-sharing maps the page writable",
        _of(kernel_access, "_fault", _unshare_writable),
    ),
    Mutant(
        "debugger-asks",
        "R7: a debugger may not write where the process may not",
        _of(kernel_access, "write_forced", kernel_access.write_pinned),
    ),
    Mutant(
        "map-count-stays",
        "R2.2: a copy leaves the old page's map count",
        _of(frames.Frames, "unmap", lambda self, numbers: None),
    ),
)


def hunt(mutant: Mutant, stage: Stage, seed: int = 1, most: int = MOST_OPERATIONS) -> Caught:
    """Compare random scenarios with the mutant in place of the vm until it is caught."""
    chance, found = random.Random(seed), Found(seed)
    with mutant.change():
        while found.operations < most:
            draws: list[Draw] = [_draw(chance) for _ in range(_DRAWS)]
            try:
                once(stage, draws, found)
            except Disagreement as disagreement:
                return Caught(found.operations, str(disagreement))
            except (AssertionError, IndexError, KeyError, RecursionError) as error:
                return Caught(found.operations, f"the vm itself: {error!r}")
    return Caught(found.operations)


def _draw(chance: random.Random) -> Draw:
    one, two, three, four, five = (chance.randint(0, limit) for limit in LIMITS)
    return one, two, three, four, five


def main() -> int:
    """Print the table; 1 if a mutant got away."""
    away = 0
    print(f"{'mutant':24}{'operations':>11}  rule broken → what gave it away")
    with Stage() as stage:
        for mutant in MUTANTS:
            caught = hunt(mutant, stage)
            away += not caught.difference
            told = caught.difference or "NOT CAUGHT"
            print(f"{mutant.name:24}{caught.operations:>11,}  {mutant.breaks} → {told[:120]}", flush=True)
    print(f"{len(MUTANTS) - away} of {len(MUTANTS)} caught")
    return 1 if away else 0


if __name__ == "__main__":
    sys.exit(main())
