"""What a write fault does: by mapping, entry and frame. The first row that fits holds.

| mapping | entry | frame | outcome |
|---|---|---|---|
| none, or not writable | | | SEGMENTATION_FAULT |
| | guard marker | | SEGMENTATION_FAULT |
| | writable | | NO_FAULT (somebody resolved it already) |
| shared | none | | MAPPED |
| shared | read-only | | WRITE_TRACKED |
| private anonymous | none | | ZERO_FILLED |
| private file | none | | COPIED_FROM_FILE |
| private | read-only | zero page | ZERO_FILLED |
| private | read-only | page cache | COPIED_FROM_FILE |
| private | read-only | anonymous, exclusive | REUSED |
| private | read-only | anonymous | the policy decides: COPIED or REUSED |

A read fault is simpler: SEGMENTATION_FAULT where nothing may be accessed, NO_FAULT where an entry is
present, else MAPPED: the zero page in a private anonymous mapping, the page cache's frame elsewhere.

Source: `handle_pte_fault`, `do_wp_page`, `do_anonymous_page`, `do_cow_fault`, `do_shared_fault`.
Ends of files (BUS_ERROR) are looked at by `cowscope.vm.file_faults`, and what is on swap
comes back before this table is asked (`cowscope.vm.swap`).
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from itertools import product

import numpy as np

from cowscope.vm import entry
from cowscope.vm.columns import Bytes, Entries, Ints, Outcomes


class Outcome(IntEnum):
    """What a fault came to. The values go into recordings: they never change."""

    NO_FAULT = 0
    COPIED = 1
    REUSED = 2
    ZERO_FILLED = 3
    COPIED_FROM_FILE = 4
    MAPPED = 5
    WRITE_TRACKED = 6
    SEGMENTATION_FAULT = 7
    BUS_ERROR = 8
    OUT_OF_MEMORY = 9


class Protection(IntFlag):
    """What a mapping allows, with the values of mmap(2)."""

    NONE = 0
    READ = 1
    WRITE = 2
    EXECUTE = 4


class Kind(IntEnum):
    """What stands behind a mapping."""

    ANONYMOUS = 0
    FILE = 1


class MappingFlag(IntFlag):
    """The bits of a mapping's flags; the lowest three are its `Protection`.

    FORK_CHILD: `anon_vma` hangs below a parent's (a chain that is not singular). MAYBE_GUARD: guard markers
    were once installed. UNTRACKED: no file system wants to know of first writes (tmpfs, memfd, shared
    anonymous). GIGANTIC: hugetlb pages of 1 GiB, else 2 MiB; RESERVE_OWNER: mapped here, not got
    by fork; PAGES_TAKEN: the one who mapped it took pages away from here. NEVER_WRITE: a shared mapping of a file
    that was opened for reading (no VM_MAYWRITE).
    The others are the kernel's VM_ flags of the same names.
    """

    READ = 1
    WRITE = 2
    EXECUTE = 4
    SHARED = 8
    FILE = 16
    ANON_VMA = 32
    DONT_FORK = 64
    WIPE_ON_FORK = 128
    FORK_CHILD = 256
    MAYBE_GUARD = 512
    ACCOUNT = 1 << 10
    NO_RESERVE = 1 << 11
    LOCKED = 1 << 12
    GROWS_DOWN = 1 << 13
    HUGE_PAGE = 1 << 14
    NO_HUGE_PAGE = 1 << 15
    MERGEABLE = 1 << 16
    UNTRACKED = 1 << 17
    NEVER_WRITE = 1 << 18
    HUGETLB = 1 << 19
    GIGANTIC = 1 << 20
    RESERVE_OWNER = 1 << 21
    PAGES_TAKEN = 1 << 22


class FrameFlag(IntFlag):
    """The bits of a frame's flags.

    ANON belongs to private memory; EXCLUSIVE is PageAnonExclusive; FILE belongs to the page cache (also
    that of shared anonymous memory); ZERO is the zero page; WRITTEN has bytes; DISPUTED was reused on
    somebody's word though other entries map it. SWAPPED takes no memory: its contents are on swap. SAME_PAGE
    is KSM's: one for all pages with these contents, never reused.
    """

    ANON = 1
    EXCLUSIVE = 2
    FILE = 4
    ZERO = 8
    WRITTEN = 16
    DISPUTED = 32
    SWAPPED = 64
    SAME_PAGE = 128


PROTECTION_BITS = 7
UNDECIDED = -1
"""Stands for an outcome that the policy decides."""

_ANY = None
_WRITE_RULES: tuple[tuple[bool | None, bool | None, bool | None, bool | None, bool | None, int, int], ...] = (
    # mapping: writable, shared, file; entry: present, writable; the frame has; outcome
    (False, _ANY, _ANY, _ANY, _ANY, 0, Outcome.SEGMENTATION_FAULT),
    (True, _ANY, _ANY, True, True, 0, Outcome.NO_FAULT),
    (True, True, _ANY, False, _ANY, 0, Outcome.MAPPED),
    (True, True, _ANY, True, False, 0, Outcome.WRITE_TRACKED),
    (True, False, False, False, _ANY, 0, Outcome.ZERO_FILLED),
    (True, False, True, False, _ANY, 0, Outcome.COPIED_FROM_FILE),
    (True, False, _ANY, True, False, FrameFlag.ZERO, Outcome.ZERO_FILLED),
    (True, False, _ANY, True, False, FrameFlag.FILE, Outcome.COPIED_FROM_FILE),
    (True, False, _ANY, True, False, FrameFlag.EXCLUSIVE, Outcome.REUSED),
    (True, False, _ANY, True, False, 0, UNDECIDED),
)


def _write_rule(mapping: tuple[bool, ...], frame: int) -> int:
    for *conditions, needs, outcome in _WRITE_RULES:
        fits = all(want in (_ANY, has) for want, has in zip(conditions, mapping, strict=True))
        if fits and frame & needs == needs:
            return int(outcome)
    raise AssertionError(f"no rule for {mapping} and frame flags {frame}")


# By the frame's flags, then by bits 1 W, 3 SHARED, 4 FILE of the mapping, and 5 P, 6 W of the entry.
_WRITE_TABLE = np.zeros((16, 128), np.int8)
for _has in product((False, True), repeat=5):
    _w, _s, _f, _p, _ew = _has
    for _frame in range(16):
        _WRITE_TABLE[_frame, _w << 1 | _s << 3 | _f << 4 | _p << 5 | _ew << 6] = _write_rule(_has, _frame)
_WRITE_TABLE = np.tile(_WRITE_TABLE, (16, 1))  # the upper four of a frame's flags decide nothing


# Operands as arrays, as in `cowscope.vm.entry`.
_FIVE = np.array(5)
_MAPPING_BITS = np.array(int(MappingFlag.WRITE | MappingFlag.SHARED | MappingFlag.FILE))
_GUARD: Entries = np.array(entry.GUARD, np.uint64)
_ENTRY_BITS: Entries = np.array(entry.PRESENT | entry.WRITABLE, np.uint64)


def refuse_guards(entries: Entries, outcomes: Outcomes) -> None:
    """Let accesses to guard markers end in a signal; the mapping's protection was tested before."""
    outcomes[(entries & _GUARD) != 0] = Outcome.SEGMENTATION_FAULT


def classify_writes(mapping_flags: Ints, entries: Entries, frame_flags: Bytes) -> Outcomes:
    """The outcome of a write fault on each page, `UNDECIDED` (-1) where the policy decides.

    The arrays lie side by side: the flags of the page's mapping (0: no mapping), its entry, and the flags of
    the frame that the entry names.

    >>> private = np.array([MappingFlag.READ | MappingFlag.WRITE])
    >>> Outcome(classify_writes(private, np.array([0], np.uint64), np.array([FrameFlag.ZERO], np.uint8))[0]).name
    'ZERO_FILLED'
    """
    place = mapping_flags & _MAPPING_BITS
    place |= (entries & _ENTRY_BITS).view(np.int64) << _FIVE
    outcomes: Outcomes = _WRITE_TABLE[frame_flags, place]
    return outcomes


def classify_reads(mapping_flags: Ints, entries: Entries) -> Outcomes:
    """The outcome of a read fault on each page: SEGMENTATION_FAULT, NO_FAULT or MAPPED.

    >>> classify_reads(np.array([0, 1, 1]), np.array([0, entry.PRESENT, 0], np.uint64)).tolist()
    [7, 0, 5]
    """
    present = (entries & entry.PRESENT) != 0
    outcomes = np.where(present, np.int8(Outcome.NO_FAULT), np.int8(Outcome.MAPPED))
    outcomes[(mapping_flags & PROTECTION_BITS) == 0] = Outcome.SEGMENTATION_FAULT
    return outcomes
