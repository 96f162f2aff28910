"""`cowscope attach`."""

from __future__ import annotations

from pathlib import Path

import click

from cowscope.cli.options import finish, observation_options, recording_options, summarise


@click.command()
@recording_options
@click.argument("pid", type=click.IntRange(min=1))
def attach(
    pid: int,
    output: Path | None,
    duration: float | None,
    max_size: int | None,
    first_touch: bool,
    source: str,
    keep_raw: bool,
    quiet: bool,
    top: int,
) -> None:
    """Record process PID, its threads, its children and what they will fork.

    Ctrl-C or --duration ends the recording; the processes are never stopped and run on untouched.

    \b
    Examples:
      cowscope attach 4711
      cowscope attach 4711 --duration 30 -o web.cow
    """
    from cowscope.linux.signals import ENDING, hold

    hold(ENDING)  # before the imports below start threads
    from cowscope.recorder.observe import attach_to

    outcome = attach_to(pid, observation_options(output, duration, max_size, first_touch, source, quiet))
    finish(outcome.directory, outcome.ended, keep_raw=keep_raw, quiet=quiet, top=top)
    summarise(outcome.directory, quiet=quiet, top=top)
