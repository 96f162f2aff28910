"""The law of bytes: a process reads what it wrote last, or its forebear before the fork, whatever the kernel does.

Random calls with everything in play at once (every policy, huge pages, folios, swap, KSM, pins, few frames), beside
a model that knows no pages at all: a dictionary from place to byte. The other laws are checked after each step.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.vm.frozen import frozen

from cowscope.errors import CowscopeError, NotModelled
from cowscope.vm import POLICIES, Advice, Machine, OutOfMemory, Process, Protection, kernel_access
from cowscope.vm.kernel_access import Hold
from cowscope.vm.laws import check

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096
AT, SHARED, N = 0x40000000, 0x50000000, 12

machines = st.fixed_dictionaries(
    {
        "policy": st.sampled_from(sorted(POLICIES)),
        "frame_limit": st.sampled_from([None, None, 30]),
        "swap_pages": st.sampled_from([0, 6]),
        "folio_orders": st.sampled_from([(), (), (2,), (1, 3)]),
        "n_cpus": st.sampled_from([1, 4]),
    }
)
words = [
    *(
        "store",
        "store",
        "store",
        "long",
        "load",
        "load",
        "fork",
        "fork",
        "exit",
        "shared",
        "force",
        "pin",
        "unpin",
    ),
    *("pageout", "ksm", "unksm", "dontneed", "protect", "allow", "remap", "thread", "vfork", "peek", "read"),
    *("guard", "unguard", "exec"),
]
steps = st.lists(st.tuples(st.sampled_from(words), st.integers(0, 9), st.integers(0, N - 1)), max_size=40)


class Played:
    """The machine and the model side by side."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.shared: dict[int, int] = {}
        self.living: list[Process] = [machine.start()]
        self.bytes: dict[int, dict[int, int]] = {self.living[0].pid: {}}
        self.holds: list[Hold] = []
        self._map(self.living[0])
        self.living[0].mmap(N * PAGE, RW, address=SHARED, fixed=True, shared=True)

    def _map(self, process: Process) -> None:
        process.mmap(N * PAGE, RW, address=AT, fixed=True)
        process.madvise(AT, N * PAGE, Advice.MERGEABLE)

    def step(self, word: str, who: int, page: int, value: int) -> None:
        process = self.living[who % len(self.living)]
        known, at = self.bytes[process.pid], AT + page * PAGE
        match word:
            case "store":
                self._whole_or_not(lambda: process.store(at, bytes([value])))
                known[page] = value
            case "long":
                self._whole_or_not(lambda: process.store(at, bytes([value]) * ((N - page) * PAGE)))
                known.update(dict.fromkeys(range(page, N), value))
            case "force":
                kernel_access.write_forced(process.space, at, bytes([value]))
                known[page] = value
            case "load":
                assert process.load(at)[0] == known.get(page, 0)
            case "peek":
                assert kernel_access.read_pinned(process.space, at, 1)[0] == known.get(page, 0)
            case "read":
                assert kernel_access.copy_from_user(process.space, at, 1)[0] == known.get(page, 0)
            case "shared":
                assert process.load(SHARED + page * PAGE)[0] == self.shared.get(page, 0)
                process.store(SHARED + page * PAGE, bytes([value]))
                self.shared[page] = value
            case "fork" | "vfork" if len(self.living) < 5:
                self._fork(process, word)
            case "exit" if len(self.living) > 1:
                self.living.remove(process)
                process.exit()
            case "thread":
                process.thread().load(at)
            case "exec" if len(self.living) > 1:
                process.exec()
                self.living.remove(process)
                process.exit()
            case "pin" if len(self.holds) < 3:
                self.holds.append(process.pin(at, PAGE, write=bool(value % 2)))
            case "unpin" if self.holds:
                self.holds.pop().release()
            case "ksm":
                with suppress(NotModelled):  # of equal pages, the first is pinned
                    self.machine.merge_same_pages()
            case "protect" | "allow":
                process.mprotect(at, min(3, N - page) * PAGE, R if word == "protect" else RW)
            case "remap" if page < N - 1:
                self._swap_places(process, page)
            case _:
                self._advise(process, word, page)

    def _whole_or_not(self, access: Callable[[], None]) -> None:
        """An access that fails leaves the machine as it was; a signal may leave what its own fault does."""
        before = frozen(self.machine)
        try:
            access()
        except OutOfMemory:
            assert frozen(self.machine) == before
            raise

    def _fork(self, process: Process, word: str) -> None:
        child = process.fork() if word == "fork" else process.vfork()
        if word == "vfork":
            assert child.load(SHARED)[0] == self.shared.get(0, 0)
            child.exit()
        else:
            self.living.append(child)
            self.bytes[child.pid] = dict(self.bytes[process.pid])

    def _swap_places(self, process: Process, page: int) -> None:
        """Move a page away and back; whoever reads it there sees the same."""
        at, away = AT + page * PAGE, 0x60000000
        process.mremap(at, PAGE, PAGE, new_address=away)
        process.mremap(away, PAGE, PAGE, new_address=at)

    def _advise(self, process: Process, word: str, page: int) -> None:
        known, at = self.bytes[process.pid], AT + page * PAGE
        chosen = {
            "pageout": Advice.PAGEOUT,
            "unksm": Advice.UNMERGEABLE,
            "dontneed": Advice.DONTNEED,
            "guard": Advice.GUARD_INSTALL,
            "unguard": Advice.GUARD_REMOVE,
        }.get(word)
        if chosen is not None:
            process.madvise(at, PAGE, chosen)
            if chosen in (Advice.DONTNEED, Advice.GUARD_INSTALL):
                known.pop(page, None)


@settings(max_examples=150, deadline=None)
@given(options=machines, plan=steps)
def test_bytes_are_kept(options: dict[str, object], plan: list[tuple[str, int, int]]) -> None:
    """Whatever is refused on the way (memory, rights, guards) is refused as a whole."""
    played = Played(Machine(**options))  # type: ignore[arg-type]
    for number, (word, who, page) in enumerate(plan):
        with suppress(CowscopeError):
            played.step(word, who, page, number % 250 + 1)
        check(played.machine)
    for hold in played.holds:
        hold.release()
    for process in played.living:
        process.exit()
    check(played.machine)
    assert played.machine.memory.frames.in_use == 0
    assert not played.machine.spaces


@pytest.mark.parametrize("policy", sorted(POLICIES))
def test_a_store_that_runs_out_of_frames_writes_nothing(policy: str) -> None:
    """Even if it is long, and the frames last for half of it."""
    machine = Machine(policy, frame_limit=6)
    process = machine.start()
    process.mmap(8 * PAGE, RW, address=AT, fixed=True)
    with pytest.raises(OutOfMemory):
        process.store(AT, b"x" * 8 * PAGE)
    check(machine)
    assert process.load(AT, 8 * PAGE) == bytes(8 * PAGE)
