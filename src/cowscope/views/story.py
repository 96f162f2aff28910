"""Chapters of a story as lines of text: what happened, on both sides; the way of the trap; the page tables.

 9  B store heap[0] "ours"
    The child writes one byte.

    model         copied      7 frames in use (+1)
    live kernel   copied      same page tables  8.07 µs

    trap: store to a page that is present (error code 0x7) → classify: copied
      → allocate frame 7 → …

and the picture (`picture`). Where the live kernel shows something else, both sides of what differs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from cowscope.lab.story import Chapter, OnKernel
from cowscope.units import NS_PER_US
from cowscope.views import picture
from cowscope.views.page_tables import Row, page_name, page_names, rows, sentence
from cowscope.views.picture import Look, Part, Parts
from cowscope.views.text import escaped

SCHEMA = "cowscope.explain"
SCHEMA_VERSION = "1.0"
"""A minor version adds keys, a major one changes them. `docs/check-explain-json.md` describes every key."""

LEGEND = """
w ──▶  may be written without a trap    [5 "mine" ×2]  frame 5, its first bytes,
r ──▶  a store traps                                   entries that name it
- ──▶  a load traps, too                cache, huge    of a file or of shared
·      no entry                                        memory, of a huge page
*      changed at this step             8.07 µs        in the process, watched
"""
_INDENT = "    "
_MOST_DIFFERENCES = 8


def paint(out: Console, chapter: Chapter, before: Chapter | None) -> None:
    """Print a chapter, folded at the console's width; `before` is the chapter before it."""
    for line in lines(chapter, before, out.width):
        paint_line(out, line)


def paint_line(out: Console, line: Parts) -> None:
    """Print one line; what is too long by itself is folded at a terminal's width, and never in a pipe."""
    text = Text.assemble(*((part.text, part.look.value) for part in line))
    out.print(text, soft_wrap=not out.is_terminal, overflow="fold")


def head(shows: str, policy: str, width: int) -> Iterator[Parts]:
    """What is told, by whose rules, and what the signs mean."""
    for line in shows.splitlines():
        yield from _folded(escaped(line).split(" "), width, Look.HEAD)
    if policy != "linux":
        told = f"The model decides as {policy} does; the comments tell what Linux does now."
        yield from _folded(told.split(" "), width, Look.PLAIN)
    for line in LEGEND.rstrip().splitlines():
        yield (Part(line, Look.DIM),)


def lines(chapter: Chapter, before: Chapter | None, width: int) -> Iterator[Parts]:
    """The lines of a chapter in `width` columns; `before` is the chapter before it."""
    yield (Part(f"{chapter.number:>2}  {chapter.line.step}", Look.HEAD),)
    if chapter.line.said:
        yield from _folded(escaped(chapter.line.said).split(" "), width, Look.PLAIN, _INDENT)
    yield ()
    yield from _outcomes(chapter, before, width)
    if chapter.events:
        yield ()
        steps = [chapter.events[0], *(f"→ {event}" for event in chapter.events[1:])]
        yield from _folded(steps, width, Look.EVENT, _INDENT, _INDENT + "  ")
    drawn = [(Part("  "), *line) if line else () for line in picture.lines(chapter, width - 2)]
    if drawn:
        yield ()
        yield from drawn
    if chapter.kernel is not None and not chapter.kernel.agrees:
        yield ()
        yield from _differing(chapter.kernel)


def _outcomes(chapter: Chapter, before: Chapter | None, width: int) -> Iterator[Parts]:
    more = chapter.frames - chapter.frames_before
    frames = f"{chapter.frames:,} frame{'s' * (chapter.frames != 1)} in use{f' ({more:+,})' if more else ''}"
    yield (Part(f"{_INDENT}model         {chapter.outcome:<11}  "), Part(frames, Look.DIM))
    kernel, label = chapter.kernel, f"{_INDENT}live kernel   "
    if kernel is None:
        if before is None or before.kernel_missing != chapter.kernel_missing:
            reason = f" ({escaped(chapter.kernel_missing)})" if chapter.kernel_missing else ""
            told = f"not asked{reason}"
            first, *others = _folded(told.split(" "), width, Look.DIM, " " * len(label))
            yield (Part(label, Look.DIM), Part(first[0].text.strip(), Look.DIM))
            yield from others
        return
    verdict = "same page tables" if kernel.agrees else "NOT THE SAME"
    yield (
        Part(f"{label}{kernel.outcome or 'not shown':<11}  "),
        Part(f"{verdict:<16}", Look.PLAIN if kernel.agrees else Look.PROBLEM),
        Part("" if kernel.nanoseconds is None else f"  {kernel.nanoseconds / NS_PER_US:,.2f} µs"),
    )


def _folded(
    words: Iterable[str], width: int, look: Look, indent: str = "", hanging: str | None = None
) -> Iterator[Parts]:
    """`words` with blanks between, on lines of at most `width` columns where no word is longer."""
    line, start = "", indent
    for word in words:
        if line and cell_len(start + line) + 1 + cell_len(word) > width:
            yield (Part(start + line, look),)
            line, start = "", indent if hanging is None else hanging
        line = f"{line} {word}" if line else word
    yield (Part(start + line, look),)


def _differing(kernel: OnKernel) -> Iterator[Parts]:
    """Both sides of the pages that differ, and what else does."""
    shown = [row for row in _rows(kernel) if row.differs]
    told, names = {(row.process, row.page) for row in shown}, page_names(kernel.report.scenario)
    for difference in kernel.report.differences[:_MOST_DIFFERENCES]:
        page = None if difference.page is None else page_name(difference.page, names)
        if (difference.process, page) not in told:
            yield (Part(f"  ≠ {sentence(difference, names)}", Look.PROBLEM),)
    cells = [("", "page", "model", "live kernel")]
    cells += [(row.process, row.page, row.model, row.kernel) for row in shown[:_MOST_DIFFERENCES]]
    widths = [max(len(line[column]) for line in cells) for column in range(4)]
    for index, line in enumerate(cells if shown else []):
        text = "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        yield (Part(f"  {'≠' if index else ' '} {text}", Look.PROBLEM if index else Look.HEAD),)
    if shown[_MOST_DIFFERENCES:]:
        yield (Part(f"{_INDENT}and {len(shown) - _MOST_DIFFERENCES:,} more", Look.PROBLEM),)
    if shown:
        yield (Part(f"{_INDENT}A anonymous, F file or shared, Z zero page; x exclusive, h huge", Look.DIM),)


def _rows(kernel: OnKernel) -> list[Row]:
    last = kernel.report.last
    return rows(kernel.report.scenario, last) if last is not None else []


def as_json(shows: str, policy: str, chapters: Iterable[Chapter], ended: str | None = None) -> dict[str, Any]:
    """A whole story for programs; `ended` is why it has no more chapters, if it has not."""
    told = [_chapter_json(chapter) for chapter in chapters]
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "shows": shows,
        "policy": policy,
        "chapters": told,
        "ended": ended,
    }


def _chapter_json(chapter: Chapter) -> dict[str, Any]:
    return {
        "number": chapter.number,
        "step": str(chapter.line.step),
        "said": chapter.line.said,
        "outcome": str(chapter.outcome),
        "events": list(chapter.events),
        "processes": list(chapter.processes),
        "entries": [{"page": entry.page, **asdict(entry)} for entry in chapter.entries],
        "also": list(chapter.also),
        "frames": chapter.frames,
        "kernel": None if chapter.kernel is None else _kernel_json(chapter.kernel),
        "kernel_missing": None if chapter.kernel else chapter.kernel_missing,
    }


def _kernel_json(kernel: OnKernel) -> dict[str, Any]:
    names = {} if kernel.agrees else page_names(kernel.report.scenario)
    return {
        "outcome": str(kernel.outcome) or None,
        "nanoseconds": kernel.nanoseconds,
        "agrees": kernel.agrees,
        "differences": [sentence(difference, names) for difference in kernel.report.differences],
        "differing": [
            {"process": row.process, "page": row.page, "model": row.model, "kernel": row.kernel}
            for row in (() if kernel.agrees else _rows(kernel))
            if row.differs
        ],
    }
