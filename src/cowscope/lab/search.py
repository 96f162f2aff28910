"""The search for a disagreement: random scenarios, and the shortest one that still disagrees.

Hypothesis draws lists of numbers (`chance` reads them as operations), and when one disagrees leaves draws out
and makes numbers smaller for as long as it still does. A seed gives the same draws again; the kernel may differ.

A disagreement is left out only by a rule that says why the kernel's answer was chance (`kernel.Stage.upset_since`);
everything else counts, even what does not recur. Not here: the operations (`chance`), the comparison.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from cowscope.errors import CowscopeError
from cowscope.lab.chance import LIMITS, Chance, Draw
from cowscope.lab.kernel import Stage
from cowscope.lab.lockstep import Lockstep, Report, Step, play
from cowscope.lab.scenario import Scenario, ScenarioError
from cowscope.vm.policies import Policy

_BATCH = 40
_SHORTEST, _LONGEST = 40, 160


RETRIED = "retry: the kernel took one fault twice"


class Disagreement(Exception):
    """The two sides differ; the report says in what."""

    def __init__(self, report: Report) -> None:
        """Keep the report."""
        super().__init__(str(report.differences[0]))
        self.report = report


@dataclass(slots=True)
class Found:
    """What a search came to: operations compared, in how many scenarios, and the shortest that disagreed."""

    seed: int
    scenarios: int = 0
    operations: int = 0
    seconds: float = 0.0
    by_kind: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    """How often something was not counted, by the rule that says so."""
    report: Report | None = None
    recurs: bool = True


def search(
    stage: Stage,
    *,
    seed: int,
    operations: int | None = None,
    minutes: float | None = None,
    policy: Policy | str = "linux",
    check_laws: bool = False,
    progress: Callable[[Found], None] = lambda found: None,
    into: Found | None = None,
) -> Found:
    """Compare random scenarios until `operations` or `minutes` are reached, or one disagrees.

    Whoever gives the `Found` to count in has what was found so far when Ctrl-C comes in between. Raises
    `CowscopeError` where Hypothesis is not installed.
    """
    found, began = Found(seed) if into is None else into, time.monotonic()
    batch = 0
    try:
        while not _enough(found, began, operations, minutes):
            _batch(stage, found, seed * 100_003 + batch, policy, check_laws)
            found.seconds = time.monotonic() - began
            progress(found)
            batch += 1
    finally:
        found.seconds = time.monotonic() - began
    return found


def _enough(found: Found, began: float, operations: int | None, minutes: float | None) -> bool:
    if found.report is not None:
        return True
    by_time = minutes is not None and time.monotonic() - began >= minutes * 60
    by_count = operations is not None and found.operations >= operations
    return by_time or by_count or (minutes is None and operations is None)


def _batch(stage: Stage, found: Found, seed: int, policy: Policy | str, check_laws: bool) -> None:
    try:
        import hypothesis
        from hypothesis import HealthCheck, Phase, Verbosity, strategies
    except ImportError as error:
        raise CowscopeError(
            "random scenarios need Hypothesis: pip install 'cowscope[check]', or --operations 0"
        ) from error
    draws = strategies.tuples(*(strategies.integers(0, limit) for limit in LIMITS))
    last: list[Report] = []

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=_BATCH,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=list(HealthCheck),
        verbosity=Verbosity.quiet,
        print_blob=False,
    )
    @hypothesis.given(strategies.lists(draws, min_size=_SHORTEST, max_size=_LONGEST))
    def compare(chosen: Sequence[Draw]) -> None:
        try:
            once(stage, chosen, found, policy, check_laws=check_laws)
        except Disagreement as disagreement:
            last[:] = [disagreement.report]
            raise

    try:
        compare()
    except KeyboardInterrupt:
        found.report = last[0] if last else None
        raise
    except Disagreement as disagreement:
        found.report = disagreement.report
        found.report = shortened(disagreement.report, stage, policy, check_laws=check_laws)
    except hypothesis.errors.Flaky:
        found.report, found.recurs = last[0], False


def shortened(report: Report, stage: Stage, policy: Policy | str, *, check_laws: bool = False) -> Report:
    """The same disagreement without the lines that it does not need: what Hypothesis cannot leave out."""
    at = len(report.scenario.lines) - 2
    while at >= 0:
        fewer = _without(report.scenario, at)
        shorter = fewer and play(fewer, stage, policy, check_laws=check_laws)
        if shorter and shorter.differences:
            report = shorter
        at -= 1
    return report


def _without(scenario: Scenario, at: int) -> Scenario | None:
    """The scenario without one line; None if it makes no sense then."""
    fewer = Scenario(scenario.sentence, scenario.name)
    try:
        for index, line in enumerate(scenario.lines):
            if index != at:
                fewer.add(line.step)
    except ScenarioError:
        return None
    return fewer


def once(
    stage: Stage,
    draws: Sequence[Draw],
    found: Found,
    policy: Policy | str = "linux",
    *,
    check_laws: bool = False,
) -> None:
    """Compare the scenario that `draws` make. Raises `Disagreement`."""
    chance, before = Chance(), stage.upsets()
    found.scenarios += 1
    with Lockstep(chance.scenario, stage, policy, check_laws=check_laws) as both:
        lines, step = list(chance.prologue), None
        at = retries = 0
        while True:
            for line in lines:
                step, differences = both.do(line)
                _count(found, step)
                if both.retries > retries:
                    found.left_out[RETRIED] += 1
                    retries = both.retries
                if differences:
                    if upset := stage.upset_since(before):
                        found.left_out[upset] += 1
                        return
                    raise Disagreement(Report(chance.scenario, both.operations, tuple(differences), step))
            if at == len(draws):
                return
            lines = chance.take(draws[at])
            at += 1


def _count(found: Found, step: Step) -> None:
    found.operations += 1
    found.by_kind[type(step.line.step).__name__.lower()] += 1
    if step.kernel.codes is not None and step.kernel.outcome not in ("ok", ""):
        found.outcomes[step.kernel.outcome] += 1
