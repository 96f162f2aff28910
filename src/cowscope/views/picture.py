"""The page tables of all processes side by side, as lines of text: entries, arrows, frames, and what changed.

Two processes have the frames between them:

      A                      frames                       B
      heap[0]  r ──▶ [5 "mine" ×1]   *[7 "ours" ×1] ◀── w  heap[0] *
      heap[1]  r ────────▶ [6 "too" ×2] ◀──────────── r  heap[1]
      heap[2]  ·                                       ·  heap[2]

More, or names that leave no room, have a column each, and the frames of a row at its end:

               A        B        C         frames
      heap[0]  r ─▶ 5 * w ─▶ 7   r ─▶ 5    [5 "mine" ×2]  *[7 "ours" ×1]

`*` stands beside an entry, and before a frame, that the step changed. Rows that it did not change are dimmed, and
many of them are one line with their number. Columns of processes that do not fit stand below the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from itertools import groupby

from cowscope.lab.picture import UNMAPPED, Entry, page_text
from cowscope.lab.story import Chapter
from cowscope.views.text import shortened


class Look(StrEnum):
    """How a part of a line is painted; the values are styles."""

    PLAIN = ""
    HEAD = "bold"
    DIM = "dim"
    CHANGED = "bold yellow"
    EVENT = "cyan"
    PROBLEM = "red"


@dataclass(frozen=True, slots=True)
class Part:
    """Text and its look; a line is some of them in a row."""

    text: str
    look: Look = Look.PLAIN


Parts = tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Row:
    """Pages that look alike, and what each process has there."""

    place: str
    first: int
    pages: int
    entries: Mapping[str, Entry]

    @property
    def page(self) -> str:
        """As a scenario names it; of a long name the middle is left out."""
        return shortened(page_text(self.place, self.first, self.pages), _LONGEST_NAME)

    @property
    def changed(self) -> bool:
        """Whether the step changed an entry or a frame of it."""
        return any(entry.changed or entry.frame_changed for entry in self.entries.values())

    @property
    def look(self) -> Look:
        """Of what the step did not change."""
        return Look.PLAIN if self.changed else Look.DIM


@dataclass(frozen=True, slots=True)
class Skipped:
    """Pages that are not drawn, in words."""

    text: str


_MANY_ROWS = 8
_ALIKE = 8
"""So many rows in a row are drawn that all changed, or all did not; of more, the first few."""
_FEW = {True: 6, False: 2}
_LONGEST_NAME = 24
_MIDDLE = 40
_FRAMES = 20
_GAP = "   "


def lines(chapter: Chapter, width: int) -> Iterator[Parts]:
    """The picture after a step, in `width` columns where that can be."""
    drawn = rows(chapter)
    if not drawn:
        return
    processes = chapter.processes
    for name in chapter.also:
        yield (Part(f"  {name}", Look.DIM),)
    if len(processes) <= 2 and (middle := _Between.fitting(drawn, processes, width)):
        yield from middle.lines(drawn)
    else:
        yield from _Columns(drawn, processes, width).lines(drawn)


def rows(chapter: Chapter) -> list[Row | Skipped]:
    """What is drawn, page by page."""
    found = [
        Row(place, first, group[0].pages, {entry.process: entry for entry in group})
        for (place, first), members in groupby(chapter.entries, key=lambda entry: (entry.place, entry.first))
        for group in [list(members)]
    ]
    if len(found) <= _MANY_ROWS:
        return list(found)
    named = _named(chapter)
    drawn: list[Row | Skipped] = []
    hidden: list[Row] = []
    for place, members in groupby(found, key=lambda row: row.place):
        group = list(members)
        if place in named or any(row.changed for row in group):
            drawn += [*_skipped(hidden), *_shortened(group)]
            hidden = []
        else:
            hidden += group
    return drawn + _skipped(hidden)


def _named(chapter: Chapter) -> set[str]:
    step = chapter.line.step
    places = (getattr(step, name, None) for name in ("range", "at", "to"))
    return {place.name for place in places if place is not None}


def _skipped(hidden: list[Row]) -> list[Row | Skipped]:
    if not hidden:
        return []
    names = ", ".join(dict.fromkeys(shortened(row.place, _LONGEST_NAME) for row in hidden))
    return [Skipped(f"{names}: {_pages(hidden)} as before")]


def _shortened(group: list[Row]) -> Iterator[Row | Skipped]:
    for changed, members in groupby(group, key=lambda row: row.changed):
        alike = list(members)
        few = _FEW[changed] if len(alike) > _ALIKE else len(alike)
        yield from alike[:few]
        if rest := alike[few:]:
            name, last = shortened(rest[0].place, _LONGEST_NAME), rest[-1]
            span = page_text(name, rest[0].first, last.first + last.pages - rest[0].first)
            yield Skipped(f"{span}: {_pages(rest)} more {'changed' if changed else 'as before'}")


def _pages(of: Iterable[Row]) -> str:
    count = sum(row.pages for row in of)
    return "1 page" if count == 1 else f"{count:,} pages"


def frame_text(entry: Entry) -> str:
    """A frame, or frames that follow each other: first bytes, number of entries, and what kind it is.

    >>> frame_text(Entry("A", "m", 0, 1, "Ax", 5, True, True, "mine", 2, False, False))
    '[5 "mine" ×2]'
    """
    if not entry.frame:
        return "[zero page]"
    label = f' "{entry.label}"' if entry.label else ""
    kinds = [word for letter, word in _KINDS.items() if letter in entry.state]
    return f"[{_numbers(entry)}{label} ×{entry.map_count}{''.join(f', {kind}' for kind in kinds)}]"


_KINDS = {"F": "cache", "h": "huge", "k": "merged"}
_WORDS = {".": "·", "G": "guard", "S": "swapped", UNMAPPED: "unmapped"}


def _numbers(entry: Entry) -> str:
    assert entry.frame is not None
    return f"{entry.frame}" if entry.pages == 1 else f"{entry.frame}..{entry.frame + entry.pages - 1}"


def _access(entry: Entry) -> str:
    return "w" if entry.writable else "r" if entry.readable else "-"


def _look(changed: bool, row: Row) -> Look:
    return Look.CHANGED if changed else row.look


class _Between:
    """One or two processes, left and right, and the frames between them."""

    def __init__(self, processes: tuple[str, ...], name: int, middle: int) -> None:
        self.left, self.right = processes[0] if processes else "", (processes[1:] or ("",))[0]
        self.name, self.middle = name, middle

    @classmethod
    def fitting(cls, drawn: list[Row | Skipped], processes: tuple[str, ...], width: int) -> _Between | None:
        """With room for all of `drawn`; None if the width has none."""
        whole = [row for row in drawn if isinstance(row, Row)]
        name = max((len(row.page) for row in whole), default=0)
        needed = max((cls._needed(row) for row in whole), default=0)
        fits = 2 * (name + 6) + needed <= width and sum(map(len, processes)) + 10 <= width
        room = max(needed, min(_MIDDLE, width - 2 * (name + 6)))
        return cls(processes, name, room) if fits else None

    @staticmethod
    def _needed(row: Row) -> int:
        texts = {(e.frame, frame_text(e)) for e in row.entries.values() if e.frame is not None}
        words = [len(_WORDS[e.state]) for e in row.entries.values() if e.frame is None]
        boxes = sum(len(text) + 1 for _, text in texts) + 2 * (len(texts) - 1) + 8
        return max(boxes if texts else 0, 2 * max(words, default=0) + 2)

    def lines(self, drawn: list[Row | Skipped]) -> Iterator[Parts]:
        """Head, rows."""
        head = f"{self.left:<{self.name + 4}}{'frames':^{self.middle}}    {self.right}".rstrip()
        yield (Part(f"  {head}", Look.HEAD),)
        for row in drawn:
            if isinstance(row, Skipped):
                yield (Part(f"  {row.text}", Look.DIM),)
            else:
                yield _trimmed([*self._left(row), *self._frames(row), *self._right(row)])

    def _left(self, row: Row) -> Parts:
        entry = row.entries.get(self.left)
        if entry is None:
            return (Part(" " * (self.name + 6)),)
        star, mark = ("* " if entry.changed else "  "), self._mark(entry)
        return (Part(f"{star}{row.page:<{self.name}}  {mark} ", _look(entry.changed, row)),)

    def _right(self, row: Row) -> Parts:
        entry = row.entries.get(self.right)
        if entry is None:
            return ()
        star, mark = (" *" if entry.changed else ""), self._mark(entry)
        return (Part(f" {mark}  {row.page:<{self.name}}{star}", _look(entry.changed, row)),)

    @staticmethod
    def _mark(entry: Entry) -> str:
        if entry.frame is None:
            return "·" if entry.state == "." else " "
        return _access(entry)

    def _frames(self, row: Row) -> Parts:
        left, right = row.entries.get(self.left), row.entries.get(self.right)
        if left and right and left.frame is not None and left.frame == right.frame:
            return self._shared(row, left, right)
        mine, other = self._one(row, left, right=False), self._one(row, right, right=True)
        used = sum(len(part.text) for part in mine + other)
        return (*mine, Part(" " * (self.middle - used)), *other)

    def _shared(self, row: Row, left: Entry, right: Entry) -> Parts:
        changed = left.frame_changed or right.frame_changed
        box = f"{'*' if changed else ' '}{frame_text(left)}"
        before = (self.middle - len(box)) // 2
        after = self.middle - len(box) - before
        return (
            Part("─" * (before - 1) + "▶", _look(left.changed, row)),
            Part(box, _look(changed, row)),
            Part(" ◀" + "─" * (after - 2), _look(right.changed, row)),
        )

    @staticmethod
    def _one(row: Row, entry: Entry | None, *, right: bool) -> Parts:
        if entry is None:
            return ()
        look = _look(entry.changed, row)
        if entry.frame is None:
            return (Part(_WORDS[entry.state].strip("·"), look),)
        box = Part(
            f"{'*' if entry.frame_changed else ' '}{frame_text(entry)}", _look(entry.frame_changed, row)
        )
        return (box, Part(" ◀──", look)) if right else (Part("──▶", look), box)


class _Columns:
    """Any number of processes: a column each, and the frames of a row at its end."""

    def __init__(self, drawn: list[Row | Skipped], processes: tuple[str, ...], width: int) -> None:
        whole = [row for row in drawn if isinstance(row, Row)]
        self.width = width
        self.name = max((len(row.page) for row in whole), default=0)
        self.columns = {
            process: max([len(process)] + [len(_cell(row.entries.get(process))) for row in whole])
            for process in processes
        }
        boxes = (len(frame_text(e)) + 1 for row in whole for e in row.entries.values() if e.frame)
        self.frames = max(_FRAMES, max(boxes, default=0))

    def lines(self, drawn: list[Row | Skipped]) -> Iterator[Parts]:
        """Head and rows, of as many processes as fit; then of the others."""
        for number, bank in enumerate(self._banks()):
            if number:
                yield ()
            yield (Part(self._head(bank), Look.HEAD),)
            for row in drawn:
                if isinstance(row, Row):
                    yield from self._row(row, bank)
                elif not number:
                    yield (Part(f"  {row.text}", Look.DIM),)

    def _banks(self) -> Iterator[list[str]]:
        bank: list[str] = []
        used = start = 2 + self.name + self.frames
        for process, width in self.columns.items():
            if bank and used + width + 4 > self.width:
                yield bank
                bank, used = [], start
            bank.append(process)
            used += width + 4
        yield bank

    def _head(self, bank: list[str]) -> str:
        names = "".join(f"    {process:<{self.columns[process]}}" for process in bank)
        return f"  {'':<{self.name}}{names}{_GAP} frames"

    def _row(self, row: Row, bank: list[str]) -> Iterator[Parts]:
        entries = {process: row.entries[process] for process in bank if process in row.entries}
        if not entries:
            return
        line = [Part(f"  {row.page:<{self.name}}", row.look)]
        for process in bank:
            entry = entries.get(process)
            changed = entry is not None and entry.changed
            star, text = ("*" if changed else " "), _cell(entry)
            line.append(Part(f"  {star} {text:<{self.columns[process]}}", _look(changed, row)))
        indent = sum(len(part.text) for part in line) + len(_GAP)
        boxes = _boxes(row, entries.values(), max(self.width - indent, self.frames))
        yield _trimmed([*line, Part(_GAP), *next(boxes, ())])
        for more in boxes:
            yield (Part(" " * indent), *more)


def _boxes(row: Row, entries: Iterable[Entry], room: int) -> Iterator[Parts]:
    """The frames that `entries` name, folded to `room` columns."""
    line: list[Part] = []
    for entry in {entry.frame: entry for entry in entries if entry.frame}.values():
        star = "*" if entry.frame_changed else " "
        part = Part(f"{star}{frame_text(entry)}", _look(entry.frame_changed, row))
        if line and sum(len(p.text) for p in line) + 1 + len(part.text) > room:
            yield tuple(line)
            line = []
        line += [Part(" "), part] if line else [part]
    yield tuple(line)


def _cell(entry: Entry | None) -> str:
    if entry is None:
        return ""
    if entry.frame is None:
        return _WORDS[entry.state]
    return f"{_access(entry)} ─▶ {_numbers(entry) if entry.frame else 'zero page'}"


def _trimmed(parts: list[Part]) -> Parts:
    """Without blanks at the end."""
    while parts and not parts[-1].text.rstrip():
        parts.pop()
    if parts:
        parts[-1] = Part(parts[-1].text.rstrip(), parts[-1].look)
    return tuple(parts)
