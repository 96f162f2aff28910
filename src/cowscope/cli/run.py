"""`cowscope run`."""

from __future__ import annotations

import click

from cowscope.cli.options import Choices, finish, observation_options, recording_options, summarise


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@recording_options
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    command: tuple[str, ...],
    choices: Choices,
) -> int:
    """Start COMMAND and record the copy-on-write faults of it and all its children.

    Standard streams, signals and the exit status are the command's own; the summary goes to stderr. The
    recording ends with the command, after --duration or at --max-size; the command itself is never ended.
    A signal that is sent to cowscope is passed on; one that is sent to the whole process group (Ctrl-C,
    kill %1) the command has got already.

    \b
    Examples:
      cowscope run -- python prefork.py
      cowscope run -o web.cow --duration 60 -- gunicorn --preload -w 4 app:app
    """
    from cowscope.linux.signals import FORWARDED, SignalQueue

    signals = SignalQueue(FORWARDED)
    from cowscope.recorder.observe import RunningCommand

    options = observation_options(choices)
    running = RunningCommand(command, options, signals)
    outcome = running.observe()
    # Where the recording is over before the command is, it is written now, and signals are passed on after.
    status = None if outcome.exit_status is None else running.wait()
    try:
        finish(outcome.directory, outcome.ended, choices)
    except click.ClickException as error:
        # The command, and who waits for its status, is not to suffer from a full disk.
        click.echo(f"cowscope: {error.format_message()}", err=True)
        return running.wait() if status is None else status
    if status is None:
        status = running.wait()
    summarise(outcome.directory, choices)
    return status
