"""What the agent wrote in Python processes, to tables: what lay at each written address, and who was refused.

The files are named by process id; a process that got the id of another before it has files of its own times. What is
no file of the agent's, or cut off, is passed over.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cowscope.recorder.rawfiles import RawFaults
from cowscope.recorder.timeline import Process
from cowscope.recording.schema import NONE, Columns, Part, empty, from_rows
from cowscope.runtimes.python.lines import Place, end_traps, joined, read_traps, stacks
from cowscope.runtimes.python.objects import Lineage, ObjectCensus, census_of, read_censuses

_PYTHON, _SHUTDOWNS = re.compile(r"python\.(\d{1,10})\Z"), re.compile(r"shutdowns\.(\d{1,10})\Z")
_NO_LINES = re.compile(r"nolines\.(\d{1,10})\Z")
_MOST_BYTES = 1 << 16


def directory(raw: Path) -> Path:
    """Where the agents of a recording write."""
    return raw / "python"


def dismiss(raw: Path) -> None:
    """The recording is over: programs that go on are not to be slowed for it."""
    end_traps(directory(raw))


def censuses(raw: Path) -> list[ObjectCensus]:
    """What the agents of a recording listed, by time."""
    where = directory(raw)
    return read_censuses(where) if where.is_dir() else []


def tables(
    raw: Path,
    found: list[ObjectCensus],
    processes: list[Process],
    faults: RawFaults,
    keys: NDArray[np.int32],
) -> dict[str, Columns]:
    """The tables `objects`, `types` and `interpreters`."""
    said = {"interpreters": _interpreters(directory(raw), processes)}
    return said | _objects(found, processes, faults, keys) | _lines(directory(raw), faults)


def _objects(
    censuses: list[ObjectCensus], processes: list[Process], faults: RawFaults, keys: NDArray[np.int32]
) -> dict[str, Columns]:
    if not censuses:
        return {"objects": empty("objects"), "types": empty("types")}
    names = {name: key for key, name in enumerate(dict.fromkeys(n for c in censuses for n in c.types))}
    parts = [
        _located(census, at, faults.address[at], names)
        for census, at in _by_census(censuses, processes, faults, keys)
    ]
    rows = np.concatenate([np.empty((0, 5), np.int64), *parts])
    rows = rows[np.argsort(rows[:, 0], kind="stable")]
    objects = dict(zip(("fault", "part", "type", "offset", "bytes"), rows.T, strict=True))
    return {"objects": objects, "types": from_rows("types", [(key, name) for name, key in names.items()])}


def _by_census(
    censuses: list[ObjectCensus], processes: list[Process], faults: RawFaults, keys: NDArray[np.int32]
) -> Iterable[tuple[ObjectCensus, NDArray[np.intp]]]:
    """Each census with the faults (rows) that it explains: a process's faults between two of its censuses."""
    lineages = {p.key: Lineage(p.key, p.pid, p.parent, p.start_ns, p.exec_ns) for p in processes}
    own: dict[int, list[int]] = {}
    for census in censuses:
        own.setdefault(census.pid, []).append(census.time_ns)
    for key, lineage in lineages.items():
        rows = np.flatnonzero(keys == key)
        times = faults.time[rows]
        borders = [0, *own.get(lineage.pid, []), np.iinfo(np.int64).max]
        for begin, end in pairwise(borders):
            mine = rows[(times >= begin) & (times < end)]
            if len(mine):
                known = census_of(lineage, max(begin, lineage.start_ns), lineages, censuses)
                if known is not None:
                    yield known, mine


def _located(
    census: ObjectCensus, rows: NDArray[np.intp], addresses: NDArray[np.uint64], names: dict[str, int]
) -> NDArray[np.int64]:
    """Rows of `objects` for the faults `rows`: what lay there, or that the place was free among small objects."""
    hit, found = census.at(addresses)
    free = ~hit & np.isin(addresses >> np.uint64(20), census.chunks())
    key_of = np.array([names[name] for name in census.types] + [NONE], np.int64)
    kinds = np.minimum(found["type"].astype(np.int64), len(census.types))
    columns = (
        rows,
        np.where(hit, found["kind"], Part.FREE),
        np.where(hit, key_of[kinds], NONE),
        np.where(hit, (addresses - found["address"]).view(np.int64), 0),
        np.where(hit, found["bytes"], 0),
    )
    return np.stack([column.astype(np.int64) for column in columns], axis=1)[hit | free]


def _lines(where: Path, faults: RawFaults) -> dict[str, Columns]:
    """Each fault's Python stack, as far as its thread noted one right after it."""
    numbers: dict[tuple[Place, ...], int] = {}
    parts = [np.empty((0, 2), np.int64)]
    for traps in read_traps(where) if where.is_dir() else ():
        trap = joined(traps.rows, faults.tid, faults.address, faults.time)
        rows = np.flatnonzero(trap >= 0)
        found, which = stacks(traps, trap[rows])
        keys = np.array([numbers.setdefault(stack, len(numbers)) for stack in found] + [NONE], np.int64)
        known = which >= 0
        parts.append(np.stack([rows[known], keys[which[known]]], axis=1))
    pairs = np.concatenate(parts)
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    frames: list[tuple[object, ...]] = [
        (key, depth, place.file, place.function, place.line)
        for stack, key in numbers.items()
        for depth, place in enumerate(stack)
    ]
    return {"lines": {"fault": pairs[:, 0], "stack": pairs[:, 1]}, "stacks": from_rows("stacks", frames)}


def _interpreters(where: Path, processes: list[Process]) -> Columns:
    """A row for each Python process: those that an agent spoke of, and what they forked and is the same program."""
    told = {pid: data.decode("utf-8", "surrogateescape").split("\n") for pid, data in _files(where, _PYTHON)}
    ended = dict(_ends(where))
    late = {pid: data.decode("utf-8", "replace") for pid, data in _files(where, _NO_LINES)}
    known: dict[int, tuple[str, str, str]] = {}
    for process in processes:  # parents come before their children
        if process.pid in told:
            version, refused, no_lines, *_ = [*told[process.pid], "", "", ""]
            known[process.key] = version, refused, late.get(process.pid, no_lines)
        elif process.parent in known and process.exec_ns == NONE:
            known[process.key] = known[process.parent]
    pids = {process.key: process.pid for process in processes}
    return from_rows(
        "interpreters", [(key, *what, ended.get(pids[key], NONE)) for key, what in known.items()]
    )


def _ends(where: Path) -> Iterable[tuple[int, int]]:
    """Processes and when their interpreters began to end: u64 how many, then rows of u64 pid, u64 time in ns."""
    for _, data in _files(where, _SHUTDOWNS):
        words = np.frombuffer(data[: len(data) // 8 * 8], np.uint64)
        rows = words[1 : 1 + len(words[1:]) // 2 * 2].reshape(-1, 2)[: int(words[0]) if len(words) else 0]
        yield from ((pid, time) for pid, time in rows.tolist() if pid and time < 1 << 63)


def _files(where: Path, name: re.Pattern[str]) -> Iterable[tuple[int, bytes]]:
    for file in sorted(where.iterdir()) if where.is_dir() else ():
        match = name.fullmatch(file.name)
        try:
            if match and file.is_file() and not file.is_symlink():
                with file.open("rb") as opened:
                    yield int(match[1]), opened.read(_MOST_BYTES)
        except OSError:
            continue
