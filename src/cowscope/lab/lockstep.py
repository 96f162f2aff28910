"""Lock-step: a scenario on both sides at once, compared after every step; the first disagreement ends it.

Not here: what is compared (`comparison`), what the sides do (`model`, `kernel`), which scenarios there are.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from cowscope.lab.comparison import Comparison, Difference, compare_results, was_retried
from cowscope.lab.kernel import Kernel, Stage
from cowscope.lab.model import Model
from cowscope.lab.result import NotChecked, Result
from cowscope.lab.scenario import Line, Scenario
from cowscope.lab.steps import Mmap
from cowscope.lab.view import EVERYTHING, Ints, Sight, View, watched
from cowscope.vm import laws
from cowscope.vm.policies import Policy


@dataclass(frozen=True, slots=True)
class Step:
    """Both sides after one line: what came of it, what there is to see at `pages`."""

    line: Line
    model: Result
    kernel: Result
    model_views: Mapping[str, View]
    kernel_views: Mapping[str, View]
    pages: Ints
    sight: Sight = EVERYTHING
    """What the kernel's side can tell."""


@dataclass(frozen=True, slots=True)
class Report:
    """What came of one scenario: how many operations were compared, and why it ended early, if it did."""

    scenario: Scenario
    operations: int
    differences: tuple[Difference, ...] = ()
    last: Step | None = None
    not_checked: str = ""
    retries: int = 0
    """Faults that the kernel took twice (`comparison.was_retried`)."""

    @property
    def agreed(self) -> bool:
        """True if both sides were the same throughout."""
        return not self.differences and not self.not_checked


class Lockstep:
    """Both sides of one scenario; a context manager that ends the puppets."""

    def __init__(
        self, scenario: Scenario, stage: Stage, policy: Policy | str = "linux", *, check_laws: bool = False
    ) -> None:
        """Nothing done yet."""
        self.scenario = scenario
        self.model = Model(scenario, policy, stage.settings)
        self.kernel = Kernel(scenario, stage)
        self.comparison = Comparison(stage.sight)
        self.check_laws = check_laws
        self.operations = 0
        self.retries = 0
        self._seen: dict[str, View] = {}
        self._n_places: tuple[int, int] = (0, 0)
        self.pages = watched([])

    def __enter__(self) -> Lockstep:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the puppets."""
        self.kernel.__exit__(None, None, None)

    def do(self, line: Line) -> tuple[Step, list[Difference]]:
        """Do one line on both sides, and say in what they differ. Raises `NotChecked`."""
        self.kernel.check(line)
        mine = self.model.do(line)
        self._watch()
        other, seen = self.kernel.do(line, self.pages, self._seen)
        self._seen = seen
        views = self.model.views(self.pages)
        found = compare_results(mine, other, self.comparison.sight)
        self.retries += was_retried(mine, other)
        if self.check_laws:
            found += self._broken_laws()
        if line.expected and mine.outcome != line.expected:
            found.append(Difference("outcome", None, None, mine.outcome, line.expected, "the text"))
        found += self.comparison.views(views, seen, self.pages, recycles=recycles(line.step))
        self.operations += 1
        return Step(line, mine, other, views, seen, self.pages, self.comparison.sight), found

    def _broken_laws(self) -> list[Difference]:
        try:
            laws.check(self.model.machine)
        except AssertionError as error:
            return [Difference("law of the vm", None, None, f"broken: {error}", "nothing of the kind")]
        return []

    def _watch(self) -> None:
        """Look at every page that a name stands for; what was seen before grows with it."""
        places = self.scenario.places.values()
        shape = (len(places), sum(place.pages for place in places))
        if shape != self._n_places:
            self._n_places = shape
            self.pages = watched([(place.start, place.start + place.pages) for place in places])
            self._seen = self.kernel.views(self.pages)


def recycles(step: object) -> bool:
    """Whether a step may free pages and fetch some at once (`Comparison.views`)."""
    return isinstance(step, Mmap) and "populate" in step.options


def play(
    scenario: Scenario, stage: Stage, policy: Policy | str = "linux", *, check_laws: bool = False
) -> Report:
    """Run a whole scenario. Raises `MissingRight` where there can be no puppets."""
    known = Scenario(scenario.sentence, scenario.name)  # grows, so that a place is known once it came to be
    last, before = None, stage.upsets()
    with Lockstep(known, stage, policy, check_laws=check_laws) as both:
        for line in scenario:
            known.add(line.step, expected=line.expected, number=line.number, said=line.said)
            try:
                last, found = both.do(line)
            except NotChecked as missing:
                return Report(scenario, both.operations, (), last, str(missing))
            if found:
                upset = stage.upset_since(before)
                told = () if upset else tuple(found)
                return Report(scenario, both.operations, told, last, upset)
        return Report(scenario, both.operations, (), last, retries=both.retries)
