"""`cowscope run`."""

from __future__ import annotations

from pathlib import Path

import click

from cowscope.cli.options import finish, observation_options, recording_options, summarise


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@recording_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    command: tuple[str, ...],
    output: Path | None,
    duration: float | None,
    max_size: int | None,
    first_touch: bool,
    source: str,
    keep_raw: bool,
    quiet: bool,
    top: int,
) -> int:
    """Start COMMAND and record the copy-on-write faults of it and all its children.

    Standard streams, signals and the exit status are the command's own; the summary goes to stderr. The
    recording ends with the command, after --duration or at --max-size; the command itself is never ended.

    \b
    Examples:
      cowscope run -- python prefork.py
      cowscope run -o web.cow --duration 60 -- gunicorn --preload -w 4 app:app
    """
    from cowscope.linux.signals import FORWARDED, hold

    hold(FORWARDED)  # before the imports below start threads
    from cowscope.recorder.observe import RunningCommand

    running = RunningCommand(
        command, observation_options(output, duration, max_size, first_touch, source, quiet)
    )
    outcome = running.observe()
    if outcome.exit_status is not None:
        status = running.wait()
        finish(outcome.directory, outcome.ended, keep_raw=keep_raw, quiet=quiet, top=top)
    else:
        # The recording is over before the command is: write it now, pass signals on after.
        finish(outcome.directory, outcome.ended, keep_raw=keep_raw, quiet=quiet, top=top)
        status = running.wait()
    summarise(outcome.directory, quiet=quiet, top=top)
    return status
