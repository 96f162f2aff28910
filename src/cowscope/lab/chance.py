"""Random scenarios: numbers, read as operations that make sense where the scenario stands.

A draw is five small numbers: which operation, by whom, where, and two more for the rest. They are taken modulo
what there is to choose from, so every list of draws is a scenario, and so is every part of it: that is what
lets a counter-example be made shorter by leaving draws out.

Left out, each with its reason: tracked files (the kernel's writeback cleans pages at a time of its own), locked
memory (limits), swap, KSM and huge pages (daemons and fragmentation decide; the shipped scenarios show them
where they can be had).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

from cowscope.lab.scenario import Line, Place, Scenario, ScenarioError
from cowscope.lab.steps import (
    Advice,
    Exec,
    Exit,
    File,
    Fork,
    Hold,
    Holder,
    Load,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Range,
    Read,
    Release,
    Remote,
    Start,
    Step,
    Store,
    Truncate,
    Way,
    Write,
)

Draw: TypeAlias = tuple[int, int, int, int, int]
LIMITS = (255, 7, 255, 255, 255)
"""The largest number in each place of a draw."""

_MOST_PROCESSES, _MOST_NAMES, _FILE_PAGES = 5, 8, 6
_PROTECTIONS = (3, 3, 3, 3, 3, 3, 1, 1, 0, 2)
_WAYS = (Way.VM_READV, Way.VM_READV, Way.VM_READV, Way.VM_WRITEV, Way.MEM_READ, Way.MEM_WRITE)
_FILES = ("data", "gaps")
_ADVICE = (
    *(Advice.DONTNEED,) * 4,
    *(Advice.POPULATE_READ, Advice.POPULATE_WRITE) * 2,
    *(Advice.GUARD_INSTALL,) * 2,
    Advice.GUARD_REMOVE,
    Advice.DONTFORK,
    Advice.DOFORK,
    Advice.WIPEONFORK,
    Advice.WIPEONFORK,
    Advice.KEEPONFORK,
    Advice.FREE,
    Advice.REMOVE,
    Advice.MERGEABLE,
    Advice.UNMERGEABLE,
)


class Chance:
    """A scenario that grows draw by draw.

    >>> chance = Chance()
    >>> [str(line) for line in chance.take((1, 0, 0, 2, 65))]
    ['A store a[2] "N2"']
    """

    def __init__(self) -> None:
        """Two files, a process, a mapping: something to begin with."""
        self.scenario = Scenario("Found by chance.", "random")
        self.prologue = [
            self._add(File("data", _FILE_PAGES)),
            self._add(File("gaps", _FILE_PAGES, sparse=True)),
            self._add(Start("A")),
            self._add(Mmap("A", "a", 6)),
        ]

    def _add(self, step: Step) -> Line:
        self.scenario.add(step)
        return self.scenario.lines[-1]

    def take(self, draw: Draw) -> list[Line]:
        """The lines that a draw adds: one, or none if it makes no sense here."""
        what, who, where, how, more = draw
        process = self.scenario.alive[who % len(self.scenario.alive)]
        make = _OPERATIONS[what % len(_OPERATIONS)]
        step = make(self, process, where, how, more)
        if step is None:
            return []
        try:
            return [self._add(step)]
        except ScenarioError:
            return []

    def _place(self, where: int) -> tuple[str, Place]:
        names = list(self.scenario.places)
        name = names[where % len(names)]
        return name, self.scenario.places[name]

    def _page(self, where: int, how: int) -> Range:
        name, place = self._place(where)
        return Range(name, how % place.pages)

    def _range(self, where: int, how: int) -> Range:
        name, place = self._place(where)
        first = how % place.pages
        return Range(name, first, 1 + (how // 16) % (place.pages - first))

    def _data(self, how: int, more: int) -> bytes:
        return bytes([65 + more % 26]) + str(how % 10).encode()

    def nothing(self, process: str, where: int, how: int, more: int) -> Step | None:
        """The simplest draw: a counter-example is made shorter by turning draws into it."""
        return None

    def store(self, process: str, where: int, how: int, more: int) -> Step:
        """By the processor."""
        return Store(process, self._page(where, how), self._data(how, more))

    def load(self, process: str, where: int, how: int, more: int) -> Step:
        """By the processor."""
        return Load(process, self._page(where, how))

    def read(self, process: str, where: int, how: int, more: int) -> Step:
        """By the kernel."""
        return Read(process, self._page(where, how), self._data(how, more))

    def remote(self, process: str, where: int, how: int, more: int) -> Step:
        """By somebody else."""
        way = _WAYS[more % len(_WAYS)]
        data = self._data(how, more) if way in (Way.VM_WRITEV, Way.MEM_WRITE) else None
        return Remote(process, self._page(where, how), way, data)

    def hold(self, process: str, where: int, how: int, more: int) -> Step:
        """By a device or a pipe."""
        return Hold(process, self._range(where, how), (Holder.PIN, Holder.SPLICE)[more & 1])

    def release(self, process: str, where: int, how: int, more: int) -> Step | None:
        """One of those there are."""
        held = sorted(self.scenario.holds, key=str)
        return Release(*held[where % len(held)]) if held else None

    def fork(self, process: str, where: int, how: int, more: int) -> Step | None:
        """As long as there are few processes."""
        if len(self.scenario.alive) >= _MOST_PROCESSES:
            return None
        n = len(self.scenario.alive) + len(self.scenario.dead)
        return Fork(process, chr(65 + n % 26) + (str(n // 26) if n >= 26 else ""))

    def exit(self, process: str, where: int, how: int, more: int) -> Step | None:
        """But not the last one."""
        return Exit(process) if len(self.scenario.alive) > 1 else None

    def exec(self, process: str, where: int, how: int, more: int) -> Step | None:
        """Seldom."""
        return Exec(process) if more % 4 == 0 else None

    def mmap(self, process: str, where: int, how: int, more: int) -> Step | None:
        """At a place of its own, over what is there, or right beside it."""
        shared, file = bool(how & 1), _FILES[how >> 2 & 1] if how & 2 else None
        pages, protection = 1 + more % 6, _PROTECTIONS[more // 8 % len(_PROTECTIONS)]
        offset = how >> 3 & 3 if file else 0
        options = frozenset({"populate"} if more >= 224 else {"noreserve"} if more >= 208 else ())
        name, place = self._place(where)
        if how >= 160:  # over an old one
            return Mmap(process, name, pages, protection, shared, file, offset, None, options)
        if len(self.scenario.places) >= _MOST_NAMES:
            return None
        new = "abcdefghijkl"[len(self.scenario.places)]
        at = Range(name, how // 16 % (place.pages + 1)) if how >= 48 else None
        return Mmap(process, new, pages, protection, shared, file, offset, at, options)

    def munmap(self, process: str, where: int, how: int, more: int) -> Step:
        """A part or all."""
        return Munmap(process, self._range(where, how))

    def mprotect(self, process: str, where: int, how: int, more: int) -> Step:
        """A part or all."""
        return Mprotect(process, self._range(where, how), _PROTECTIONS[more % len(_PROTECTIONS)])

    def mremap(self, process: str, where: int, how: int, more: int) -> Step:
        """Longer, shorter, or elsewhere."""
        area = self._range(where, how)
        if more % 3 == 0:
            return Mremap(process, area, 1 + more // 3 % 8)
        name, place = self._place(more)
        return Mremap(
            process, area, area.count if more % 3 == 1 else 1 + more // 3 % 8, Range(name, more % place.pages)
        )

    def madvise(self, process: str, where: int, how: int, more: int) -> Step:
        """Any advice that chance has no part in."""
        return Madvise(process, self._range(where, how), _ADVICE[more % len(_ADVICE)])

    def write(self, process: str, where: int, how: int, more: int) -> Step:
        """Into a file."""
        return Write(process, Range(_FILES[where & 1], how % _FILE_PAGES), self._data(how, more))

    def truncate(self, process: str, where: int, how: int, more: int) -> Step | None:
        """Shorter, or long again."""
        return Truncate(process, _FILES[where & 1], 1 + how % _FILE_PAGES if how % 3 else _FILE_PAGES)


_Operation: TypeAlias = Callable[[Chance, str, int, int, int], Step | None]
_OPERATIONS: Sequence[_Operation] = (
    Chance.nothing,
    *(Chance.store,) * 20,
    *(Chance.load,) * 10,
    *(Chance.read,) * 3,
    *(Chance.remote,) * 5,
    Chance.hold,
    *(Chance.release,) * 2,
    *(Chance.fork,) * 7,
    *(Chance.exit,) * 3,
    Chance.exec,
    *(Chance.mmap,) * 6,
    *(Chance.munmap,) * 2,
    *(Chance.mprotect,) * 6,
    *(Chance.mremap,) * 3,
    *(Chance.madvise,) * 12,
    *(Chance.write,) * 2,
    Chance.truncate,
)
