"""The shipped scenarios: one for each rule, and a matrix of cases × backings.

    scenarios/rules/NAME.cow      a scenario; its first line names the rule (R1.1 …) and says what it shows
    scenarios/cases/NAME.cow      a scenario with the line `P prepare NAME`, for which each backing has its own

A backing gives the case 8 pages, of which 0 to 3 are touched. Not here: what cannot be told in the text form
(userfaultfd, page sizes of other machines).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from importlib.resources.abc import Traversable

from cowscope.lab.parser import parse
from cowscope.lab.scenario import Scenario

_STORES = ['{p} store {n}[0] "0"', '{p} store {n}[1] "1"', '{p} store {n}[2] "2"', '{p} store {n}[3] "3"']
_LOADS = ["{p} load {n}[0]", "{p} load {n}[3]"]

BACKINGS: dict[str, tuple[str, list[str]]] = {
    "anonymous": ("", ["{p} mmap {n} 8 rw private anonymous", *_STORES]),
    "zero-page": ("", ["{p} mmap {n} 8 rw private anonymous", *_LOADS, "{p} load {n}[1]", "{p} load {n}[2]"]),
    "private-memfd": ("memfd data 8", ["{p} mmap {n} 8 rw private data[0]", *_STORES]),
    "private-memfd-read": ("memfd data 8", ["{p} mmap {n} 8 rw private data[0]", *_LOADS]),
    "private-memfd-holes": ("memfd data 8 sparse", ["{p} mmap {n} 8 rw private data[0]", *_LOADS]),
    "private-disk": ("disk data 8", ["{p} mmap {n} 8 rw private data[0]", *_LOADS, *_STORES[:2]]),
    "shared-memfd": ("memfd data 8", ["{p} mmap {n} 8 rw shared data[0]", *_STORES]),
    "shared-memfd-short": ("memfd data 6", ["{p} mmap {n} 8 rw shared data[0]", *_STORES]),
    "shared-disk": ("disk data 8", ["{p} mmap {n} 8 rw shared data[0]", *_LOADS, *_STORES[:2]]),
    "shared-anonymous": ("", ["{p} mmap {n} 8 rw shared anonymous", *_STORES]),
    "swapped": ("", ["{p} mmap {n} 8 rw private anonymous", *_STORES, "{p} madvise {n}[0..3] pageout"]),
    "thp": ("", ["{p} mmap {n} 512 rw private anonymous", "{p} madvise {n} hugepage", *_STORES]),
    "hugetlb": ("", ["{p} mmap {n} 512 rw private anonymous hugetlb", *_STORES]),
    "hugetlb-shared": ("", ["{p} mmap {n} 512 rw shared anonymous hugetlb", *_STORES]),
}
"""Each backing: its file, if any, and its lines for process {p} and name {n}."""

_PREPARE = re.compile(r"^([A-Z]\w*) prepare ([a-z]\w*)$", re.MULTILINE)


def rules() -> Iterator[Scenario]:
    """The scenarios of single rules, by name."""
    for name, text in _texts("rules"):
        yield parse(text, name)


def matrix() -> Iterator[Scenario]:
    """Every case with every backing, by the case's name.

    >>> sum(1 for _ in matrix()) >= 150
    True
    """
    for name, text in _texts("cases"):
        for backing in BACKINGS:
            yield prepared(text, name, backing)


def prepared(text: str, name: str, backing: str) -> Scenario:
    """The case in `text` on one backing.

    >>> print(prepared("# Short.\\nA prepare heap\\nA load heap[0]", "short", "hugetlb"))
    # Short.
    A start
    A mmap heap 512 rw private anonymous hugetlb
    A store heap[0] "0"
    A store heap[1] "1"
    A store heap[2] "2"
    A store heap[3] "3"
    A load heap[0]
    """
    file, lines = BACKINGS[backing]

    def begin(match: re.Match[str]) -> str:
        made = [line.format(p=match[1], n=match[2]) for line in lines]
        return "\n".join([*([file] if file else []), f"{match[1]} start", *made])

    return parse(_PREPARE.sub(begin, text), f"{name}, {backing}")


def story() -> Scenario:
    """The one that `cowscope explain` tells: what fork shares, and what is copied after all."""
    path = files("cowscope.lab") / "scenarios" / "story.cow"
    return parse(path.read_text(encoding="utf-8"), "story")


def shipped() -> list[Scenario]:
    """All of them."""
    return [story(), *rules(), *matrix()]


def _texts(kind: str) -> Iterator[tuple[str, str]]:
    directory = files("cowscope.lab") / "scenarios" / kind
    for path in sorted(directory.iterdir(), key=_name):
        if path.name.endswith(".cow"):
            yield path.name.removesuffix(".cow"), path.read_text(encoding="utf-8")


def _name(path: Traversable) -> str:
    return path.name
