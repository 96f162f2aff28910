"""`cowscope check`: the vm against the live kernel."""

from __future__ import annotations

import json
import math
import random
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from cowscope.cli.status import clear_status_line, status_line

if TYPE_CHECKING:
    from cowscope.lab.kernel import Stage
    from cowscope.lab.scenario import Scenario
    from cowscope.lab.search import Found
    from cowscope.views.check import Done

_DEFAULT_OPERATIONS = 5000


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--operations", type=click.IntRange(min=0), help="Random operations to compare at least.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Go on at random for so long.")
@click.option("--seed", type=click.IntRange(min=0), help="Where chance begins (default: another each time).")
@click.option("--laws", is_flag=True, help="Check the laws of the vm, too, after every step.")
@click.option(
    "--merge-same-pages",
    "merges",
    is_flag=True,
    help="Let the scenarios of KSM have the kernel merge same pages, on the whole machine, for a moment.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(
    ctx: click.Context,
    scenarios: tuple[Path, ...],
    operations: int | None,
    minutes: float | None,
    seed: int | None,
    laws: bool,
    merges: bool,
    as_json: bool,
) -> None:
    """Compare the vm with the kernel of this machine, page by page after every step.

    First the shipped scenarios (or the files given), then random ones. The exit status is 1 at a
    disagreement, which is printed with both page tables and, if it was found at random, as the shortest
    scenario that still disagrees. Ctrl-C ends it with what was compared until then, and exit status 130.

    \b
    Examples:
      cowscope check
      cowscope check --minutes 60 --seed 7
      cowscope check my.cow --operations 0
    """
    from cowscope.lab.kernel import Stage
    from cowscope.lab.library import shipped
    from cowscope.lab.parser import parse_file
    from cowscope.lab.search import Found
    from cowscope.views.check import Done, disagreements, lines
    from cowscope.views.check import as_json as to_json

    if minutes is not None and math.isnan(minutes):
        raise click.BadParameter("nan is no time", param_hint="--minutes")
    if operations is None and minutes is None:
        operations = 0 if scenarios else _DEFAULT_OPERATIONS
    chosen = [parse_file(path) for path in scenarios] if scenarios else shipped()
    seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    with Stage(merge_same_pages=merges) as stage:
        done = Done(Found(seed))
        try:
            _compare(stage, chosen, operations, minutes, laws, done)
        except KeyboardInterrupt:
            done.interrupted = True
        except Exception as error:
            # Ctrl-C in the middle of a step may come out as what the step's undoing stumbles over.
            if not _came_of_interrupt(error):
                raise
            done.interrupted = True
        if sys.stderr.isatty():
            clear_status_line()
        done.unseen = _unseen(stage)
    if as_json:
        click.echo(json.dumps(to_json(done), indent=2))
    else:
        for line in lines(done):
            click.echo(line)
    if done.interrupted:
        raise KeyboardInterrupt
    ctx.exit(1 if disagreements(done) else 0)


def _came_of_interrupt(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _compare(
    stage: Stage,
    chosen: list[Scenario],
    operations: int | None,
    minutes: float | None,
    laws: bool,
    done: Done,
) -> None:
    from cowscope.lab.lockstep import play
    from cowscope.lab.search import search

    began = time.monotonic()
    for index, scenario in enumerate(chosen, 1):
        _say(f"scenario {index} of {len(chosen)}: {scenario.name}")
        done.reports.append(play(scenario, stage, check_laws=laws))
        done.seconds = time.monotonic() - began
    if all(not report.differences for report in done.reports):
        search(
            stage,
            seed=done.found.seed,
            operations=operations,
            minutes=minutes,
            check_laws=laws,
            progress=_progress,
            into=done.found,
        )


def _progress(found: Found) -> None:
    rate = found.operations / found.seconds if found.seconds else 0
    _say(f"{found.operations:,} random operations, {rate:,.0f} a second")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        status_line(text)


def _unseen(stage: Stage) -> list[str]:
    """What this user is not shown, so that it was not compared."""
    unseen = []
    if not stage.sight.frames:
        unseen.append("frames, map counts beyond one, exclusive marks: needs root (frame numbers)")
    if not stage.sight.faults:
        unseen.append(f"faults and what they did: {stage.untraced or 'needs root (frame numbers)'}")
    return unseen
