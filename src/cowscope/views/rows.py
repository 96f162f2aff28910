"""Shape: findings to the rows that every paint shares. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from cowscope.insight.breakdown import By, Group
from cowscope.insight.labels import Figure, Label
from cowscope.insight.sharing import Sharing
from cowscope.recording.schema import NONE
from cowscope.units import format_bytes, pages_to_bytes
from cowscope.views.text import escaped


@dataclass(frozen=True)
class TotalRow:
    """One line of the totals: what, pages, the same in bytes, how exactly, and in a few words what it means."""

    title: str
    pages: int
    size: str
    label: Label
    meaning: str


@dataclass(frozen=True)
class Table:
    """A grouping as text cells; `numeric` columns are aligned right."""

    title: str
    columns: tuple[str, ...]
    numeric: tuple[bool, ...]
    rows: tuple[tuple[str, ...], ...]
    hidden: int = 0
    ends_matter: bool = True
    """Whether the last column is cut in its middle, since ends of paths and commands tell most."""


_TITLES = {
    By.PROCESS: "By process",
    By.MAPPING: "By mapping",
    By.FUNCTION: "By writing function",
    By.TIME: "By time",
    By.CAUSE: "By cause",
    By.TYPE: "By type of object",
    By.LINE: "By Python line",
}
_FIRST = {
    By.PROCESS: "process",
    By.MAPPING: "mapping",
    By.FUNCTION: "function",
    By.TIME: "from",
    By.CAUSE: "cause",
    By.TYPE: "type",
    By.LINE: "line",
}
_SECOND = {
    By.PROCESS: "command line",
    By.MAPPING: "kind",
    By.FUNCTION: "file",
    By.TIME: "to",
    By.CAUSE: "types",
    By.TYPE: "causes",
    By.LINE: "causes · types · function",
}


def total_rows(sharing: Sharing) -> list[TotalRow]:
    """The totals, in the order in which a person reads them."""
    totals, left = sharing.totals, sharing.leftover
    return [
        _total("shared at fork", totals.shared_at_fork, "anonymous pages that forks mapped into children"),
        _total("copied since", totals.copied, "written while shared: now they exist twice"),
        _total("reused", totals.reused, "written when nobody shared them any more: no copy"),
        _total(
            "still shared", totals.still_shared, "never written by the child; others mapped them to the end"
        ),
        _total("left alone", left.alone, "never written by the child; nobody else mapped them at the end"),
        _total("dropped", left.dropped, "unmapped or left behind by exec, never written by the child"),
        _total("new", totals.new, "zero-filled, or private copies of file pages"),
    ]


def row_labels(sharing: Sharing) -> dict[str, Label]:
    """The label of each kind of count in the rows of any grouping: parts are known as exactly as their total."""
    totals = sharing.totals
    return {
        "copied": totals.copied.label,
        "reused": totals.reused.label,
        "new": totals.new.label,
        "shared_at_fork": totals.shared_at_fork.label,
        "still_shared": totals.still_shared.label,
    }


MARK = {Label.EXACT: "", Label.ESTIMATE: " ~", Label.AT_LEAST: " ≥"}
LEGEND = "~ estimate, ≥ at least, no mark: exact"


def reasons(sharing: Sharing) -> list[tuple[str, str]]:
    """Why figures are not exact: each reason once, with the titles it bears on."""
    found: dict[str, list[str]] = {}
    named = {
        "shared at fork": sharing.totals.shared_at_fork,
        "copied": sharing.totals.copied,
        "reused": sharing.totals.reused,
        "still shared": sharing.totals.still_shared,
        "new": sharing.totals.new,
    }
    for title, figure in named.items():
        for reason in filter(None, figure.reason.split("; ")):
            found.setdefault(reason, []).append(title)
    return [(", ".join(titles), reason) for reason, titles in found.items()]


def group_table(by: By, groups: list[Group], top: int, sharing: Sharing) -> Table:
    """The first `top` rows of a grouping (for time, all in which anything happened), as text."""
    shown = [group for group in groups if any(group.weight) or group.shared_at_fork > 0]
    limit = len(shown) if by is By.TIME else top
    cells = tuple(_group_cells(by, group) for group in shown[:limit])
    mark = {key: MARK[label] for key, label in row_labels(sharing).items()}
    shares = ("shared at fork" + mark["shared_at_fork"], "still shared" + mark["still_shared"])
    extra = {
        By.PROCESS: shares,
        By.FUNCTION: ("processes",),
        By.CAUSE: ("processes",),
        By.TYPE: ("processes",),
        By.LINE: ("processes",),
    }.get(by, ())
    counts = ("copied" + mark["copied"], "size", "reused" + mark["reused"], "new" + mark["new"])
    columns = (_FIRST[by], *counts, *extra, _SECOND[by])
    numeric = (False, True, True, True, True, *(True for _ in extra), False)
    hidden = max(len(shown) - limit, 0)
    ends_matter = by not in (By.CAUSE, By.TYPE, By.LINE)
    return Table(_TITLES[by], columns, numeric, cells, hidden, ends_matter)


def _total(title: str, figure: Figure, meaning: str) -> TotalRow:
    return TotalRow(title, figure.value, format_bytes(pages_to_bytes(figure.value)), figure.label, meaning)


def _group_cells(by: By, group: Group) -> tuple[str, ...]:
    extra: tuple[str, ...] = ()
    if by is By.PROCESS:
        extra = (_count(group.shared_at_fork), _count(group.still_shared))
    elif by in (By.FUNCTION, By.CAUSE, By.TYPE, By.LINE):
        extra = (_count(group.workers),)
    return (
        escaped(_short_line(group.name) if by is By.LINE else group.name),
        _count(group.copied),
        format_bytes(pages_to_bytes(group.copied)),
        _count(group.reused),
        _count(group.new),
        *extra,
        escaped(_short_file(group.detail) if by is By.FUNCTION else group.detail),
    )


def _short_line(place: str) -> str:
    """A Python file by its last directory and name: the full path stands in the JSON.

    >>> _short_line("/usr/lib/python3/dist-packages/flask/app.py:12")
    'flask/app.py:12'
    """
    return "/".join(place.rsplit("/", 2)[-2:])


def _short_file(path: str) -> str:
    """The name alone: a function's file is known by it, and the full path stands in the JSON."""
    return path.rpartition("/")[2] or path


def _count(n: int) -> str:
    return "–" if n == NONE else f"{n:,}"
