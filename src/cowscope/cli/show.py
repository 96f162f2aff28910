"""`cowscope show`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from cowscope.insight.breakdown import By, Group
    from cowscope.insight.sharing import Sharing
    from cowscope.recording.meta import Meta

KINDS = ("process", "mapping", "function", "time", "cause", "type", "line")
OF_PYTHON = ("cause", "line", "type")
"""Said first where there are Python processes, else not at all."""


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--by", type=click.Choice(KINDS), multiple=True, help="Only this grouping; may be repeated.")
@click.option("--top", type=click.IntRange(min=1), default=10, show_default=True, help="Rows per table.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print the documented JSON (all rows unless --top is given)."
)
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows of one --by as CSV (likewise).")
@click.pass_context
def show(
    ctx: click.Context, recording: Path, by: tuple[str, ...], top: int, as_json: bool, as_csv: bool
) -> None:
    """Say what was shared, what was copied since, by whom, where and through which code.

    \b
    Examples:
      cowscope show web.cow
      cowscope show web.cow --by function --top 30
      cowscope show web.cow --by cause --by type
      cowscope show web.cow --json | jq .totals.copied_pages.value
      cowscope show web.cow --by mapping --csv > mappings.csv
    """
    if as_csv and (len(by) != 1 or as_json):
        raise click.UsageError("--csv prints one table: name it with one --by, without --json")
    meta, sharing, groups = findings(recording, by)
    most = top if ctx.get_parameter_source("top") is ParameterSource.COMMANDLINE else None
    if as_csv:
        from cowscope.views.machine import to_csv

        ((_, rows),) = groups.items()
        click.echo(to_csv(rows[:most], sharing), nl=False)
    elif as_json:
        from cowscope.views.machine import to_json

        click.echo(to_json(str(recording), meta, sharing, groups, top=most))
    else:
        from cowscope.views.terminal import console, paint

        paint(console(sys.stdout), str(recording), meta, sharing, groups, top=top)


def print_summary(recording: Path, out: IO[str], *, top: int) -> None:
    """The terminal form of everything, as `run` ends with it."""
    from cowscope.views.terminal import console, paint

    meta, sharing, groups = findings(recording, ())
    paint(console(out), str(recording), meta, sharing, groups, top=top)


def findings(path: Path, kinds: tuple[str, ...]) -> tuple[Meta, Sharing, dict[By, list[Group]]]:
    """Read, replay, count; without `kinds` all that make sense."""
    from cowscope.insight.breakdown import By, breakdown
    from cowscope.insight.sharing import sharing as count
    from cowscope.recording.reader import open_recording
    from cowscope.recording.schema import TABLES
    from cowscope.replay.engine import replay_tables

    recording = open_recording(path)
    tables = {name: recording.table(name) for name in TABLES}
    replayed = replay_tables(tables)
    others = tuple(kind for kind in KINDS if kind not in OF_PYTHON)
    kinds = kinds or (OF_PYTHON if len(tables["interpreters"]["process"]) else ()) + others
    groups = {By(kind): breakdown(By(kind), recording.meta, replayed, tables) for kind in kinds}
    return recording.meta, count(recording.meta, replayed, tables), groups
