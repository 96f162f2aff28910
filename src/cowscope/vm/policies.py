"""Policies: who decides whether a write to a shared anonymous page copies it, and what fork does.

| policy | reuse a page that is not marked exclusive | exclusive mark | fork of private pages | systems |
|---|---|---|---|---|
| `linux` | one entry maps it, nothing else refers to it; large folios: `folios` | yes | shared | Linux from 6.15 |
| `linux-aex` | likewise; of a large folio: never | yes | shared | Linux 5.19 to 6.14 |
| `linux-refcount` | one entry maps it, nothing else refers to it | no | shared | Linux 5.9 to 5.18 |
| `linux-mapcount` | one entry or swap entry names it, nothing else asked | no | shared, pinned pages too | Linux to 5.8 |
| `svr4-anon` | one anon slot refers to it | no | shared; the child's translations are not loaded | SunOS 4, SVR4, UVM |
| `mach-shadow` | as `linux-refcount`; the object below holds it until it collapses | no | shared | Mach, 4.4BSD |
| `eager` | (nothing is shared) | yes | copied at once | V7, 3BSD without vfork |
| `on-demand-fork` | as `linux` | yes | leaf tables shared, each copied at its first change | Zhao et al., EuroSys 2021 |

Without an exclusive mark a page that lost W, by mprotect, traps once more when it has W again. Every policy must
refuse a frame that other entries map: that is what isolation means, and the fault path counts on it.

Source: `wp_can_reuse_anon_folio`, `do_wp_page` of 5.9 (`page_count`), `reuse_swap_page` of 5.8; Gingell et al.,
"Virtual Memory Architecture in SunOS" (1987); `vm_object_collapse`.
Not modelled: how SunOS and Mach choose what to page out; UVM's deferred copy of amaps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

import numpy as np

from cowscope.vm.columns import Bools, Counts, Ints
from cowscope.vm.frames import Frames
from cowscope.vm.rules import FrameFlag

_SAME_PAGE = int(FrameFlag.SAME_PAGE)


class AtFork(Enum):
    """What fork does with the entries of private mappings."""

    SHARE = auto()
    SHARE_UNLOADED = auto()
    """Shared, but the child's first touch of each page traps."""
    SHARE_TABLES = auto()
    COPY = auto()


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What the fault path and fork ask; see the table above for what each kernel answers.

    >>> frames = Frames()
    >>> numbers = frames.allocate(2, FrameFlag.ANON)
    >>> POLICIES["linux"].reusable(frames, numbers, np.array([1, 2], np.int32)).tolist()
    [True, False]
    >>> frames.hold(numbers)
    >>> POLICIES["linux"].reusable(frames, numbers, np.array([1, 2], np.int32)).tolist()
    [False, False]
    >>> POLICIES["linux-mapcount"].reusable(frames, numbers, np.array([1, 2], np.int32)).tolist()
    [True, False]
    """

    name: str
    at_fork: AtFork = AtFork.SHARE
    marks_exclusive: bool = True
    """PageAnonExclusive: reuse without a question, and mprotect gives W back at once."""
    counts_holds: bool = True
    """References from outside make a write copy, and pins make fork copy."""
    folio_owners: bool = False
    """A page of a large folio that only one address space maps may be reused."""
    shadows: bool = False
    """An object below parent and child holds what they share, until one of them is gone."""

    def reusable(self, frames: Frames, numbers: Ints, map_counts: Counts) -> Bools:
        """True where frame `numbers[i]`, mapped by `map_counts[i]` entries then, needs no copy."""
        others = frames.others[numbers]
        if not self.counts_holds and frames.holds:
            others = others - np.array([frames.holds.get(number, 0) for number in numbers.tolist()], np.int32)
        # What is not zero in the first part is a reason to copy.
        free: Bools = ((others | (frames.flags[numbers] & _SAME_PAGE)) == 0) & (map_counts == 1)
        return free


POLICIES: Mapping[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy(name="linux", folio_owners=True),
        Policy(name="linux-aex"),
        Policy(name="linux-refcount", marks_exclusive=False),
        Policy(name="linux-mapcount", marks_exclusive=False, counts_holds=False),
        Policy(name="svr4-anon", marks_exclusive=False, at_fork=AtFork.SHARE_UNLOADED),
        Policy(name="mach-shadow", marks_exclusive=False, shadows=True),
        Policy(name="eager", at_fork=AtFork.COPY),
        Policy(name="on-demand-fork", folio_owners=True, at_fork=AtFork.SHARE_TABLES),
    )
}
"""All policies by name."""
