"""Everything in a recording that is not a fault, in order of time: what the replay does between faults.

At one instant: censuses first (they look at what was), then operations, then mappings that come, mappings
that go, forks. What a fork inherits and what exec and exit clear is left out, since those operations do it themselves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cowscope.recording.schema import NONE, Columns, Operation


class Kind(IntEnum):
    """What happens; the order in which things of one instant happen."""

    CENSUS = 0
    OPERATION = 1
    PLACE = 2
    REMOVE = 3
    FORK = 4


@dataclass(frozen=True)
class Step:
    """One thing to do; `row` is its row in the table that the kind names (mappings for PLACE, REMOVE)."""

    time_ns: int
    kind: Kind
    row: int


def schedule(tables: dict[str, Columns]) -> Iterator[Step]:
    """All steps in order."""
    mappings, forks = tables["mappings"], tables["forks"]
    times, kinds, rows = [], [], []
    for kind, time, which in (
        (Kind.CENSUS, tables["census"]["time_ns"], census_starts(tables["census"])),
        (Kind.OPERATION, tables["operations"]["time_ns"], np.arange(len(tables["operations"]["time_ns"]))),
        (Kind.PLACE, mappings["from_ns"], np.flatnonzero(_placed(tables))),
        (Kind.REMOVE, mappings["to_ns"], np.flatnonzero(_removed(tables))),
        (Kind.FORK, forks["time_ns"], np.arange(len(forks["time_ns"]))),
    ):
        times.append(np.asarray(time, np.int64)[which])
        kinds.append(np.full(len(which), kind, np.int8))
        rows.append(which)
    time, kind_of, row = np.concatenate(times), np.concatenate(kinds), np.concatenate(rows)
    order = np.lexsort((row, kind_of, time))
    columns = zip(time[order].tolist(), kind_of[order].tolist(), row[order].tolist(), strict=True)
    for at, number, index in columns:
        yield Step(at, Kind(number), index)


def census_starts(census: Columns) -> NDArray[np.intp]:
    """The first row of each census."""
    numbers = census["census"]
    return np.flatnonzero(np.diff(numbers, prepend=numbers[:1] - 1)) if len(numbers) else np.empty(0, np.intp)


def _placed(tables: dict[str, Columns]) -> NDArray[np.bool_]:
    """Mappings that something placed; those that a fork handed down come with the fork."""
    mappings, processes, forks = tables["mappings"], tables["processes"], tables["forks"]
    born = np.full(len(processes["process"]), NONE, np.int64)
    by_fork = forks["child"][~forks["before_start"].astype(bool)]
    born[by_fork] = processes["start_ns"][by_fork]
    placed: NDArray[np.bool_] = mappings["from_ns"] != born[mappings["process"]]
    return placed


def _removed(tables: dict[str, Columns]) -> NDArray[np.bool_]:
    """Mappings that went by themselves, not with the whole address space."""
    mappings, operations = tables["mappings"], tables["operations"]
    wiped = np.isin(operations["operation"], (Operation.EXEC, Operation.EXIT))
    ends = set(zip(operations["process"][wiped].tolist(), operations["time_ns"][wiped].tolist(), strict=True))
    pairs = zip(mappings["process"].tolist(), mappings["to_ns"].tolist(), strict=True)
    gone = (
        np.array([pair not in ends for pair in pairs], bool)
        if ends
        else np.ones(len(mappings["to_ns"]), bool)
    )
    gone &= mappings["to_ns"] != NONE
    return gone
