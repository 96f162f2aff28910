"""Paint for a terminal or a pipe: headline, totals, why not exact, differences, groupings."""

from __future__ import annotations

from typing import IO, Literal

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from cowscope.insight.breakdown import By, Group, avoidable
from cowscope.insight.labels import Label
from cowscope.insight.sharing import Sharing
from cowscope.recording.meta import Meta
from cowscope.units import NS_PER_S, format_bytes, pages_to_bytes
from cowscope.views.rows import LEGEND, MARK, Table, group_table, reasons, row_labels, total_rows
from cowscope.views.text import clipped, escaped, shortened

PIPE_WIDTH = 110
_STYLE = {Label.EXACT: "green", Label.ESTIMATE: "yellow", Label.AT_LEAST: "yellow"}


def console(file: IO[str]) -> Console:
    """A console that is plain in a pipe and heeds NO_COLOR; no guess at words in our text."""
    width = None if file.isatty() else PIPE_WIDTH
    return Console(file=file, highlight=False, width=width, emoji=False, soft_wrap=False)


def paint(
    out: Console, name: str, meta: Meta, sharing: Sharing, groups: dict[By, list[Group]], *, top: int
) -> None:
    """The whole summary."""
    out.print(f"[bold]{escape(escaped(name))}[/bold]  {escape(_how(meta, sharing))}")
    out.print(escape(headline(sharing)))
    out.print()
    _totals(out, sharing)
    if groups.get(By.CAUSE):
        _avoidable(out, groups[By.CAUSE], sharing)
    _notes(out, meta, sharing)
    if groups and _legend(sharing):
        out.print(f"in the tables: {LEGEND}")
    for by, rows in groups.items():
        out.print()
        _table(out, group_table(by, rows, top, sharing))


def _legend(sharing: Sharing) -> bool:
    return any(label is not Label.EXACT for label in row_labels(sharing).values())


def headline(sharing: Sharing) -> str:
    """The answer in one sentence."""
    if not sharing.forks:
        return "Nothing forked: no page was ever shared by a fork."
    shared, copied = sharing.totals.shared_at_fork.value, sharing.totals.copied.value
    size, twice = format_bytes(pages_to_bytes(shared)), format_bytes(pages_to_bytes(copied))
    forks = "1 fork" if sharing.forks == 1 else f"{sharing.forks:,} forks"
    part = f" ({copied / shared:.1%} as much)" if shared else ""
    return f"{forks} shared {size}; {twice} of it were copied after all{part}."


def _how(meta: Meta, sharing: Sharing) -> str:
    seconds = max(meta.ended_ns - meta.started_ns, 0) / NS_PER_S
    processes = "1 process" if sharing.processes == 1 else f"{sharing.processes:,} processes"
    return (
        f"{shortened(escaped(' '.join(meta.command)), 50)} · {seconds:.1f} s · {processes} · "
        f"{sharing.faults:,} faults · {meta.source} · {meta.lost_events:,} lost"
    )


def _totals(out: Console, sharing: Sharing) -> None:
    table = RichTable(box=None, pad_edge=False)
    table.add_column("")
    for title in ("pages", "size"):
        table.add_column(title, justify="right")
    table.add_column("known")
    table.add_column("")
    for row in total_rows(sharing):
        label = f"[{_STYLE[row.label]}]{row.label.value}[/]"
        table.add_row(row.title, f"{row.pages:,}", row.size, label, row.meaning)
    out.print(table)


def _avoidable(out: Console, by_cause: list[Group], sharing: Sharing) -> None:
    """The two numbers that a person with Python workers came for."""
    same, changed = avoidable(by_cause)
    mark = MARK[sharing.totals.copied.label]
    out.print()
    out.print(
        f"should be shared and is not: {format_bytes(pages_to_bytes(same))}{mark}, "
        "copied for a reference count or a collector header alone"
    )
    out.print(f"cannot be shared: {format_bytes(pages_to_bytes(changed))}{mark}, contents of objects changed")


def _notes(out: Console, meta: Meta, sharing: Sharing) -> None:
    lines = [f"not exact ({titles}): {reason}" for titles, reason in reasons(sharing)]
    lines += [f"difference: {item.sentence}" for item in sharing.differences]
    if sharing.reconciled_processes:
        lines.append(
            f"checked against censuses: {sharing.reconciled_pages:,} pages of {sharing.reconciled_processes:,} "
            f"processes, difference {sharing.reconciled_difference:+,}"
        )
    if meta.ended not in ("command", "processes", "signal", "duration"):
        lines.append(f"the recording ended early: {meta.ended}")
    if lines:
        out.print()
    for line in lines:
        out.print(escape(line))


def _table(out: Console, table: Table) -> None:
    painted = RichTable(box=None, pad_edge=False, title=table.title, title_justify="left", title_style="bold")
    cells = [(shortened(row[0], 36), *row[1:]) for row in table.rows]
    widths = [max(len(text) for text in column) for column in zip(table.columns, *cells, strict=True)][:-1]
    # The last column gets what is left.
    room = max(out.width - sum(widths) - 2 * len(widths), 12)
    for column, numeric in zip(table.columns, table.numeric, strict=True):
        side: Literal["left", "right"] = "right" if numeric else "left"
        painted.add_column(column, justify=side, no_wrap=True)
    for row in cells:
        last = shortened(row[-1], room) if table.ends_matter else clipped(row[-1], room)
        painted.add_row(*(escape(cell) for cell in row[:-1]), escape(last))
    out.print(painted)
    if table.hidden:
        out.print(f"… and {table.hidden:,} more (--top)")
