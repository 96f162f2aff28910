"""What `cowscope check` came to, as text and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from cowscope.lab.lockstep import Report, Step
from cowscope.lab.search import Found
from cowscope.views.page_tables import disagreement, page_names, rows, sentence
from cowscope.views.text import escaped

SCHEMA = "cowscope.check"
SCHEMA_VERSION = "1.0"
"""A minor version adds keys, a major one changes them. `docs/check-explain-json.md` describes every key."""


@dataclass(slots=True)
class Done:
    """What was compared: scenarios in `seconds`, random ones, and what this user is not shown (`unseen`)."""

    found: Found
    reports: list[Report] = field(default_factory=list)
    seconds: float = 0.0
    unseen: list[str] = field(default_factory=list)
    interrupted: bool = False


def disagreements(done: Done) -> list[Report]:
    """The scenarios in which the two sides differed, the random one last."""
    wrong = [report for report in done.reports if report.differences]
    return wrong + ([done.found.report] if done.found.report is not None else [])


def _not_checked(reports: Iterable[Report]) -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    for report in reports:
        if report.not_checked:
            missing.setdefault(report.not_checked, []).append(report.scenario.name)
    return missing


def lines(done: Done) -> Iterator[str]:
    """Lines of text: disagreements whole, then what agreed, and what was not compared."""
    reports, found = done.reports, done.found
    for report in disagreements(done):
        yield f"DISAGREEMENT in {escaped(report.scenario.name)}"
        if report is found.report and not found.recurs:
            yield "(it did not recur when the same scenario was run again)"
        yield from map(escaped, disagreement(report))
        yield ""
    if done.interrupted:
        yield "interrupted; until then:"
    agreed = sum(report.agreed for report in reports)
    operations = sum(report.operations for report in reports)
    rate = operations / done.seconds if done.seconds else 0
    yield f"{agreed} of {len(reports)} scenarios agree: {operations:,} operations, {rate:,.0f} a second"
    if found.operations:
        yield (
            f"{found.scenarios} random scenarios{'' if found.report else ' agree'}: {found.operations:,} "
            f"operations, {found.operations / found.seconds:,.0f} a second, seed {found.seed}"
        )
    for reason, names in _not_checked(reports).items():
        yield f"not checked: {reason} ({len(names)} scenarios)"
    for rule, count in found.left_out.items():
        yield f"not counted: {rule} ({count} times)"
    if retries := sum(report.retries for report in reports):
        yield f"not counted: retry: the kernel took one fault twice ({retries} times)"
    for reason in done.unseen:
        yield f"not compared: {reason}"


def as_json(done: Done) -> dict[str, Any]:
    """The same for programs."""
    found = done.found
    return {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "agreed": not disagreements(done),
        "interrupted": done.interrupted,
        "scenarios": [_report_json(report) for report in done.reports],
        "scenario_seconds": round(done.seconds, 3),
        "random": {
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
        "not_compared": done.unseen,
    }


def _report_json(report: Report) -> dict[str, Any]:
    wrong = bool(report.differences)
    last = report.last if wrong else None
    names = page_names(report.scenario) if wrong else {}
    return {
        "name": report.scenario.name,
        "shows": report.scenario.sentence,
        "agreed": report.agreed,
        "operations": report.operations,
        "retries": report.retries,
        "not_checked": report.not_checked or None,
        "differences": [sentence(difference, names) for difference in report.differences],
        "scenario": str(report.scenario) if wrong else None,
        "step": None if last is None else str(last.line),
        "pages": [] if last is None else _pages_json(report, last),
    }


def _pages_json(report: Report, last: Step) -> list[dict[str, str]]:
    """Both sides of each page after the step that differed."""
    return [
        {"process": row.process, "page": row.page, "model": row.model, "kernel": row.kernel}
        for row in rows(report.scenario, last)
    ]
