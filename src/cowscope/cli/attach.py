"""`cowscope attach`."""

from __future__ import annotations

import click

from cowscope.cli.options import Choices, finish, observation_options, recording_options, summarise


@click.command()
@recording_options
@click.argument("pid", type=click.IntRange(min=1))
def attach(
    pid: int,
    choices: Choices,
) -> None:
    """Record process PID, its threads, its children and what they will fork.

    Ctrl-C or --duration ends the recording; the processes are never stopped and run on untouched.

    \b
    Examples:
      cowscope attach 4711
      cowscope attach 4711 --duration 30 -o web.cow
    """
    from cowscope.linux.signals import ENDING, SignalQueue

    signals = SignalQueue(ENDING)
    from cowscope.recorder.observe import attach_to

    options = observation_options(choices)
    outcome = attach_to(pid, options, signals)
    finish(outcome.directory, outcome.ended, choices)
    summarise(outcome.directory, choices)
