"""The page tables of both sides, side by side, as plain text: what `cowscope check` prints at a disagreement.

Frames get small numbers in the order in which they are met, on each side for itself, so that two sides that
agree look the same. Places that differ are marked with `≠`. Pages that neither side has anything to say about
are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from cowscope.lab.lockstep import Report, Step
from cowscope.lab.scenario import Scenario
from cowscope.lab.view import State, View, label_text, spelled


@dataclass(frozen=True, slots=True)
class Row:
    """One page of one process: what it is called, and what each side says of it."""

    process: str
    page: str
    model: str
    kernel: str

    @property
    def differs(self) -> bool:
        """Whether the sides say different things."""
        return self.model != self.kernel


def rows(scenario: Scenario, step: Step) -> list[Row]:
    """The pages of all processes after a step."""
    names, found = page_names(scenario), []
    numbers: tuple[dict[int, int], dict[int, int]] = ({}, {})
    for process, mine in step.model_views.items():
        other = step.kernel_views.get(process)
        for at, page in enumerate(step.pages.tolist()):
            model = cell(mine, at, numbers[0])
            kernel = "–" if other is None else cell(other, at, numbers[1])
            if (model, kernel) != (".", "."):
                found.append(Row(process, names.get(page, hex(page)), model, kernel))
    return found


def cell(view: View, at: int, numbers: dict[int, int]) -> str:
    """A page in a few letters: state, frame, map count, first bytes."""
    state = int(view.state[at])
    text = spelled(state)
    if not state & State.PRESENT:
        return text
    if state & State.ZERO:
        return f"{text} zero page"
    frame = int(view.frame[at])
    shown = f" f{numbers.setdefault(frame, len(numbers) + 1)}×{view.map_count[at]}" if frame else ""
    label = label_text(int(view.label[at])) if state & State.READABLE else "(no access)"
    return f"{text}{shown} {label}".rstrip()


def page_names(scenario: Scenario) -> dict[int, str]:
    """What each page is called; the first name that was given wins."""
    names: dict[int, str] = {}
    for name, place in scenario.places.items():
        for index in range(place.pages):
            names.setdefault(place.start + index, f"{name}[{index}]")
    return names


def side_by_side(scenario: Scenario, step: Step) -> Iterator[str]:
    """Lines of text: a head, then a line for each page."""
    table = [("", "page", "model", "kernel")]
    table += [(row.process, row.page, row.model, row.kernel) for row in rows(scenario, step)]
    widths = [max(len(line[column]) for line in table) for column in range(4)]
    for index, line in enumerate(table):
        mark = "≠" if index and line[2] != line[3] else " "
        cells = "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True))
        yield f"{mark} {cells}".rstrip()


def disagreement(report: Report) -> Iterator[str]:
    """All that there is to say about a scenario that disagreed: the scenario, the differences, the tables."""
    yield from str(report.scenario).splitlines()
    yield ""
    for difference in report.differences[:8]:
        yield str(difference)
    if report.last is not None:
        yield ""
        yield f"after: {report.last.line}"
        yield from side_by_side(report.scenario, report.last)
