"""The law of bytes for hugetlb memory, private and shared, from a pool that may run dry.

Random calls beside a dictionary from page to byte; the other laws, those of promises among them, are checked after
each step. What was taken from a child is a bus error there, and never the bytes of somebody else.
"""

from __future__ import annotations

from contextlib import suppress

from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.errors import CowscopeError
from cowscope.vm import POLICIES, Advice, Machine, Process, Protection, kernel_access
from cowscope.vm.hugetlb import HUGE
from cowscope.vm.kernel_access import Hold
from cowscope.vm.laws import check

R, RW = Protection.READ, Protection.READ | Protection.WRITE
PAGE = 4096
SIZE = HUGE * PAGE
MINE, OURS, AWAY, N = 0x40000000, 0x50000000, 0x60000000, 3

words = [
    *("store", "store", "load", "load", "share", "share", "fork", "exit", "force", "peek", "pin", "unpin"),
    *("dontneed", "forget", "remove", "protect", "allow", "move", "slide", "fresh", "shrink", "exec"),
]
steps = st.lists(st.tuples(st.sampled_from(words), st.integers(0, 4), st.integers(0, N - 1)), max_size=30)
machines = st.tuples(st.sampled_from(sorted(POLICIES)), st.integers(4, 9), st.booleans())


class Played:
    """The machine and the model side by side."""

    def __init__(self, machine: Machine, *, reserve: bool) -> None:
        self.machine, self.reserve = machine, reserve
        self.shared: dict[int, int] = {}
        self.living = [machine.start()]
        self.bytes: dict[int, dict[int, int]] = {self.living[0].pid: {}}
        self.holds: list[Hold] = []
        first = self.living[0]
        first.mmap(N * SIZE, RW, address=MINE, fixed=True, huge=HUGE, reserve=False)
        first.mmap(N * SIZE, RW, address=OURS, fixed=True, huge=HUGE, shared=True, reserve=reserve)

    def step(self, word: str, who: int, page: int, value: int) -> None:
        process = self.living[who % len(self.living)]
        known, mine, ours = self.bytes[process.pid], MINE + page * SIZE, OURS + page * SIZE
        inside = value % HUGE * PAGE
        match word:
            case "store":
                process.store(mine, bytes([value]))
                known[page] = value
            case "force":
                kernel_access.write_forced(process.space, mine, bytes([value]))
                known[page] = value
            case "load":
                assert process.load(mine)[0] == known.get(page, 0)
            case "peek":
                assert kernel_access.read_pinned(process.space, mine, 1)[0] == known.get(page, 0)
            case "share":
                assert process.load(ours)[0] == self.shared.get(page, 0)
                process.store(ours, bytes([value]))
                self.shared[page] = value
            case "fork" if len(self.living) < 4:
                self._fork(process)
            case "exit" | "exec" if len(self.living) > 1:
                self.living.remove(process)
                if word == "exec":
                    process.exec()
                process.exit()
            case "pin" if len(self.holds) < 2:
                self.holds.append(process.pin(mine + inside, PAGE, write=bool(value % 2)))
            case "unpin" if self.holds:
                self.holds.pop().release()
            case _:
                self._change(process, word, page)

    def _fork(self, process: Process) -> None:
        child = process.fork()
        pages = [MINE // PAGE + page * HUGE for page in range(N)]
        kept = set(process.space.present_pages().tolist())  # the others were taken, or never there
        known = self.bytes[process.pid]
        self.living.append(child)
        self.bytes[child.pid] = {page: known[page] for page in known if pages[page] in kept}

    def _change(self, process: Process, word: str, page: int) -> None:
        known, mine, ours = self.bytes[process.pid], MINE + page * SIZE, OURS + page * SIZE
        match word:
            case "dontneed":
                process.madvise(mine, SIZE, Advice.DONTNEED)
                known.pop(page, None)
            case "forget":
                process.madvise(ours, SIZE, Advice.DONTNEED)
            case "remove":
                process.madvise(ours, SIZE, Advice.REMOVE)
                self.shared.pop(page, None)
            case "protect" | "allow":
                process.mprotect(mine, SIZE, R if word == "protect" else RW)
            case "move" | "slide":
                at = mine if word == "move" else ours
                process.mremap(at, SIZE - PAGE, SIZE, new_address=AWAY)
                process.mremap(AWAY, SIZE, SIZE, new_address=at)
            case "fresh":
                process.mmap(SIZE, RW, address=mine, fixed=True, huge=HUGE)
                known.pop(page, None)
            case "shrink":
                process.mmap(2 * SIZE, RW, address=AWAY, fixed=True, huge=HUGE)
                process.store(AWAY, b"x")
                process.mremap(AWAY, 2 * SIZE, PAGE)
                process.munmap(AWAY, SIZE)


@settings(max_examples=80, deadline=None)
@given(options=machines, plan=steps)
def test_bytes_of_huge_pages_are_kept(
    options: tuple[str, int, bool], plan: list[tuple[str, int, int]]
) -> None:
    """Whatever is refused on the way: promises, pages, rights."""
    policy, n_pages, reserve = options
    played = Played(Machine(policy, hugetlb_pages={HUGE: n_pages}), reserve=reserve)
    for number, (word, who, page) in enumerate(plan):
        with suppress(CowscopeError):
            played.step(word, who, page, number % 250 + 1)
        check(played.machine)
    for hold in played.holds:
        hold.release()
    for process in played.living:
        process.exit()
    check(played.machine)
    pool = played.machine.memory.pools[HUGE]
    assert (pool.free, pool.reserved, played.machine.memory.frames.in_use) == (n_pages, 0, 0)
