"""`cowscope check`: the vm against the live kernel."""

from __future__ import annotations

import json
import random
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from cowscope.lab.kernel import Stage
    from cowscope.lab.lockstep import Report
    from cowscope.lab.scenario import Scenario
    from cowscope.lab.search import Found

_DEFAULT_OPERATIONS = 5000


@click.command()
@click.argument("scenarios", nargs=-1, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--operations", type=click.IntRange(min=0), help="Random operations to compare at least.")
@click.option("--minutes", type=click.FloatRange(min=0, min_open=True), help="Go on at random for so long.")
@click.option("--seed", type=click.IntRange(min=0), help="Where chance begins (default: another each time).")
@click.option("--laws", is_flag=True, help="Check the laws of the vm, too, after every step.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@click.pass_context
def check(
    ctx: click.Context,
    scenarios: tuple[Path, ...],
    operations: int | None,
    minutes: float | None,
    seed: int | None,
    laws: bool,
    as_json: bool,
) -> None:
    """Compare the vm with the kernel of this machine, page by page after every step.

    First the shipped scenarios (or the files given), then random ones. The exit status is 1 at a
    disagreement, which is printed with both page tables and, if it was found at random, as the shortest
    scenario that still disagrees.

    \b
    Examples:
      cowscope check
      cowscope check --minutes 60 --seed 7
      cowscope check my.cow --operations 0
    """
    from cowscope.lab.kernel import Stage
    from cowscope.lab.library import shipped
    from cowscope.lab.parser import parse_file
    from cowscope.lab.search import search

    if operations is None and minutes is None:
        operations = 0 if scenarios else _DEFAULT_OPERATIONS
    chosen = [parse_file(path) for path in scenarios] if scenarios else shipped()
    seed = random.SystemRandom().randrange(1 << 31) if seed is None else seed
    with Stage() as stage:
        began = time.monotonic()
        reports = _play(chosen, stage, laws)
        seconds = time.monotonic() - began
        found = None
        if all(not report.differences for report in reports):
            found = search(
                stage, seed=seed, operations=operations, minutes=minutes, check_laws=laws, progress=_progress
            )
        _wipe()
        unseen = _unseen(stage)
    if as_json:
        click.echo(json.dumps(_as_json(reports, seconds, found, unseen), indent=2))
    else:
        for line in _lines(reports, seconds, found, unseen):
            click.echo(line)
    ctx.exit(1 if _disagreements(reports, found) else 0)


def _play(chosen: list[Scenario], stage: Stage, laws: bool) -> list[Report]:
    from cowscope.lab.lockstep import play

    reports = []
    for index, scenario in enumerate(chosen, 1):
        _say(f"scenario {index} of {len(chosen)}: {scenario.name}")
        reports.append(play(scenario, stage, check_laws=laws))
    return reports


def _progress(found: Found) -> None:
    rate = found.operations / found.seconds if found.seconds else 0
    _say(f"{found.operations:,} random operations, {rate:,.0f} a second")


def _say(text: str) -> None:
    if sys.stderr.isatty():
        click.echo(f"\r\x1b[K{text[:100]}", nl=False, err=True)


def _wipe() -> None:
    if sys.stderr.isatty():
        click.echo("\r\x1b[K", nl=False, err=True)


def _unseen(stage: Stage) -> list[str]:
    """What this user is not shown, so that it was not compared."""
    unseen = []
    if not stage.sight.frames:
        unseen.append("frames, map counts beyond one, exclusive marks: needs root (frame numbers)")
    if not stage.sight.faults:
        unseen.append(f"faults and what they did: {stage.untraced or 'needs root (frame numbers)'}")
    return unseen


def _disagreements(reports: Iterable[Report], found: Found | None) -> list[Report]:
    wrong = [report for report in reports if report.differences]
    return wrong + ([found.report] if found is not None and found.report is not None else [])


def _not_checked(reports: Iterable[Report]) -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    for report in reports:
        if report.not_checked:
            missing.setdefault(report.not_checked, []).append(report.scenario.name)
    return missing


def _lines(reports: list[Report], seconds: float, found: Found | None, unseen: list[str]) -> Iterable[str]:
    from cowscope.views.page_tables import disagreement
    from cowscope.views.text import escaped

    wrong = _disagreements(reports, found)
    for report in wrong:
        yield f"DISAGREEMENT in {escaped(report.scenario.name)}"
        if found is not None and report is found.report and not found.recurs:
            yield "(it did not recur when the same scenario was run again)"
        yield from map(escaped, disagreement(report))
        yield ""
    agreed = sum(report.agreed for report in reports)
    operations = sum(report.operations for report in reports)
    rate = operations / seconds if seconds else 0
    yield f"{agreed} of {len(reports)} scenarios agree: {operations:,} operations, {rate:,.0f} a second"
    if found is not None and found.operations:
        yield (
            f"{found.scenarios} random scenarios{'' if found.report else ' agree'}: {found.operations:,} "
            f"operations, {found.operations / found.seconds:,.0f} a second, seed {found.seed}"
        )
    for reason, names in _not_checked(reports).items():
        yield f"not checked: {reason} ({len(names)} scenarios)"
    for rule, count in (found.left_out if found else {}).items():
        yield f"not counted: {rule} ({count} times)"
    if retries := sum(report.retries for report in reports):
        yield f"not counted: retry: the kernel took one fault twice ({retries} times)"
    for reason in unseen:
        yield f"not compared: {reason}"


def _as_json(reports: list[Report], seconds: float, found: Found | None, unseen: list[str]) -> dict[str, Any]:
    return {
        "agreed": not _disagreements(reports, found),
        "scenarios": [_report_json(report) for report in reports],
        "scenario_seconds": round(seconds, 3),
        "random": None
        if found is None
        else {
            "seed": found.seed,
            "scenarios": found.scenarios,
            "operations": found.operations,
            "seconds": round(found.seconds, 3),
            "by_kind": dict(found.by_kind),
            "outcomes": {str(word): count for word, count in found.outcomes.items()},
            "left_out": dict(found.left_out),
            "disagreement": None if found.report is None else _report_json(found.report),
            "recurs": found.recurs,
        },
        "not_compared": unseen,
    }


def _report_json(report: Report) -> dict[str, Any]:
    return {
        "name": report.scenario.name,
        "shows": report.scenario.sentence,
        "agreed": report.agreed,
        "operations": report.operations,
        "not_checked": report.not_checked or None,
        "differences": [str(difference) for difference in report.differences],
        "scenario": str(report.scenario) if report.differences else None,
    }
