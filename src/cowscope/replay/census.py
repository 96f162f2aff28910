"""Censuses of a recording as page arrays, found by process and time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cowscope.recording.schema import NONE, Columns, PageState
from cowscope.replay.schedule import census_starts

Pages = NDArray[np.int64]

_NOT_ANONYMOUS = PageState.FILE | PageState.ZERO | PageState.GUARD | PageState.SWAPPED


@dataclass(frozen=True)
class Census:
    """The anonymous pages that hold memory in one process, ascending; columns side by side.

    `exclusive`: mapped once in the whole system. `group`: equal for one page in several processes, -1 if not taken.
    """

    process: int
    time_ns: int
    until_ns: int
    pages: Pages
    exclusive: NDArray[np.bool_]
    group: Pages


class Censuses:
    """All censuses, each expanded to pages when asked for."""

    def __init__(self, table: Columns) -> None:
        """Index the table; its rows stay runs."""
        self._table = table
        self._starts = census_starts(table)
        self._ends = np.append(self._starts[1:], len(table["census"]))
        self._by_process: dict[int, list[tuple[int, int]]] = {}
        for index, start in enumerate(self._starts.tolist()):
            entry = (int(table["time_ns"][start]), index)
            self._by_process.setdefault(int(table["process"][start]), []).append(entry)
        for entries in self._by_process.values():
            entries.sort()

    def at_row(self, row: int) -> Census:
        """The census that begins at `row` of the table."""
        return self._expand(int(np.searchsorted(self._starts, row)))

    def first_after(self, process: int, time_ns: int, before_ns: int) -> Census | None:
        """The first census of `process` in [time_ns, before_ns)."""
        for time, index in self._by_process.get(process, []):
            if time_ns <= time < before_ns:
                return self._expand(index)
        return None

    def has(self, process: int) -> bool:
        """Whether there is any census of `process`."""
        return process in self._by_process

    def last_undisturbed(self, times: Pages) -> set[int]:
        """The first row of the last census of each process during which nothing at `times` (ascending) happened."""
        begin, end = (self._table[name][self._starts] for name in ("time_ns", "until_ns"))
        calm = np.searchsorted(times, begin) == np.searchsorted(times, end, side="right")
        last = {}
        for process, entries in self._by_process.items():
            usable = [index for _, index in entries if calm[index]]
            if usable:
                last[process] = int(self._starts[usable[-1]])
        return set(last.values())

    def _expand(self, index: int) -> Census:
        rows = slice(int(self._starts[index]), int(self._ends[index]))
        column = {name: values[rows] for name, values in self._table.items()}
        state = column["state"]
        kept = ((state & PageState.PRESENT) != 0) & ((state & _NOT_ANONYMOUS) == 0)
        n = column["n_pages"][kept]
        within = np.arange(int(n.sum())) - np.repeat(np.cumsum(n) - n, n)
        group = np.repeat(column["group"][kept], n)
        return Census(
            process=int(column["process"][0]),
            time_ns=int(column["time_ns"][0]),
            until_ns=int(column["until_ns"][0]),
            pages=np.repeat(column["start_page"][kept], n) + within,
            exclusive=np.repeat((state[kept] & PageState.EXCLUSIVE) != 0, n),
            group=np.where(group == NONE, NONE, group + within),
        )
