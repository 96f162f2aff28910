"""Faults between two steps of the schedule, through the vm as one batch.

Between two steps nothing changes but by faults. Reads go first, then first writes, then writes to present
pages: a page is read before it is written, never the other way round.

| recorded | given to the vm as |
|---|---|
| write to a present page, allocation seen | write, imposed: copied |
| write to a present page, no allocation | write, imposed: not copied |
| write to a present page, allocation late or not watched | write, the policy decides |
| write to an absent page | whatever stood there dropped, then write |
| read of an absent page | read |
| access not told (software event) | write if the page is read-only or anonymous, else read |
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cowscope.recording.schema import NONE, Access, Allocation, Columns
from cowscope.replay.verdicts import OF_OUTCOME, Verdict
from cowscope.units import PAGE_SHIFT
from cowscope.vm import AddressSpace, Machine, Outcome, Protection
from cowscope.vm import Kind as Backing

STACK = "[stack]"
STACK_PAGES = 2048
"""How far a stack may have grown below what was last seen of it: RLIMIT_STACK's 8 MiB."""

_DECIDED = np.array([-1, Outcome.REUSED, Outcome.COPIED, -1], np.int8)
"""What the vm is told, by `Allocation`."""


class Faults:
    """The faults of a recording and, as they are resolved, what each came to.

    `verdict` and `mapping` lie beside the faults; `copies` counts copied pages per process, `unforeseen`
    those that the kernel copied though the replay did not know the page as shared. `unseen` tells for a space
    how many pages it shares by its last fork, by the kernel's count, beyond those that the replay knows; `assumed`
    counts the writes that were taken as reuse of such pages.
    """

    def __init__(self, tables: dict[str, Columns], machine: Machine) -> None:
        """Nothing is resolved yet."""
        self.faults, self.machine = tables["faults"], machine
        self._names = tables["mappings"]["name"]
        self.verdict = np.zeros(len(self.faults["time_ns"]), np.int8)
        self.mapping = np.full(len(self.verdict), NONE, np.int32)
        self.copies = np.zeros(len(tables["processes"]["process"]) + 1, np.int64)
        self.unforeseen = 0
        self.unseen: dict[int, int] = {}
        self.assumed = 0

    def resolve(self, first: int, last: int, space_of: NDArray[np.int32]) -> None:
        """Judge the faults of rows [first, last); `space_of` tells the vm's space of each process, -1 for none."""
        part = slice(first, last)
        process = self.faults["process"][part]
        spaces = space_of[process]
        pages = (self.faults["address"][part] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        access, allocation = self.faults["access"][part], self.faults["allocation"][part]
        known = spaces != NONE
        self._find_mappings(spaces, pages, self.mapping[part])
        verdict = self.verdict[part]
        unknown = (access & Access.UNKNOWN) != 0
        if unknown.any():
            access = self._guess(spaces, pages, access, unknown & known)
        write, present = (access & Access.WRITE) != 0, (access & Access.PRESENT) != 0
        if not (write & present).all():
            self._read(np.flatnonzero(known & ~write), spaces, pages, verdict)
            self._first_write(np.flatnonzero(known & write & ~present), spaces, pages, verdict)
        chosen = known & write & present
        self._write(None if chosen.all() else np.flatnonzero(chosen), spaces, pages, allocation, verdict)
        copied = process[verdict == Verdict.COPIED]
        self.copies += np.bincount(copied, minlength=len(self.copies))

    def _read(
        self,
        at: NDArray[np.intp],
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        verdict: NDArray[np.int8],
    ) -> None:
        if len(at):
            outcome = self.machine.read_faults(spaces[at], pages[at])
            found = OF_OUTCOME[outcome]
            # The page was not there, whatever the replay believed: an entry for it came into being.
            found[outcome == Outcome.NO_FAULT] = Verdict.FIRST_TOUCH
            verdict[at] = found

    def _first_write(
        self,
        at: NDArray[np.intp],
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        verdict: NDArray[np.int8],
    ) -> None:
        if not len(at):
            return
        for space_id in np.unique(spaces[at]).tolist():
            self.machine.spaces[space_id].zap(pages[at[spaces[at] == space_id]])
        outcome = self.machine.write_faults(spaces[at], pages[at])
        found = OF_OUTCOME[outcome]
        found[outcome == Outcome.NO_FAULT] = Verdict.RACED
        verdict[at] = found

    def _write(
        self,
        at: NDArray[np.intp] | None,
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        allocation: NDArray[np.uint8],
        verdict: NDArray[np.int8],
    ) -> None:
        if at is not None:
            if not len(at):
                return
            spaces, pages, allocation = spaces[at], pages[at], allocation[at]
        decided = _DECIDED[allocation]
        unseen = self._unseen_pages(spaces, pages) if self.unseen else None
        outcome = self.machine.write_faults(spaces, pages, decided=decided)
        found = OF_OUTCOME[outcome]
        if unseen is not None:
            # No page was allocated, so it was reused, or zero-filled in place of a zero page that was read before.
            new = (outcome == Outcome.ZERO_FILLED) | (outcome == Outcome.COPIED_FROM_FILE)
            assumed = unseen & new & (decided == Outcome.REUSED)
            found[assumed] = Verdict.REUSED
            self.assumed += int(np.count_nonzero(assumed))
            late = unseen & new & (allocation == Allocation.LATE)
            found[late] = Verdict.COPIED
            self.unforeseen += int(np.count_nonzero(late))
        copied = decided == Outcome.COPIED
        surprising = copied & (
            (outcome == Outcome.ZERO_FILLED) | (outcome == Outcome.NO_FAULT) | (outcome == Outcome.REUSED)
        )
        if surprising.any():
            # The kernel copied a page that the replay did not know as shared: its word stands.
            found[surprising] = Verdict.COPIED
            self.unforeseen += int(np.count_nonzero(surprising))
        again = (outcome == Outcome.NO_FAULT) & ~surprising
        if again.any():
            found[again] = _raced(spaces, pages, again)
        if at is None:
            verdict[:] = found
        else:
            verdict[at] = found

    def _unseen_pages(self, spaces: NDArray[np.int32], pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which pages may be those that a fork shared unseen: not known, and no more than the kernel counted."""
        found = np.zeros(len(pages), bool)
        for space_id in _unique(spaces):
            left = self.unseen.get(space_id, 0)
            if not left:
                continue
            at = np.flatnonzero(spaces == space_id)
            at = at[~self.machine.spaces[space_id].page_states(pages[at]).present][:left]
            found[at] = True
            self.unseen[space_id] = left - len(at)
        return found

    def _find_mappings(
        self, spaces: NDArray[np.int32], pages: NDArray[np.int64], out: NDArray[np.int32]
    ) -> None:
        for space_id in _unique(spaces):
            if space_id == NONE:
                continue
            space = self.machine.spaces[space_id]
            where = (
                slice(None)
                if len(spaces) and (spaces == space_id).all()
                else np.flatnonzero(spaces == space_id)
            )
            rows = space.mappings.lookup(pages[where])
            if (rows < 0).any() and self._grow_stack(space, pages[where][rows < 0]):
                rows = space.mappings.lookup(pages[where])
            tags = space.mappings.tag
            out[where] = np.where(rows < 0, NONE, tags[rows]) if len(tags) else NONE

    def _grow_stack(self, space: AddressSpace, pages: NDArray[np.int64]) -> bool:
        """A stack grows without an event: what lies within its limit below it belongs to it."""
        for start, tag in zip(space.mappings.start.tolist(), space.mappings.tag.tolist(), strict=True):
            if self._names[tag] != STACK:
                continue
            below = pages[(pages < start) & (pages >= start - STACK_PAGES)]
            if len(below):
                lowest = int(below.min())
                protection = Protection.READ | Protection.WRITE
                space.map(lowest, start - lowest, protection=protection, tag=tag, keep_entries=True)
                return True
        return False

    def _guess(
        self,
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        access: NDArray[np.uint8],
        which: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Access bits where the event did not tell them, from what the replay knows of the page."""
        access = access.copy()
        for space_id in _unique(spaces[which]):
            at = np.flatnonzero(which & (spaces == space_id))
            space = self.machine.spaces[space_id]
            states, rows = space.page_states(pages[at]), space.mappings.lookup(pages[at])
            anonymous = (
                (rows >= 0) & (space.mappings.kind[rows] == Backing.ANONYMOUS)
                if len(space.mappings)
                else rows < -1
            )
            bits = np.where(
                states.present, Access.PRESENT | Access.WRITE, np.where(anonymous, Access.WRITE, 0)
            )
            access[at] = bits.astype(np.uint8) | Access.USER
        return access


def _raced(spaces: NDArray[np.int32], pages: NDArray[np.int64], again: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Faults that found nothing to do: RACED where the batch has an earlier one of the same page."""
    key = (spaces.astype(np.int64) << 52) | pages
    _, first = np.unique(key, return_index=True)
    repeated = np.ones(len(pages), bool)
    repeated[first] = False
    return np.where(repeated[again], np.int8(Verdict.RACED), np.int8(Verdict.UNKNOWN))


def _unique(spaces: NDArray[np.int32]) -> list[int]:
    if not len(spaces):
        return []
    return [int(spaces[0])] if (spaces == spaces[0]).all() else np.unique(spaces).tolist()
