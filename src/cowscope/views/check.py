"""What `cowscope check` came to, as text and for programs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from cowscope.lab.lockstep import Report
from cowscope.lab.search import Found
from cowscope.views.page_tables import disagreement
from cowscope.views.text import escaped


def disagreements(reports: Iterable[Report], found: Found | None) -> list[Report]:
    """The scenarios in which the two sides differed, the random one last."""
    wrong = [report for report in reports if report.differences]
    return wrong + ([found.report] if found is not None and found.report is not None else [])


def _not_checked(reports: Iterable[Report]) -> dict[str, list[str]]:
    missing: dict[str, list[str]] = {}
    for report in reports:
        if report.not_checked:
            missing.setdefault(report.not_checked, []).append(report.scenario.name)
    return missing


def lines(reports: list[Report], seconds: float, found: Found | None, unseen: list[str]) -> Iterator[str]:
    """Lines of text: disagreements whole, then what agreed, and what was not compared. Times in seconds."""
    wrong = disagreements(reports, found)
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


def as_json(reports: list[Report], seconds: float, found: Found | None, unseen: list[str]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "agreed": not disagreements(reports, found),
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
