"""A scenario told step by step: what the vm did, what stands where afterwards, and what the live kernel did.

A chapter is one line of the scenario. Its rows say which page of which process names which frame, as plain
data; painting is the views' business. Where there is no kernel to ask, chapters have none, and say why.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cowscope.lab.comparison import Comparison, compare_results
from cowscope.lab.kernel import Kernel, Stage
from cowscope.lab.lockstep import Report, Step, recycles
from cowscope.lab.model import Model
from cowscope.lab.picture import Entry, Picture, Side, pages_of, second_names
from cowscope.lab.result import NotChecked, Result
from cowscope.lab.scenario import Line, Scenario
from cowscope.lab.view import Ints, View
from cowscope.vm.policies import Policy


@dataclass(frozen=True, slots=True)
class OnKernel:
    """What the live kernel did at the same step; the report has the differences, and both sides' pages.

    `nanoseconds` passed in the process itself, cold and with its faults watched; None where nothing was to measure.
    """

    outcome: str
    nanoseconds: float | None
    report: Report

    @property
    def agrees(self) -> bool:
        """Whether both sides show the same."""
        return not self.report.differences


@dataclass(frozen=True, slots=True)
class Chapter:
    """One step; `events` are the machine's, in words; `frames` counts the frames in use after it."""

    number: int
    line: Line
    outcome: str
    events: tuple[str, ...]
    processes: tuple[str, ...]
    entries: tuple[Entry, ...]
    also: tuple[str, ...]
    """Pages that have two names: the entries use the first."""
    frames: int
    frames_before: int
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
        self._before: Picture | None = None

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
        frames = self._model.machine.memory.frames
        frames_before = frames.in_use
        mine = self._model.do(line)
        pages = pages_of(self._known)
        views = self._model.views(pages)
        self._before = picture = Picture(self._known, pages, self._sides(views, pages), self._before)
        return Chapter(
            number=number,
            line=line,
            outcome=mine.outcome,
            events=tuple(filter(None, map(told, self._model.events))),
            processes=tuple(views),
            entries=picture.entries,
            also=tuple(second_names(self._known)),
            frames=frames.in_use,
            frames_before=frames_before,
            kernel=self._on_kernel(line, mine, views, pages),
            kernel_missing=self._missing,
        )

    def _on_kernel(self, line: Line, mine: Result, views: dict[str, View], pages: Ints) -> OnKernel | None:
        kernel, comparison = self._kernel, self._comparison
        if kernel is None or comparison is None:
            return None
        try:
            kernel.check(line)
        except NotChecked as reason:
            kernel.__exit__(None, None, None)
            self._kernel, self._missing = None, str(reason)
            return None
        other, seen = kernel.do(line, pages, kernel.views(pages))
        found = compare_results(mine, other, comparison.sight)
        found += comparison.views(views, seen, pages, recycles=recycles(line.step))
        step = Step(line, mine, other, views, seen, pages)
        report = Report(self._known, len(self._known.lines), tuple(found), step)
        return OnKernel(other.outcome, kernel.spent_ns(), report)

    def _sides(self, views: dict[str, View], pages: Ints) -> dict[str, Side]:
        sides = {}
        for name, view in views.items():
            space = self._model.processes[name].space
            mapped = space.mappings.lookup(pages) >= 0
            sides[name] = Side(view, mapped, space.page_states(pages).writable & mapped)
        return sides


def told(event: object) -> str:
    """An event of the machine in a few words; empty if there is nothing to say.

    >>> from cowscope.vm.events import Allocated
    >>> told(Allocated(7))
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
