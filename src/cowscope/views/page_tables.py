"""The page tables of both sides, side by side, as plain text: what `cowscope check` prints at a disagreement.

Frames get small numbers in the order in which they are met, on each side for itself, so that two sides that
agree look the same. Places that differ are marked with `≠`. Pages that neither side has anything to say about
are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import groupby

from cowscope.lab.comparison import Difference
from cowscope.lab.lockstep import Report, Step
from cowscope.lab.scenario import Scenario
from cowscope.lab.view import State, View, label_text, spelled

_ALIKE, _FEW = 16, 4
"""More pages in a row that agree are not all shown, but so many of them."""
_NUMBER = re.compile(r"\bpage (0x[0-9a-f]+)\b")


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
            model = cell(_as_seen(mine, step), at, numbers[0])
            kernel = "–" if other is None else cell(other, at, numbers[1])
            if (model, kernel) != (".", "."):
                found.append(Row(process, names.get(page, hex(page)), model, kernel))
    return found


def _as_seen(view: View, step: Step) -> View:
    """The model's view as far as the kernel's side can tell as much: more would look like a difference."""
    state = view.state & view.state.dtype.type(step.sight.states)
    return replace(view, state=state, frame=view.frame if step.sight.frames else view.frame * 0)


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
    return lined(rows(scenario, step))


def lined(table: list[Row]) -> Iterator[str]:
    """Lines of text: a head, then a line for each page; of many that agree, the first few and their number."""
    cells = [(row.process, row.page, row.model, row.kernel) for row in table]
    head = ("", "page", "model", "kernel")
    widths = [max(len(line[column]) for line in [head, *cells]) for column in range(4)]
    yield _line(" ", head, widths)
    at = 0
    for differs, members in groupby(table, key=lambda row: row.differs):
        count = len(list(members))
        few = count if differs or count <= _ALIKE else _FEW
        yield from (_line("≠" if differs else " ", line, widths) for line in cells[at : at + few])
        if few < count:
            yield f"  … {count - few:,} pages more agree"
        at += count


def _line(mark: str, cells: tuple[str, ...], widths: list[int]) -> str:
    aligned = "  ".join(text.ljust(width) for text, width in zip(cells, widths, strict=True))
    return f"{mark} {aligned}".rstrip()


def sentence(difference: Difference, names: Mapping[int, str]) -> str:
    """A difference, with pages by their `names`.

    >>> sentence(Difference("bytes", "A", 0x100, "'a'", "'b'"), {0x100: "heap[0]"})
    "bytes of heap[0] of A: the model says 'a', the kernel 'b'"
    """
    page = None if difference.page is None else page_name(difference.page, names)
    where = " of ".join(["", *filter(None, (page, difference.process))])
    sides = f"the model says {difference.model}, {difference.against} {difference.kernel}"
    return f"{difference.what}{where}: {_NUMBER.sub(lambda m: page_name(int(m[1], 16), names), sides)}"


def page_name(page: int, names: Mapping[int, str]) -> str:
    """What a page is called; its number if it has no name."""
    return names.get(page, f"page {page:#x}")


def disagreement(report: Report) -> Iterator[str]:
    """All that there is to say about a scenario that disagreed: the scenario, the differences, the tables."""
    yield from str(report.scenario).splitlines()
    yield ""
    names = page_names(report.scenario)
    for difference in report.differences[:8]:
        yield sentence(difference, names)
    if report.last is not None:
        yield ""
        yield f"after: {report.last.line}"
        yield from side_by_side(report.scenario, report.last)
