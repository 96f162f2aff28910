"""The comparison: what both sides saw after a step, place by place, and who shares a frame with whom.

| compared | how |
|---|---|
| outcome, error codes, bytes loaded | equal, as far as both sides can tell |
| processes, mapping borders | equal |
| state, map count, first 8 bytes of each page | equal, as far as both sides can tell |
| frames | one to one among all that are mapped now, and for as long as a frame lives |
| moved or kept | a page that has a new frame on one side has a new one on the other |

The last row matters: a model that copies where the kernel reuses is right about sharing, and wrong.
Not here: what is right. Whoever disagrees is told apart by a person.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cowscope.lab.result import Result
from cowscope.lab.view import Ints, Sight, State, View, label_text, spelled


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing in which the sides differ: `what`, of which process and page (or None), and both answers."""

    what: str
    process: str | None
    page: int | None
    model: str
    kernel: str
    against: str = "the kernel"

    def __str__(self) -> str:
        """One line."""
        where = "" if self.process is None else f" of {self.process}"
        where += "" if self.page is None else f" page {self.page:#x}"
        return f"{self.what}{where}: the model says {self.model}, {self.against} {self.kernel}"


def compare_results(model: Result, kernel: Result, sight: Sight) -> list[Difference]:
    """In what the results of one step differ."""
    differences = []
    if kernel.outcome and model.outcome != kernel.outcome:
        differences.append(Difference("outcome", None, None, model.outcome, kernel.outcome))
    if (
        None not in (model.codes, kernel.codes)
        and model.codes != kernel.codes
        and not was_retried(model, kernel)
    ):
        differences.append(Difference("fault codes", None, None, str(model.codes), str(kernel.codes)))
    if None not in (model.data, kernel.data) and model.data != kernel.data:
        differences.append(Difference("bytes loaded", None, None, repr(model.data), repr(kernel.data)))
    return differences


def was_retried(model: Result, kernel: Result) -> bool:
    """Whether the kernel took one and the same fault twice in a row, and all else is as the model says.

    It does so when the entry changed while the handler looked at it (another CPU's page aging took the accessed
    bit): the handler then resolves nothing, and the access traps again. Seen once in 750,000 operations.

    >>> was_retried(Result("copied", (3,)), Result("copied", (3, 3)))
    True
    >>> was_retried(Result("copied", (3,)), Result("copied", (2, 3)))
    False
    """
    if model.codes is None or kernel.codes is None or len(kernel.codes) != len(model.codes) + 1:
        return False
    repeated = any(
        kernel.codes[at] == kernel.codes[at + 1] and kernel.codes[:at] + kernel.codes[at + 1 :] == model.codes
        for at in range(len(model.codes))
    )
    return repeated and model.outcome == kernel.outcome


class FrameBook:
    """Which frame of the vm is which of the kernel, over the life of a scenario."""

    def __init__(self) -> None:
        """Nothing is known."""
        self._kernels: dict[int, int] = {0: 0}

    def note(self, pairs: Ints) -> tuple[int, int] | None:
        """Take the pairs (model, kernel) of all mapped pages now; one that contradicts, or None.

        A pair that was known and is mapped still must be the same; a frame must not have two partners.

        >>> book = FrameBook()
        >>> book.note(np.array([[1, 70], [2, 80], [1, 70]])), book.note(np.array([[1, 70], [2, 81]]))
        (None, (2, 81))
        """
        found: dict[int, int] = {0: 0}
        for model, kernel in dict.fromkeys(map(tuple, pairs.tolist())):
            known = self._kernels.get(model, kernel)
            if known != kernel or found.setdefault(model, kernel) != kernel:
                return model, kernel
        if len(set(found.values())) != len(found):
            seen: dict[int, int] = {}
            for model, kernel in found.items():
                if seen.setdefault(kernel, model) != model:
                    return model, kernel
        self._kernels = found
        return None


class Comparison:
    """Compares views after each step of one scenario."""

    def __init__(self, sight: Sight) -> None:
        """`sight` is what both sides can tell."""
        self.sight = sight
        self.book = FrameBook()
        self._before: tuple[Mapping[str, View], Mapping[str, View]] = ({}, {})
        self._pages: Ints = np.zeros(0, np.int64)

    def views(
        self,
        model: Mapping[str, View],
        kernel: Mapping[str, View],
        pages: Ints,
        *,
        recycles: bool = False,
    ) -> list[Difference]:
        """In what the sides differ now; at most a few of each kind.

        A step that frees pages and then fetches some (`recycles`) may get back what it freed on one side and
        not on the other: after it, frames are only compared by who shares them.
        """
        if set(model) != set(kernel):
            return [Difference("live processes", None, None, str(sorted(model)), str(sorted(kernel)))]
        found: list[Difference] = []
        for name, mine in model.items():
            found += self._process(name, mine, kernel[name], pages)
        if self.sight.frames and model:
            if recycles:
                self.book = FrameBook()
            found += self._sharing(model, kernel, pages)
            found += [] if recycles else self._moves(model, kernel, pages)
        self._before, self._pages = (model, kernel), pages
        return found

    def _process(self, name: str, mine: View, other: View, pages: Ints) -> list[Difference]:
        found = []
        if self.sight.borders and mine.borders != other.borders:
            found.append(Difference("mappings", name, None, _shown(mine), _shown(other)))
        for at in _places((mine.state ^ other.state) & np.uint16(self.sight.states)):
            states = spelled(int(mine.state[at])), spelled(int(other.state[at]))
            if states[0] == states[1]:
                states = str(State(int(mine.state[at]))), str(State(int(other.state[at])))
            found.append(Difference("state", name, int(pages[at]), *states))
        if self.sight.frames:
            for at in _places(mine.map_count - other.map_count):
                counts = str(mine.map_count[at]), str(other.map_count[at])
                found.append(Difference("map count", name, int(pages[at]), *counts))
        for at in _places(mine.label ^ other.label):
            labels = repr(label_text(int(mine.label[at]))), repr(label_text(int(other.label[at])))
            found.append(Difference("bytes", name, int(pages[at]), *labels))
        return found

    def _sharing(
        self, model: Mapping[str, View], kernel: Mapping[str, View], pages: Ints
    ) -> list[Difference]:
        mine = np.concatenate([view.frame for view in model.values()])
        other = np.concatenate([kernel[name].frame for name in model])
        present = (np.concatenate([view.state for view in model.values()]) & int(State.PRESENT)) != 0
        present &= (np.concatenate([kernel[name].state for name in model]) & int(State.PRESENT)) != 0
        pairs = np.column_stack((mine[present], other[present]))
        wrong = self.book.note(pairs)
        if wrong is None:
            return []
        at = int(np.flatnonzero((mine == wrong[0]) & (other == wrong[1]) & present)[0])
        name = list(model)[at // len(pages)]
        shares = (_sharers(mine, wrong[0], model, pages), _sharers(other, wrong[1], model, pages))
        return [Difference("sharers of the frame", name, int(pages[at % len(pages)]), *shares)]

    def _moves(self, model: Mapping[str, View], kernel: Mapping[str, View], pages: Ints) -> list[Difference]:
        if len(pages) != len(self._pages) or (pages != self._pages).any():
            return []
        found = []
        for name in model.keys() & self._before[0].keys():
            mine, was = model[name], self._before[0][name]
            other, were = kernel[name], self._before[1][name]
            kept = (mine.state & was.state & other.state & were.state & int(State.PRESENT)) != 0
            moved, move = mine.frame != was.frame, other.frame != were.frame
            for at in _places(kept & (moved != move)):
                told = {True: "it has a new frame", False: "it kept its frame"}
                answers = told[bool(moved[at])], told[bool(move[at])]
                found.append(Difference("frame", name, int(pages[at]), *answers))
        return found


def _places(differing: np.typing.NDArray[np.generic]) -> list[int]:
    places: list[int] = np.flatnonzero(differing)[:4].tolist()
    return places


def _sharers(frames: Ints, frame: int, model: Mapping[str, View], pages: Ints) -> str:
    names, n = list(model), len(pages)
    at = np.flatnonzero(frames == frame)[:8].tolist()
    return ", ".join(f"{names[i // n]} page {int(pages[i % n]):#x}" for i in at)


def _shown(view: View) -> str:
    return ", ".join(
        f"{b.start:#x}+{b.end - b.start} {b.protection}{'s' if b.shared else 'p'}" for b in view.borders
    )
