"""`cowscope dump`."""

from __future__ import annotations

from pathlib import Path

import click

TABLES = ("processes", "mappings", "forks", "faults", "operations", "census", "symbols") + (
    "objects",
    "types",
    "interpreters",
    "lines",
    "stacks",
    "meta",
)


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.argument("table", type=click.Choice(TABLES))
@click.option("--limit", type=click.IntRange(min=1), help="Only so many rows.")
@click.option("--codes", is_flag=True, help="Numbers as they are stored, where words would stand for them.")
def dump(recording: Path, table: str, limit: int | None, *, codes: bool) -> None:
    """Print the rows of TABLE, tab-separated, one line each, under a line of column names.

    Codes are spelt out (flags joined by |); one that this version does not know stays a number.

    \b
    Examples:
      cowscope dump web.cow forks
      cowscope dump web.cow faults --limit 20
    """
    from cowscope.recording.reader import open_recording
    from cowscope.views.dump import lines

    opened = open_recording(recording)
    if table == "meta":
        click.echo(opened.meta.to_json(), nl=False)
        return
    for line in lines(table, opened.table(table), limit=limit, codes=codes):
        click.echo(line)
