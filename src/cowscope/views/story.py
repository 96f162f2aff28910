"""Chapters of a story as lines of text: who points at which frame, by arrows, and what changed.

    A heap[0]  r─▶  frame 1 "mine" ×2  ◀─r  B heap[0]
    A heap[1]  w─▶  frame 2 "too" ×1

`w` is an entry that may be written without a trap, `r` one that traps on a write. A line that was not so before
the step begins with `*`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from rich.console import Console
from rich.text import Text

from cowscope.lab.story import Chapter, Entry
from cowscope.units import NS_PER_US
from cowscope.views.text import escaped


class Kind(StrEnum):
    """What a line is, for whoever paints it."""

    HEAD = "head"
    SAID = "said"
    EVENT = "event"
    PAGE = "page"
    CHANGED = "changed"
    KERNEL = "kernel"
    PROBLEM = "problem"


_STYLES = {
    Kind.HEAD: "bold",
    Kind.SAID: "",
    Kind.EVENT: "cyan",
    Kind.PAGE: "",
    Kind.CHANGED: "yellow",
    Kind.KERNEL: "dim",
    Kind.PROBLEM: "red",
}


@dataclass(frozen=True, slots=True)
class TextLine:
    """A line and what it is."""

    kind: Kind
    text: str


def paint(out: Console, chapter: Chapter, before: Chapter | None) -> None:
    """Print a chapter; folded at a terminal's width, and never in a pipe."""
    for line in lines(chapter, before):
        out.print(Text(line.text, _STYLES[line.kind]), soft_wrap=not out.is_terminal)


def as_json(chapter: Chapter) -> dict[str, Any]:
    """A chapter for programs; times in nanoseconds."""
    return {
        "number": chapter.number,
        "step": str(chapter.line.step),
        "said": chapter.line.said,
        "outcome": str(chapter.outcome),
        "events": list(chapter.events),
        "entries": [asdict(entry) for entry in chapter.entries],
        "frames": chapter.frames,
        "kernel": None if chapter.kernel is None else asdict(chapter.kernel),
        "kernel_missing": chapter.kernel_missing or None,
    }


def lines(chapter: Chapter, before: Chapter | None) -> Iterator[TextLine]:
    """The lines of a chapter; `before` is the chapter before it."""
    yield TextLine(Kind.HEAD, f"{chapter.number:>2}  {chapter.line.step}   → {chapter.outcome}")
    if chapter.line.said:
        yield TextLine(Kind.SAID, f"    {escaped(chapter.line.said)}")
    if chapter.events:
        yield TextLine(Kind.EVENT, f"    {' → '.join(chapter.events)}")
    old = set(picture(before.entries)) if before else set()
    for line in picture(chapter.entries):
        changed = line not in old
        yield TextLine(Kind.CHANGED if changed else Kind.PAGE, f"  {'*' if changed else ' '} {line}")
    yield TextLine(Kind.PAGE, f"    frames in use: {chapter.frames}")
    yield from _kernel(chapter)


def picture(entries: tuple[Entry, ...]) -> list[str]:
    """Who points where: a line for each frame, and one for each process's pages without an entry."""
    by_frame: dict[int, list[Entry]] = {}
    for entry in entries:
        if entry.frame is not None:
            by_frame.setdefault(entry.frame, []).append(entry)
    first = {frame: f"{group[0].process} {group[0].page}" for frame, group in by_frame.items()}
    width = max(map(len, first.values()), default=0)
    drawn = []
    for frame, group in sorted(by_frame.items()):
        line = f"{first[frame].ljust(width)}  {_right(group[0])}  {_frame(group[0])}"
        if len(group) > 1:
            line += "  ◀─" + ", ".join(f"{_mark(entry)} {entry.process} {entry.page}" for entry in group[1:])
        drawn.append(line)
    return drawn + _absent(entries)


def _absent(entries: tuple[Entry, ...]) -> list[str]:
    absent: dict[str, list[str]] = {}
    for entry in entries:
        if entry.frame is None:
            kind = {"G": "guard", "S": "swapped"}.get(entry.state)
            absent.setdefault(entry.process, []).append(f"{entry.page}{f' ({kind})' if kind else ''}")
    return [f"{process}: no entry for {', '.join(pages)}" for process, pages in absent.items()]


def _mark(entry: Entry) -> str:
    return "w" if entry.writable else "r"


def _right(entry: Entry) -> str:
    return f"{_mark(entry)}─▶"


def _frame(entry: Entry) -> str:
    if entry.frame == 0:
        return "the zero page"
    label = f' "{entry.label}"' if entry.label else ""
    kind = ", page cache" if entry.state.startswith("F") else ", of a huge page" if "h" in entry.state else ""
    return f"frame {entry.frame}{label} ×{entry.map_count}{kind}"


def _kernel(chapter: Chapter) -> Iterator[TextLine]:
    kernel = chapter.kernel
    if kernel is None:
        yield TextLine(Kind.KERNEL, f"    live kernel: not asked ({chapter.kernel_missing})")
        return
    spent = "" if kernel.nanoseconds is None else f"; {kernel.nanoseconds / NS_PER_US:,.2f} µs, watched"
    verdict = "the same picture" if kernel.agrees else "ANOTHER PICTURE"
    yield TextLine(Kind.KERNEL, f"    live kernel: {kernel.outcome or 'done'}, {verdict}{spent}")
    for difference in kernel.differences:
        yield TextLine(Kind.PROBLEM, f"      {difference}")
