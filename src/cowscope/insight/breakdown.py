"""The same faults by process, mapping, function or time: who wrote, where, through which code, when."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from cowscope.insight.causes import CAUSES, SHAREABLE, Cause, causes
from cowscope.recording.meta import Meta
from cowscope.recording.schema import NONE, Columns, MappingKind
from cowscope.replay.verdicts import Replay, Verdict
from cowscope.units import NS_PER_S, ns_to_s, pages_to_bytes

TIME_BINS = 20
_MOST = 3
"""How many of its parts a row names."""


class By(StrEnum):
    """The ways to group."""

    PROCESS = "process"
    MAPPING = "mapping"
    FUNCTION = "function"
    TIME = "time"
    CAUSE = "cause"
    TYPE = "type"
    LINE = "line"


@dataclass(frozen=True, kw_only=True)
class Group:
    """One row: pages by what happened to them. `name` and `detail` are hostile text."""

    name: str
    detail: str = ""
    copied: int = 0
    reused: int = 0
    new: int = 0
    other: int = 0
    workers: int = 0
    shared_at_fork: int = NONE
    still_shared: int = NONE
    from_ns: int = NONE
    to_ns: int = NONE

    @property
    def weight(self) -> tuple[int, int, int, int]:
        """Most copied first."""
        return (self.copied, self.reused, self.new, self.other)


class _Counts(TypedDict):
    copied: int
    reused: int
    new: int
    other: int


@dataclass(frozen=True)
class Tally:
    """Pages per key: row i belongs to key i."""

    copied: NDArray[np.int64]
    reused: NDArray[np.int64]
    new: NDArray[np.int64]
    other: NDArray[np.int64]

    def row(self, keys: list[int]) -> _Counts:
        """The sums over `keys`, as fields of a `Group`."""
        return {
            "copied": int(self.copied[keys].sum()),
            "reused": int(self.reused[keys].sum()),
            "new": int(self.new[keys].sum()),
            "other": int(self.other[keys].sum()),
        }


def tally(keys: NDArray[np.integer], verdict: NDArray[np.int8], n_keys: int) -> Tally:
    """Count verdicts per key; keys of -1 come last, at index `n_keys`.

    >>> tally(np.array([0, 1, 1]), np.array([Verdict.COPIED, Verdict.COPIED, Verdict.REUSED], np.int8), 2).copied
    array([1, 1, 0])
    """
    index = np.where(keys < 0, n_keys, keys).astype(np.int64)
    table = np.bincount(index * 16 + verdict, minlength=(n_keys + 1) * 16).reshape(-1, 16)
    new = table[:, Verdict.ZERO_FILLED] + table[:, Verdict.COPIED_FROM_FILE]
    named = table[:, Verdict.COPIED] + table[:, Verdict.REUSED] + new
    return Tally(table[:, Verdict.COPIED], table[:, Verdict.REUSED], new, table.sum(axis=1) - named)


def breakdown(by: By, meta: Meta, replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    """Rows of one grouping: time in order of time, all others by what was copied."""
    if by is By.TIME:
        return _by_time(meta, replay, tables)
    return sorted(_GROUPINGS[by](replay, tables), key=lambda group: group.weight, reverse=True)


def _by_process(replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    processes = tables["processes"]
    n = len(processes["process"])
    counts = tally(tables["faults"]["process"], replay.verdict, n)
    shares = {share.child: share.pages for share in replay.forks}
    left = {fate.process: fate.still_shared for fate in replay.fates}
    return [
        Group(
            name=f"{processes['name'][key]} [{processes['pid'][key]}]",
            detail=str(processes["command_line"][key]),
            shared_at_fork=shares.get(key, NONE),
            still_shared=left.get(key, NONE),
            workers=1,
            **counts.row([key]),
        )
        for key in range(n)
    ] + _unplaced(counts, n, "unknown process")


def _by_mapping(replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    mappings = tables["mappings"]
    n = len(mappings["mapping"])
    counts = tally(replay.mapping, replay.verdict, n)
    members: dict[tuple[str, str], list[int]] = {}
    for key in np.flatnonzero(
        counts.copied[:n] + counts.reused[:n] + counts.new[:n] + counts.other[:n]
    ).tolist():
        members.setdefault(_mapping_name(mappings, key), []).append(key)
    return [
        Group(name=name, detail=detail, **counts.row(keys)) for (name, detail), keys in members.items()
    ] + _unplaced(counts, n, "unknown mapping")


def _mapping_name(mappings: Columns, key: int) -> tuple[str, str]:
    """Anonymous mappings have no name of their own, so their start tells them apart."""
    name = str(mappings["name"][key])
    kind = "shared" if mappings["shared"][key] else "private"
    if mappings["kind"][key] == MappingKind.ANONYMOUS and name.startswith("[anon"):
        start = pages_to_bytes(int(mappings["start_page"][key]))
        return f"{name} {start:x}", kind
    return name, kind


def _by_function(replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    symbols, code = tables["symbols"], tables["faults"]["code"]
    n = len(symbols["code"])
    counts = tally(code, replay.verdict, n)
    copied = replay.verdict == Verdict.COPIED
    pairs = np.unique(np.stack([code[copied], tables["faults"]["process"][copied]], axis=1), axis=0)
    writers: dict[int, set[int]] = {}
    for key, process in pairs.tolist():
        writers.setdefault(key, set()).add(process)
    members: dict[tuple[str, str], list[int]] = {}
    for key in range(n):
        members.setdefault(_function_name(symbols, key), []).append(key)
    return [
        Group(
            name=name,
            detail=file,
            workers=len(set().union(*(writers.get(key, set()) for key in keys))),
            **counts.row(keys),
        )
        for (name, file), keys in members.items()
    ]


def _function_name(symbols: Columns, key: int) -> tuple[str, str]:
    """A stripped file has no names: its offset stands for the function."""
    file, function, offset = (
        str(symbols["file"][key]),
        str(symbols["function"][key]),
        int(symbols["offset"][key]),
    )
    if function:
        return function, file
    return (f"+{offset:#x}" if offset != NONE else "?"), file


def _by_cause(replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    """The detail of a cause names the types that it copied most pages of."""
    if not len(tables["interpreters"]["process"]):
        return []
    found, types = causes(replay, tables), _types(replay, tables)
    counts = tally(found, replay.verdict, len(CAUSES))
    names = tables["types"]["name"].tolist()
    return [
        Group(
            name=cause,
            detail=_most(types[found == key], replay.verdict[found == key], names),
            workers=_writers(replay, tables, np.flatnonzero(found == key)),
            **counts.row([key]),
        )
        for key, cause in enumerate(CAUSES)
        if any(counts.row([key]).values())
    ]


def avoidable(by_cause: list[Group]) -> tuple[int, int]:
    """Copied pages in which nothing that the program stores had changed, and those in which something had."""
    copied = {group.name: group.copied for group in by_cause}
    return sum(copied.get(cause, 0) for cause in SHAREABLE), copied.get(Cause.PAYLOAD, 0)


def _by_type(replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    """The detail of a type names what copied most of its pages."""
    types, names = _types(replay, tables), tables["types"]["name"]
    counts = tally(types, replay.verdict, len(names))
    found = causes(replay, tables)
    at = np.flatnonzero(types >= 0)
    order = at[np.argsort(types[at], kind="stable")]
    starts = np.searchsorted(types[order], np.arange(len(names) + 1))
    groups = []
    for key in np.flatnonzero(np.diff(starts)).tolist():
        mine = order[starts[key] : starts[key + 1]]
        groups.append(
            Group(
                name=str(names[key]),
                detail=_most(found[mine], replay.verdict[mine], CAUSES),
                workers=_writers(replay, tables, mine),
                **counts.row([key]),
            )
        )
    return groups + _unplaced(counts, len(names), "no object known")


def _by_line(replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    """The innermost Python line of each fault; the detail names causes and types of its copies, and its function."""
    stacks = tables["stacks"]
    if not len(tables["lines"]["fault"]):
        return []
    inner = stacks["depth"] == 0
    places = list(zip(stacks["file"][inner].tolist(), stacks["line"][inner].tolist(), strict=True))
    numbers = {place: key for key, place in enumerate(dict.fromkeys(places))}
    functions = dict(zip(reversed(places), reversed(stacks["function"][inner].tolist()), strict=True))
    line_of_stack = np.full(int(stacks["stack"].max(initial=-1)) + 1, NONE, np.int64)
    line_of_stack[stacks["stack"][inner]] = [numbers[place] for place in places]
    lines = np.full(len(replay.verdict), NONE, np.int64)
    lines[tables["lines"]["fault"]] = line_of_stack[tables["lines"]["stack"]]
    counts = tally(lines, replay.verdict, len(numbers))
    found, types, names = causes(replay, tables), _types(replay, tables), tables["types"]["name"].tolist()
    groups = []
    for (file, line), key in numbers.items():
        mine = np.flatnonzero(lines == key)
        verdict = replay.verdict[mine]
        told = (
            _most(found[mine], verdict, CAUSES),
            _most(types[mine], verdict, names),
            str(functions[file, line]),
        )
        groups.append(
            Group(
                name=f"{file}:{line}",
                detail=" · ".join(filter(None, told)),
                workers=_writers(replay, tables, mine),
                **counts.row([key]),
            )
        )
    return groups + _unplaced(counts, len(numbers), "no Python line")


def _types(replay: Replay, tables: dict[str, Columns]) -> NDArray[np.int64]:
    """The type of what each fault hit, -1 where that is not known."""
    types = np.full(len(replay.verdict), NONE, np.int64)
    types[tables["objects"]["fault"]] = tables["objects"]["type"]
    return types


def _most(keys: NDArray[np.integer], verdict: NDArray[np.int8], names: Sequence[str]) -> str:
    """The keys that most copies have, with their share: "dict 81%, float 4%"."""
    copied = keys[(verdict == Verdict.COPIED) & (keys >= 0)]
    counts = np.bincount(copied, minlength=1)
    best = np.argsort(-counts, kind="stable")[:_MOST].tolist()
    least = max(len(copied) / 100, 1)
    return ", ".join(f"{names[key]} {counts[key] / len(copied):.0%}" for key in best if counts[key] >= least)


def _writers(replay: Replay, tables: dict[str, Columns], rows: NDArray[np.integer]) -> int:
    copied = rows[replay.verdict[rows] == Verdict.COPIED]
    return len(np.unique(tables["faults"]["process"][copied]))


def _by_time(meta: Meta, replay: Replay, tables: dict[str, Columns]) -> list[Group]:
    times = tables["faults"]["time_ns"]
    first, last = meta.started_ns, max(meta.ended_ns, int(times[-1]) if len(times) else 0)
    width = max((last - first + TIME_BINS) // TIME_BINS, 1)
    keys = np.clip((times - first) // width, 0, TIME_BINS - 1)
    counts = tally(keys, replay.verdict, TIME_BINS)
    digits = 2 if width >= NS_PER_S // 100 else 5
    return [
        Group(
            name=f"{ns_to_s(key * width):.{digits}f} s",
            detail=f"{ns_to_s((key + 1) * width):.{digits}f} s",
            from_ns=key * width,
            to_ns=(key + 1) * width,
            **counts.row([key]),
        )
        for key in range(TIME_BINS)
    ]


def _unplaced(counts: Tally, n: int, name: str) -> list[Group]:
    row = counts.row([n])
    return [Group(name=name, **row)] if any(counts.row([n]).values()) else []


_GROUPINGS: Mapping[By, Callable[[Replay, dict[str, Columns]], list[Group]]] = MappingProxyType(
    {
        By.PROCESS: _by_process,
        By.MAPPING: _by_mapping,
        By.FUNCTION: _by_function,
        By.CAUSE: _by_cause,
        By.TYPE: _by_type,
        By.LINE: _by_line,
    }
)
