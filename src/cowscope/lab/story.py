"""A scenario told step by step: what the vm did, what stands where afterwards, and what the live kernel did.

A chapter is one line of the scenario. Its rows say which page of which process names which frame, as plain
data; painting is the views' business. Where there is no kernel to ask, chapters have none, and say why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cowscope.lab.comparison import Comparison, compare_results
from cowscope.lab.kernel import Kernel, Stage
from cowscope.lab.model import Model
from cowscope.lab.result import NotChecked, Result
from cowscope.lab.scenario import Line, Scenario
from cowscope.lab.view import State, View, label_text, spelled, watched
from cowscope.vm.policies import Policy

MOST_PAGES = 8
"""Pages of a mapping that are shown; of a huge one these stand for all."""


@dataclass(frozen=True, slots=True)
class Entry:
    """A page of a process: its entry names `frame` (0: the zero page; None: no entry), writable or not."""

    process: str
    page: str
    frame: int | None
    writable: bool
    state: str
    label: str
    map_count: int


@dataclass(frozen=True, slots=True)
class OnKernel:
    """What the live kernel did at the same step, and whether it agrees.

    `nanoseconds` passed in the process itself, cold and with its faults watched; None where nothing was to measure.
    """

    outcome: str
    nanoseconds: float | None
    agrees: bool
    differences: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Chapter:
    """One step; `events` are the machine's, in words; `frames` counts the frames in use."""

    number: int
    line: Line
    outcome: str
    events: tuple[str, ...]
    entries: tuple[Entry, ...]
    frames: int
    kernel: OnKernel | None
    kernel_missing: str


class Story:
    """Tells one scenario under a policy; with a stage, beside the live kernel."""

    def __init__(
        self,
        scenario: Scenario,
        policy: Policy | str = "linux",
        stage: Stage | None = None,
        missing: str = "",
    ) -> None:
        """`missing` is why there is no stage."""
        self.scenario = scenario
        self._known = Scenario(scenario.sentence, scenario.name)
        self._model = Model(self._known, policy)
        self._stage, self._missing = stage, missing
        self._kernel = Kernel(self._known, stage) if stage else None
        self._comparison = Comparison(stage.sight) if stage else None

    def __iter__(self) -> Iterator[Chapter]:
        """Do the steps one by one; each is done when it is asked for. Raises `NotChecked`."""
        try:
            for number, line in enumerate(self.scenario, 1):
                self._known.add(line.step, expected=line.expected, number=line.number, said=line.said)
                yield self._chapter(number, line)
        finally:
            if self._kernel:
                self._kernel.__exit__(None, None, None)

    def _chapter(self, number: int, line: Line) -> Chapter:
        mine = self._model.do(line)
        events = tuple(filter(None, map(self._told, self._model.events)))
        entries = tuple(self._entries())
        frames = self._model.machine.memory.frames.in_use
        kernel = self._on_kernel(line, mine)
        return Chapter(number, line, mine.outcome, events, entries, frames, kernel, self._missing)

    def _on_kernel(self, line: Line, mine: Result) -> OnKernel | None:
        kernel, comparison = self._kernel, self._comparison
        if kernel is None or comparison is None:
            return None
        pages = watched([(p.start, p.start + p.pages) for p in self._known.places.values()])
        try:
            kernel.check(line)
        except NotChecked as reason:
            kernel.__exit__(None, None, None)
            self._kernel, self._missing = None, str(reason)
            return None
        before = kernel.views(pages)
        other, views = kernel.do(line, pages, before)
        found = compare_results(mine, other, comparison.sight)
        found += comparison.views(self._model.views(pages), views, pages)
        return OnKernel(
            other.outcome, kernel.spent_ns(), not found, tuple(str(difference) for difference in found[:4])
        )

    def _entries(self) -> Iterator[Entry]:
        shown = {
            place.start + index: f"{name}[{index}]"
            for name, place in self._known.places.items()
            for index in range(min(place.pages, MOST_PAGES))
        }
        pages = watched([(page, page + 1) for page in shown])
        views = self._model.views(pages)
        for name, view in views.items():
            states = self._model.processes[name].space.page_states(pages)
            mapped = self._model.processes[name].space.mappings.lookup(pages) >= 0
            for at, page in enumerate(pages.tolist()):
                if mapped[at]:
                    yield _entry(name, shown[page], view, at, bool(states.writable[at]))

    def _told(self, event: object) -> str:
        return told(event, self._known)


def _entry(process: str, page: str, view: View, at: int, writable: bool) -> Entry:
    state = int(view.state[at])
    frame = int(view.frame[at]) if state & State.PRESENT else None
    label = label_text(int(view.label[at])) if state & State.READABLE else ""
    return Entry(process, page, frame, writable, spelled(state), label, int(view.map_count[at]))


def told(event: object, scenario: Scenario) -> str:
    """An event of the machine in a few words; empty if there is nothing to say.

    >>> from cowscope.vm.events import Allocated
    >>> told(Allocated(7), Scenario())
    'allocate frame 7'
    """
    from cowscope.vm import events

    match event:
        case events.Trapped(error_code=code):
            access = "store to" if code & 2 else "load from"
            found = "a page that is present" if code & 1 else "a page that is not there"
            return f"trap: {access} {found} (error code {code:#x})"
        case events.Classified(outcome=outcome):
            return f"classify: {outcome.name.lower().replace('_', ' ')}"
        case events.Allocated(frame=frame):
            return f"allocate frame {frame}"
        case events.Copied(source=source, target=target):
            return f"copy frame {source} to frame {target}" if source else f"fill frame {target}"
        case events.Mapped(frame=frame, writable=writable):
            what = f"frame {frame}" if frame else "the zero page"
            return f"map {what}, {'writable' if writable else 'read-only'}"
        case events.Flushed():
            return "flush the TLB entry"
        case events.Resumed():
            return "resume: the access runs again"
    return ""
