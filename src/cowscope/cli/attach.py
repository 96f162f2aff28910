"""`cowscope attach`."""

from __future__ import annotations

import os
from dataclasses import replace

import click

from cowscope.cli.options import Choices, finish, observation_options, recording_options, summarise


@click.command()
@recording_options
@click.option("--ready-fd", type=click.IntRange(min=0), hidden=True)
@click.argument("pid", type=click.IntRange(min=1))
def attach(
    pid: int,
    ready_fd: int | None,
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
    if ready_fd is not None:
        options = replace(
            options, on_ready=lambda: os.closerange(ready_fd, ready_fd + os.write(ready_fd, b"x"))
        )
    outcome = attach_to(pid, options, signals)
    finish(outcome.directory, outcome.ended, choices)
    summarise(outcome.directory, choices)
