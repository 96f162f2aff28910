"""What there is to see of a process at one moment, from either side, and how it is spelt.

A view has one place for each watched page. `frame` is whatever number a side knows a frame by: the vm's or the
kernel's; they are compared by who shares with whom. `label` is the page's first 8 bytes, where it is present
and may be read. A side that cannot see a thing says so in `Sight`, and then it is not compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
States = npt.NDArray[np.uint16]
Labels = npt.NDArray[np.uint64]


class State(IntFlag):
    """The bits of a page's state.

    FILE is page cache or shared memory; ANON private memory; EXCLUSIVE the kernel's own mark on an anonymous
    page (PageAnonExclusive); ONCE a map count of 1; HUGE a page of a folio larger than itself.
    """

    PRESENT = 1
    FILE = 2
    ANON = 4
    EXCLUSIVE = 8
    ZERO = 16
    ONCE = 32
    HUGE = 64
    GUARD = 128
    SWAPPED = 256
    KSM = 512
    READABLE = 1024


class Border(NamedTuple):
    """A mapping as /proc/PID/maps has it: pages `start` to before `end`, protection bits, shared or private."""

    start: int
    end: int
    protection: int
    shared: bool


@dataclass(frozen=True, slots=True)
class View:
    """One process: columns over the watched pages, and its mappings among them."""

    state: States
    frame: Ints
    map_count: Ints
    label: Labels
    borders: tuple[Border, ...]


@dataclass(frozen=True, slots=True)
class Sight:
    """What a side can tell: bits of `State`, and whether frames, faults and borders are known."""

    states: State
    frames: bool
    faults: bool
    borders: bool


EVERYTHING = Sight(State(2047), True, True, True)


def readable_pages(borders: tuple[Border, ...], pages: Ints) -> npt.NDArray[np.bool_]:
    """True for the pages that a mapping lets the processor load from: x86 reads what may be written, too."""
    readable = np.zeros(len(pages), np.bool_)
    for border in borders:
        if border.protection & 3:
            low, high = pages.searchsorted((border.start, border.end)).tolist()
            readable[low:high] = True
    return readable


def spelled(state: int) -> str:
    """A page's state in a few letters: `.` none, `Z` zero page, `A` anonymous, `F` file or shared, and marks.

    `x` exclusive, `h` huge, `k` KSM; `G` guard, `S` swapped.

    >>> spelled(State.PRESENT | State.ANON | State.EXCLUSIVE), spelled(0), spelled(State.GUARD)
    ('Ax', '.', 'G')
    """
    if state & State.GUARD:
        return "G"
    if state & State.SWAPPED:
        return "S"
    if not state & State.PRESENT:
        return "."
    kind = "Z" if state & State.ZERO else "F" if state & State.FILE else "A"
    marks = ((State.EXCLUSIVE, "x"), (State.HUGE, "h"), (State.KSM, "k"))
    return kind + "".join(letter for bit, letter in marks if state & bit)


def label_text(label: int) -> str:
    """The 8 bytes as text, without the zeros that fill them up.

    >>> label_text(int.from_bytes(b"mine", "little"))
    'mine'
    """
    data = int(label).to_bytes(8, "little").rstrip(b"\0")
    return "".join(chr(b) if 32 <= b < 127 else f"\\x{b:02x}" for b in data)


def watched(ranges: Sequence[tuple[int, int]]) -> Ints:
    """The page numbers in `ranges` (start, before end), ascending, each once.

    >>> watched([(5, 7), (1, 2), (6, 8)]).tolist()
    [1, 5, 6, 7]
    """
    parts, done = [np.zeros(0, np.int64)], 0
    for start, end in sorted(ranges):
        parts.append(np.arange(max(start, done), end))
        done = max(done, end)
    return np.concatenate(parts)
