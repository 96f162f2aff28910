"""Who points at which frame, as runs of pages: what there is to draw of a machine at one moment.

A run is pages in a row that look alike to every process: same kind of entry, frames that follow each other, equal
contents and map counts, changed or not. A small mapping has a run for each page, so that it can be drawn whole;
a huge one has few. What changed is told against the picture before: an entry by what it says, a frame by its
contents and its map count.

Not here: painting, and what the live kernel has (`story`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cowscope.lab.scenario import Scenario
from cowscope.lab.view import Ints, State, View, label_text, spelled, watched

SMALL = 8
"""A mapping of so many pages has a run for each."""

UNMAPPED = "-"
"""The state of pages that were mapped before the step, and are not any more."""

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Entry:
    """`pages` entries of a process, from `place[first]` on.

    They name the frames from `frame` on (0: all the zero page; None: none). A store to one that is not `writable`
    traps; `label` is the first bytes of each. `changed` speaks of the entries, `frame_changed` of the frames.
    """

    process: str
    place: str
    first: int
    pages: int
    state: str
    frame: int | None
    writable: bool
    readable: bool
    label: str
    map_count: int
    changed: bool
    frame_changed: bool

    @property
    def page(self) -> str:
        """As a scenario names it."""
        return page_text(self.place, self.first, self.pages)


def page_text(place: str, first: int, pages: int) -> str:
    """Pages as a scenario names them.

    >>> page_text("heap", 1, 1), page_text("heap", 1, 3)
    ('heap[1]', 'heap[1..3]')
    """
    return f"{place}[{first}]" if pages == 1 else f"{place}[{first}..{first + pages - 1}]"


@dataclass(frozen=True, slots=True)
class Side:
    """What one process has at each page."""

    view: View
    mapped: Bools
    writable: Bools

    def __post_init__(self) -> None:
        """All columns have a place for each page."""
        assert len(self.mapped) == len(self.writable) == len(self.view.state)


class Picture:
    """All processes at one moment, beside the moment before."""

    def __init__(
        self, scenario: Scenario, pages: Ints, sides: Mapping[str, Side], before: Picture | None
    ) -> None:
        """`pages` are those of `pages_of`; `before` is not kept."""
        self.pages, self.sides = pages, sides
        self._names = list(scenario.places)
        self._starts = [place.start for place in scenario.places.values()]
        self._owner = np.zeros(len(pages), np.int64)
        own = np.zeros(len(pages), np.bool_)
        for index, place in reversed(list(enumerate(scenario.places.values()))):
            low, high = pages.searchsorted((place.start, place.start + place.pages)).tolist()
            self._owner[low:high], own[low:high] = index, place.pages <= SMALL
        self._gone = {name: self._was_mapped(name, before) & ~side.mapped for name, side in sides.items()}
        self._changed = {name: self._entry_changed(name, before) for name in sides}
        self._frame_changed = self._frames_changed(before)
        self._runs = np.flatnonzero(own | self._breaks())

    @property
    def entries(self) -> tuple[Entry, ...]:
        """The runs, in the order of pages, of each process in turn."""
        return tuple(self._entries())

    def _entries(self) -> Iterator[Entry]:
        ends = np.append(self._runs, len(self.pages))[1:].tolist()
        for at, end in zip(self._runs.tolist(), ends, strict=True):
            for name, side in self.sides.items():
                if side.mapped[at] or self._gone[name][at]:
                    yield self._entry(name, side, at, end - at)

    def _entry(self, name: str, side: Side, at: int, pages: int) -> Entry:
        state, owner = int(side.view.state[at]), int(self._owner[at])
        present, readable = bool(state & State.PRESENT), bool(state & State.READABLE)
        return Entry(
            process=name,
            place=self._names[owner],
            first=int(self.pages[at]) - self._starts[owner],
            pages=pages,
            state=spelled(state) if side.mapped[at] else UNMAPPED,
            frame=int(side.view.frame[at]) if present else None,
            writable=bool(side.writable[at]),
            readable=readable,
            label=label_text(int(side.view.label[at])) if readable else "",
            map_count=int(side.view.map_count[at]),
            changed=bool(self._changed[name][at]),
            frame_changed=bool(self._frame_changed[name][at]),
        )

    def _breaks(self) -> Bools:
        """Where a run begins."""
        found = np.ones(len(self.pages), np.bool_)
        if len(found) == 0:
            return found
        found[1:] = (np.diff(self._owner) != 0) | (np.diff(self.pages) != 1)
        for name, side in self.sides.items():
            view = side.view
            columns = (
                *(view.state, view.map_count, view.label, side.mapped, side.writable),
                *(self._gone[name], self._changed[name], self._frame_changed[name]),
            )
            for column in columns:
                found[1:] |= column[1:] != column[:-1]
            found[1:] |= view.frame[1:] != view.frame[:-1] + (view.frame[:-1] != 0)
        return found

    def _was_mapped(self, name: str, before: Picture | None) -> Bools:
        if before is None or name not in before.sides:
            return np.zeros(len(self.pages), np.bool_)
        there, at = _located(before.pages, self.pages)
        there[there] = before.sides[name].mapped[at[there]]
        return there

    def _entry_changed(self, name: str, before: Picture | None) -> Bools:
        changed = ~self._was_mapped(name, before) | self._gone[name]
        if before is None or name not in before.sides:
            return changed
        side, old = self.sides[name], before.sides[name]
        there, at = _located(before.pages, self.pages)
        now, was = np.flatnonzero(there), at[there]
        seen = np.uint16(State.PRESENT | State.GUARD | State.SWAPPED | State.READABLE)
        changed[now] |= ((side.view.state[now] ^ old.view.state[was]) & seen) != 0
        changed[now] |= side.view.frame[now] != old.view.frame[was]
        changed[now] |= side.writable[now] != old.writable[was]
        return changed

    def _frames_changed(self, before: Picture | None) -> dict[str, Bools]:
        frames, counts, labels = before._known_frames() if before else _NO_FRAMES
        changed = {}
        for name, side in self.sides.items():
            view = side.view
            there, at = _located(frames, view.frame)
            same = there.copy()
            same[there] = counts[at[there]] == view.map_count[there]
            legible = there & ((view.state & int(State.READABLE)) != 0)
            same[legible] &= labels[at[legible]] == view.label[legible]
            present = (view.state & int(State.PRESENT)) != 0
            changed[name] = present & ~same
        return changed

    def _known_frames(self) -> tuple[Ints, Ints, npt.NDArray[np.uint64]]:
        """Frames that are mapped, ascending, with their map counts and labels: those of a legible page."""
        columns = [
            (view.frame[at], view.map_count[at], view.label[at], (view.state[at] & int(State.READABLE)) == 0)
            for view in (side.view for side in self.sides.values())
            for at in [np.flatnonzero((view.state & int(State.PRESENT)) != 0)]
        ]
        if not columns:
            return _NO_FRAMES
        frame, count, label, illegible = map(np.concatenate, zip(*columns, strict=True))
        order = np.lexsort((illegible, frame))
        frames, first = np.unique(frame[order], return_index=True)
        return frames, count[order[first]], label[order[first]]


_NO_FRAMES = (np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.uint64))


def pages_of(scenario: Scenario) -> Ints:
    """The numbers of all pages that have a name."""
    return watched([(place.start, place.start + place.pages) for place in scenario.places.values()])


def second_names(scenario: Scenario) -> Iterator[str]:
    """Where a mapping was made in the place of another: whose pages its pages are.

    >>> from cowscope.lab.parser import parse
    >>> text = "A start\\nA mmap heap 4 rw private anonymous\\nA mmap over 2 rw private anonymous at heap[1]"
    >>> list(second_names(parse(text)))
    ['over[0..1] is heap[1..2]']
    """
    known: list[tuple[str, int, int]] = []
    for name, place in scenario.places.items():
        for other, start, end in known:
            low, high = max(start, place.start), min(end, place.start + place.pages)
            if low < high:
                here, there = (
                    page_text(n, low - s, high - low) for n, s in ((name, place.start), (other, start))
                )
                yield f"{here} is {there}"
        known.append((name, place.start, place.start + place.pages))


def _located(known: Ints, wanted: Ints) -> tuple[Bools, Ints]:
    """Which of `wanted` are in `known`, which ascends, and where."""
    if len(known) == 0:
        return np.zeros(len(wanted), np.bool_), np.zeros(len(wanted), np.int64)
    at = np.minimum(known.searchsorted(wanted), len(known) - 1)
    return known[at] == wanted, at
