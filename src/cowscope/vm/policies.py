"""Policies: who decides whether a write to a shared anonymous page copies it.

| policy | reuse a frame that is not marked exclusive | kernels |
|---|---|---|
| `linux` | iff this entry is the only one that maps it | Linux 5.19 and later, pages of 4 KiB |

Every policy must refuse a frame that other entries map: that is what isolation means, and the fault path
counts on it. Source: `wp_can_reuse_anon_folio`. Not modelled: references other than mappings (see
`cowscope.vm.frames`), and the policies of other systems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from cowscope.vm.columns import Bools, Counts, Ints
from cowscope.vm.frames import Frames
from cowscope.vm.rules import FrameFlag

_SAME_PAGE = int(FrameFlag.SAME_PAGE)


class Policy(Protocol):
    """What the fault path asks."""

    name: str

    def reusable(self, frames: Frames, numbers: Ints, map_counts: Counts) -> Bools:
        """True where frame `numbers[i]`, mapped by `map_counts[i]` entries then, needs no copy."""


class Linux:
    """Linux, for base pages: the last process that maps a page keeps it.

    >>> import numpy as np
    >>> Linux().reusable(Frames(), np.array([7, 8]), np.array([1, 2], np.int32)).tolist()
    [True, False]
    """

    name = "linux"

    def reusable(self, frames: Frames, numbers: Ints, map_counts: Counts) -> Bools:
        """True where the map count is 1."""
        unreferenced = (frames.others[numbers] == 0) & ((frames.flags[numbers] & _SAME_PAGE) == 0)
        alone: Bools = unreferenced & (map_counts == 1)
        return alone


POLICIES: Mapping[str, Policy] = {policy.name: policy for policy in (Linux(),)}
"""All policies by name."""
