"""What the replay says: a verdict for each fault, and the fate of what each fork shared."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cowscope.vm import Outcome


class Verdict(IntEnum):
    """What the kernel did for a fault."""

    UNKNOWN = 0
    """Not to be told from what was recorded."""
    COPIED = 1
    """A page shared by fork was copied: from now on there are two."""
    REUSED = 2
    """Nobody shared the page any more (or ever); it was made writable in place."""
    ZERO_FILLED = 3
    """A new page of zeroes."""
    COPIED_FROM_FILE = 4
    """A private copy of a page of the page cache: not the work of a fork."""
    FIRST_TOUCH = 5
    """An entry for a page that was there: zero page, page cache or shared memory."""
    WRITE_TRACKED = 6
    """First write to a clean page of a shared file: the kernel notes that it is dirty."""
    REFUSED = 7
    """The mapping forbids the access: a signal."""
    RACED = 8
    """Another thread's fault on the same page had been resolved already."""


OF_OUTCOME = np.zeros(16, np.int8)
"""The verdict for each `vm.Outcome`, as a table to index."""
for _outcome, _verdict in {
    Outcome.NO_FAULT: Verdict.UNKNOWN,
    Outcome.COPIED: Verdict.COPIED,
    Outcome.REUSED: Verdict.REUSED,
    Outcome.ZERO_FILLED: Verdict.ZERO_FILLED,
    Outcome.COPIED_FROM_FILE: Verdict.COPIED_FROM_FILE,
    Outcome.MAPPED: Verdict.FIRST_TOUCH,
    Outcome.WRITE_TRACKED: Verdict.WRITE_TRACKED,
    Outcome.SEGMENTATION_FAULT: Verdict.REFUSED,
    Outcome.BUS_ERROR: Verdict.REFUSED,
    Outcome.OUT_OF_MEMORY: Verdict.UNKNOWN,
}.items():
    OF_OUTCOME[_outcome] = _verdict


@dataclass(frozen=True, kw_only=True)
class ForkShare:
    """What one fork shared, in anonymous pages, by two counts: the kernel's (-1: not told) and ours.

    `seen` tells whether a census of the child backs our count.
    """

    parent: int
    child: int
    time_ns: int
    kernel_pages: int
    replay_pages: int
    seen: bool
    before_start: bool

    @property
    def pages(self) -> int:
        """The better of the two counts."""
        return self.replay_pages if self.kernel_pages < 0 else self.kernel_pages


@dataclass(frozen=True, kw_only=True)
class Fate:
    """Where the anonymous pages stood that a process had by fork and never wrote, in pages.

    `dropped` were unmapped, discarded or left behind by exec. The others stood at the process's end, or at
    the recording's: `still_shared` somebody else mapped too, `alone` nobody else any more.
    """

    process: int
    dropped: int = 0
    still_shared: int = 0
    alone: int = 0


@dataclass(frozen=True, kw_only=True)
class Reconciliation:
    """Replay against a census of one process, over the pages that both know, in pages mapped once.

    `difference` is census less replay: more than nothing means copies that no recorded fault explains,
    less than nothing pages that the kernel still shares with somebody that the replay does not know.
    """

    process: int
    time_ns: int
    pages: int
    replay_private: int
    census_private: int
    replay_copies: int
    vanished: int

    @property
    def difference(self) -> int:
        """Census less replay, in pages."""
        return self.census_private - self.replay_private


@dataclass(frozen=True, kw_only=True)
class Replay:
    """The outcome: columns beside the faults of the recording, and the lists above.

    `overruled`: faults where the kernel's allocations said otherwise than the vm's rules; the kernel's word
    was taken. `silent`: those of them that are reuse only because the kernel was not seen to allocate a page,
    while the replay knew somebody else to have it. `unforeseen`: copies that the kernel made of pages that the
    replay did not know as shared.
    `assumed`: writes without an allocation to unknown pages, taken as reuse since a fork shared pages unseen.
    """

    verdict: NDArray[np.int8]
    mapping: NDArray[np.int32]
    forks: tuple[ForkShare, ...]
    fates: tuple[Fate, ...]
    reconciliations: tuple[Reconciliation, ...]
    overruled: int
    unforeseen: int
    assumed: int = 0
    silent: int = 0
