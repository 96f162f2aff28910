"""Page table entries: the bits of a leaf entry on x86-64.

    63          52 51                        12 11  10   9   8 7  6   5  4 3  2   1   0
    +-------------+----------------------------+-----------+----+---+---+---+---+---+---+
    |      0      |       frame number         | S   G   I |    | D | A |   | U | W | P |
    +-------------+----------------------------+-----------+----+---+---+---+---+---+---+

| bit | name | meaning |
|---|---|---|
| 0 | P | present: the entry names a frame |
| 1 | W | writable: a store does not trap |
| 2 | U | accessible; absent under PROT_NONE, whose entries stay but trap on every access |
| 5, 6 | A, D | accessed, dirty |
| 9 | I | inherited: came by fork, and this process has not written the page since (a software bit) |
| 10 | G | guard marker, alone with P=0 and frame 0: every access ends in a signal |
| 11 | S | swap entry, with P=0: what the frame held is on swap, or was and is cached in the frame |

An entry of zero is "none". Not modelled: NX, PCD/PWT, global, protection keys; on real hardware PROT_NONE is
spelled with P=0 and another bit, markers are swap entries, and a swap entry names a slot of the swap device
(here: the frame's number stands for that too).
"""

from __future__ import annotations

import numpy as np

from cowscope.vm.columns import Entries, Ints

PRESENT = 1 << 0
WRITABLE = 1 << 1
USER = 1 << 2
ACCESSED = 1 << 5
DIRTY = 1 << 6
INHERITED = 1 << 9
GUARD = 1 << 10
SWAP = 1 << 11

FRAME_SHIFT = 12
FRAME_BITS = ((1 << 52) - 1) ^ ((1 << FRAME_SHIFT) - 1)

OWNED = PRESENT | WRITABLE | USER | ACCESSED | DIRTY
"""The bits that a page gets when its process has just written it."""

READ = PRESENT | USER | ACCESSED
"""The bits that a page gets when its process has just read it."""

# Operands as arrays: numpy takes half as long over them as over Python integers, which a lone fault feels.
_ALL = (1 << 64) - 1
_FRAME_FIELD: Entries = np.array(FRAME_BITS, np.uint64)
_SHIFT: Entries = np.array(FRAME_SHIFT, np.uint64)


def without(entries: Entries, bits: int) -> Entries:
    """`entries` with `bits` cleared.

    >>> without(np.array([7], np.uint64), WRITABLE).tolist()
    [5]
    """
    cleared: Entries = entries & np.uint64(_ALL ^ bits)
    return cleared


def frames_of(entries: Entries) -> Ints:
    """The frame numbers in `entries`; 0 (the zero page) for none.

    >>> frames_of(np.array([5 << 12 | PRESENT, 0], np.uint64)).tolist()
    [5, 0]
    """
    return ((entries & _FRAME_FIELD) >> _SHIFT).view(np.int64)


def entries_for(frames: Ints, bits: int | Entries | np.uint64) -> Entries:
    """Entries that name `frames` and carry `bits`.

    >>> [hex(entry) for entry in entries_for(np.array([2]), OWNED).tolist()]
    ['0x2067']
    """
    named: Entries = (frames.view(np.uint64) << _SHIFT) | np.asarray(bits, np.uint64)
    return named
