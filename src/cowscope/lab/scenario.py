"""Scenarios: a sentence, and the steps that show it.

    # The first writer copies a shared page; the last one keeps the frame.
    A start
    A mmap heap 4 rw private anonymous
    A store heap[0] "mine"      -> zero-filled
    A fork B
    B store heap[0] "ours"      -> copied
    A store heap[0] "mine"      -> reused
    B exit

One operation a line, by whom first; `steps` has all of them. What follows an arrow is what should come of it,
in the words of `result.Word` or as an error's name; without one, the two sides need only agree.

`Scenario.add` refuses what makes no sense, so that every `Scenario` can be run. Places are given out here:
each mapping that says no `at` gets room of its own, with pages between that nobody maps, so that neighbours
merge only where a scenario asks for it.

Not here: the text form's errors with their columns (`parser`), and what happens (`model`, `kernel`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from cowscope.errors import UsageError
from cowscope.lab.steps import (
    LABEL_BYTES,
    Exec,
    Exit,
    File,
    Folios,
    Fork,
    Hold,
    Holder,
    Load,
    Madvise,
    Merge,
    Mlock,
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
    Write,
)

FIRST_PAGE = 1 << 24
"""The first page that a scenario may map: at 64 GiB, far from the puppet's own."""

END_PAGE = 1 << 25
HUGE_PAGES = 512
PIPE_PAGES = 16
"""How much a pipe takes, so the most that is spliced or pinned at once."""
_ALIGNED = 16  # a window of fault-around, and the largest folio that small mappings could have


class ScenarioError(UsageError):
    """A step that cannot be taken; `word` is the part of its line that is wrong, `expected` what would do."""

    def __init__(self, problem: str, expected: str, word: str = "") -> None:
        """Keep the parts, for the parser to add where."""
        super().__init__(f"{problem}; expected {expected}")
        self.problem, self.expected, self.word = problem, expected, word


@dataclass(slots=True)
class Place:
    """Where a name lies: its first page, how many pages it ever had, and how many are its own to grow in."""

    start: int
    pages: int
    room: int


@dataclass(frozen=True, slots=True)
class Line:
    """A step, what should come of it (or None), its number in the text it came from (or 0), the comment before it."""

    step: Step
    expected: str | None = None
    number: int = 0
    said: str = ""

    def __str__(self) -> str:
        """As text, without the number."""
        return f"{self.step}" + (f" -> {self.expected}" if self.expected else "")


@dataclass(slots=True)
class Scenario:
    """Steps in order; `sentence` says what they show, `name` where they come from.

    >>> from cowscope.lab.steps import Start, Mmap, Store
    >>> scenario = Scenario("A page is filled with zeros on its first write.")
    >>> scenario.add(Start("A"))
    >>> scenario.add(Mmap("A", "heap", 2))
    >>> scenario.add(Store("A", Range("heap", 1), b"hi"), expected="zero-filled")
    >>> print(scenario)
    # A page is filled with zeros on its first write.
    A start
    A mmap heap 2 rw private anonymous
    A store heap[1] "hi" -> zero-filled
    >>> scenario.add(Store("B", Range("heap", 0), b"hi"))
    Traceback (most recent call last):
    cowscope.lab.scenario.ScenarioError: there is no process B; expected one of A
    """

    sentence: str = ""
    name: str = "scenario"
    lines: list[Line] = field(default_factory=list)
    places: dict[str, Place] = field(default_factory=dict)
    files: dict[str, File] = field(default_factory=dict)
    alive: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    holds: set[tuple[str, Range, Holder]] = field(default_factory=set)

    def __str__(self) -> str:
        """The text form."""
        head = [f"# {line}" for line in self.sentence.splitlines()]
        return "\n".join([*head, *map(str, self.lines)])

    def __iter__(self) -> Iterator[Line]:
        """The lines, in order."""
        return iter(self.lines)

    def add(self, step: Step, *, expected: str | None = None, number: int = 0, said: str = "") -> None:
        """Take one more step. Raises `ScenarioError`, and is then as before."""
        self._check(step)
        self.lines.append(Line(step, expected, number, said))

    def page(self, at: Range) -> int:
        """The number of the first page of `at`.

        >>> scenario = Scenario()
        >>> scenario.places["heap"] = Place(100, 4, 16)
        >>> scenario.page(Range("heap", 3))
        103
        """
        return self.places[at.name].start + at.first

    def _check(self, step: Step) -> None:
        if isinstance(step, File):
            self._new_name(step.name)
            self.files[step.name] = step
            return
        if isinstance(step, Folios | Merge):
            return
        if isinstance(step, Start):
            self._enter(step.process)
            return
        self._alive(step.process)
        match step:
            case Fork():
                self._enter(step.child)
            case Exit() | Exec() if any(process == step.process for process, _, _ in self.holds):
                raise ScenarioError(f"{step.process} has pages pinned or spliced", "unpin or unsplice first")
            case Exit():
                self.alive.remove(step.process)
                self.dead.add(step.process)
            case Mmap():
                self._map(step)
            case Mremap():
                self._remap(step)
            case Hold():
                self._hold(step)
            case Release():
                self._release(step)
            case Munmap() | Mprotect() | Madvise() | Mlock():
                self._inside(step.range)
            case Load() | Store() | Read() | Remote():
                self._inside(step.at)
                self._short(step.data or b"")
            case Write():
                self._in_file(step.at.name, step.at.first)
                self._short(step.data)
            case Truncate():
                self._in_file(step.file, 0)
            case Exec():
                pass

    def _enter(self, process: str) -> None:
        if process in self.alive or process in self.dead:
            raise ScenarioError(f"there was a process {process} before", "a new name", process)
        self.alive.append(process)

    def _alive(self, process: str) -> None:
        one_of = f"one of {', '.join(self.alive)}" if self.alive else "a line NAME start first"
        if process in self.dead:
            raise ScenarioError(f"process {process} has ended", one_of, process)
        if process not in self.alive:
            raise ScenarioError(f"there is no process {process}", one_of, process)

    def _new_name(self, name: str) -> None:
        if name in self.places or name in self.files:
            raise ScenarioError(f"{name} is named already", "a new name", name)

    def _inside(self, at: Range) -> Place:
        place = self.places.get(at.name)
        if place is None:
            known = ", ".join(self.places) or "a mapping made by mmap first"
            raise ScenarioError(f"nothing is mapped as {at.name}", f"one of {known}", at.name)
        if at.first + at.count > place.pages:
            raise ScenarioError(f"{at} is outside", f"pages 0 to {place.pages - 1} of {at.name}", at.name)
        return place

    def _in_file(self, name: str, page: int) -> None:
        file = self.files.get(name)
        if file is None:
            known = ", ".join(self.files) or "a file made by memfd or disk first"
            raise ScenarioError(f"there is no file {name}", f"one of {known}", name)
        if page >= file.pages:
            raise ScenarioError(f"{name}[{page}] is outside", f"pages 0 to {file.pages - 1} of {name}", name)

    def _hold(self, step: Hold) -> None:
        self._inside(step.range)
        if step.range.count > PIPE_PAGES:
            raise ScenarioError(f"{step.range.count} pages are too many", f"at most {PIPE_PAGES}")
        if (step.process, step.range, step.holder) in self.holds:
            raise ScenarioError(f"{step.range} is held already", f"un{step.holder} first", step.range.name)
        self.holds.add((step.process, step.range, step.holder))

    def _release(self, step: Release) -> None:
        if (step.process, step.range, step.holder) not in self.holds:
            problem = f"{step.process} has no {step.holder} of {step.range}"
            raise ScenarioError(
                problem, f"the pages of a line {step.process} {step.holder} …", step.range.name
            )
        self.holds.remove((step.process, step.range, step.holder))

    def _short(self, data: bytes) -> None:
        if len(data) > LABEL_BYTES:
            raise ScenarioError(f"{len(data)} bytes are too many", f"at most {LABEL_BYTES}", '"')

    def _map(self, step: Mmap) -> None:
        if step.file is not None:
            self._in_file(step.file, 0)
        known = self.places.get(step.name)
        if known and step.at is None:
            if step.pages > known.room:
                raise ScenarioError(f"{step.name} has no room for {step.pages}", f"at most {known.room}")
            known.pages = max(known.pages, step.pages)
            return
        self._new_name(step.name)
        self.places[step.name] = self._at(step) if step.at else self._next_place(step.pages)

    def _at(self, step: Mmap) -> Place:
        assert step.at is not None
        other = self.places.get(step.at.name)
        if other is None:
            raise ScenarioError(f"nothing is mapped as {step.at.name}", "a name mapped before", step.at.name)
        room = other.room - step.at.first
        if step.pages > room:
            raise ScenarioError(
                f"there is no room at {step.at}", f"at most {max(room, 0)} pages", step.at.name
            )
        return Place(other.start + step.at.first, step.pages, room)

    def _next_place(self, pages: int) -> Place:
        aligned = HUGE_PAGES if pages >= HUGE_PAGES else _ALIGNED
        end = max((place.start + place.room + 1 for place in self.places.values()), default=FIRST_PAGE)
        start = -(-end // aligned) * aligned
        room = -(-2 * pages // _ALIGNED) * _ALIGNED
        if start + room > END_PAGE:
            raise ScenarioError(f"{pages} pages are too many", f"at most {END_PAGE - FIRST_PAGE} in all")
        return Place(start, pages, room)

    def _remap(self, step: Mremap) -> None:
        place = self._inside(step.range)
        target, first = (place, step.range.first)
        if step.to is not None:
            target, first = self._inside(Range(step.to.name, step.to.first)), step.to.first
        if first + step.pages > target.room:
            raise ScenarioError(f"no room for {step.pages} pages", f"at most {target.room - first}")
        target.pages = max(target.pages, first + step.pages)
