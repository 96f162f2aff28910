"""Looks at a process, written to the journal: who it is, its mappings, the state of its pages.

A look holds on to the address space for as long as one call takes. If the process ends meanwhile, its pages go
when the call returns, on the recorder's time, and its parent learns of the end before: a page that the parent
writes in between is copied, though nobody would have shared it. How many come out so depends on how long the
address space takes to go against how long its pages take to be written. Where tables are full it goes ten times
as fast; where they are all but empty, the parent can copy every page. Hence `is_sparse`.

Frame numbers are used for one thing: to say at the start which pages of an already forked tree are the same
page. They are renumbered here, in the order in which they are met, before anything is written.
"""

from __future__ import annotations

import shlex
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cowscope.errors import AccessDenied, NoSuchProcess
from cowscope.linux import proc
from cowscope.linux.page_runs import NO_FRAME, PageRuns, expand
from cowscope.linux.pagemap import page_states
from cowscope.recording.journal import JournalWriter, Note

PAYLOAD = np.dtype([("start_page", "<i8"), ("n_pages", "<i8"), ("group", "<i8"), ("state", "u1")])
"""A run of pages in a census chunk."""


SPARSE_ENTRIES = 1 << 18
"""Page tables with fewer entries (2 MiB of them) go in about a millisecond."""

SPARSE_ENTRIES_A_PAGE = 16
"""From so many entries a page on, tables go no faster than their pages can be written: some 5 ns an entry
against 0.6 µs for a write that reuses a page."""


@dataclass(frozen=True)
class Look:
    """A census that has been taken and not yet written."""

    pid: int
    begin_ns: int
    end_ns: int
    runs: PageRuns
    maps: bytes


def identify(journal: JournalWriter, pid: int) -> None:
    """Note name, executable, command line and start of `pid`; nothing if it is gone."""
    try:
        stat = proc.parse_stat(proc.read_stat(pid))
        note: Note = {
            "kind": "process",
            "pid": pid,
            "parent": stat.ppid,
            "time": time.monotonic_ns(),
            "name": stat.comm,
            "command_line": shlex.join(proc.cmdline(pid)),
        }
        note["executable"] = proc.exe(pid)
    except (NoSuchProcess, AccessDenied):
        return
    journal.append(note)


def is_sparse(pid: int) -> bool:
    """Whether the page tables of `pid` are large and all but empty, so that a look at a process that may end any
    moment could change what its parent's writes do. No for one that is gone.
    """
    try:
        tables = proc.parse_page_tables(proc.read_status(pid))
    except (NoSuchProcess, AccessDenied):
        return False
    return tables.entries > max(SPARSE_ENTRIES, SPARSE_ENTRIES_A_PAGE * tables.anonymous_pages)


def look_at(pid: int, *, frames: bool = False, between: Callable[[], None] | None = None) -> Look:
    """Take a census of `pid`. Raises `NoSuchProcess`, `AccessDenied`."""
    begin = time.monotonic_ns()
    maps = proc.read_maps(pid)
    runs = page_states(pid, frames=frames, between=between)
    return Look(pid, begin, time.monotonic_ns(), runs, maps)


def write(
    journal: JournalWriter, look: Look, *, purpose: str, groups: NDArray[np.int64] | None = None
) -> None:
    """Append the census and the mappings that it was taken over."""
    note = {"pid": look.pid, "time": look.begin_ns, "until": look.end_ns, "purpose": purpose}
    journal.append({"kind": "maps", **note}, look.maps)
    payload = np.empty(len(look.runs), PAYLOAD)
    payload["start_page"], payload["n_pages"] = look.runs.start_page, look.runs.n_pages
    payload["state"] = look.runs.state
    payload["group"] = NO_FRAME if groups is None else groups
    journal.append({"kind": "census", "zero_known": look.runs.zero_known, **note}, payload.tobytes())


def renumbered(looks: Iterable[Look]) -> list[NDArray[np.int64]]:
    """For each census the group number of the first page of each run; equal numbers are one page.

    A run may span groups that do not count up any more once renumbered, so runs are first cut to single
    pages where frames are known: see `by_page`.
    """
    looks = list(looks)
    frames = [NO_FRAME if look.runs.frame is None else look.runs.frame for look in looks]
    known = [np.asarray(frame)[np.asarray(frame) != NO_FRAME] for frame in frames]
    every = np.concatenate(known) if known else np.empty(0, np.int64)
    _, first, inverse = np.unique(every, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    numbers, at = number[inverse], 0
    result = []
    for look, frame in zip(looks, frames, strict=True):
        groups = np.full(len(look.runs), NO_FRAME, np.int64)
        has = np.asarray(frame) != NO_FRAME
        count = int(np.count_nonzero(has))
        groups[has] = numbers[at : at + count]
        at += count
        result.append(groups)
    return result


def by_page(look: Look) -> Look:
    """The census with every run of known frames cut into single pages."""
    runs = look.runs
    if runs.frame is None:
        return look
    n = np.where(runs.frame == NO_FRAME, 1, runs.n_pages)
    start, frame = expand(runs.start_page, n), expand(runs.frame, n)
    one_run = np.repeat(runs.frame == NO_FRAME, n)
    cut = PageRuns(
        start,
        np.where(one_run, np.repeat(runs.n_pages, n), 1),
        np.repeat(runs.state, n),
        np.where(one_run, NO_FRAME, frame),
        runs.zero_known,
    )
    return Look(look.pid, look.begin_ns, look.end_ns, cut, look.maps)
