"""The memory of one machine: what all its address spaces share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.architecture import ARCHITECTURES, Architecture
from cowscope.vm.cache import PageCache
from cowscope.vm.columns import Ints
from cowscope.vm.events import Event
from cowscope.vm.folios import Folios, Pool
from cowscope.vm.frames import Frames
from cowscope.vm.policies import POLICIES, Policy
from cowscope.vm.shadows import Shadows
from cowscope.vm.tables import LEAF_SIZE, PageTables
from cowscope.vm.tlb import Tlb

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace


@dataclass(slots=True)
class Work:
    """What was done so far: faults by `Outcome`, and what forks had to do, in entries, tables and pages."""

    faults: Ints = field(default_factory=lambda: np.zeros(16, np.int64))
    fork_entries: int = 0
    fork_tables: int = 0
    fork_copies: int = 0


@dataclass(slots=True)
class Memory:
    """Frames, leaf tables, page cache, the policy, the spaces, and who listens to the events.

    >>> Memory().frames.in_use
    0
    """

    frames: Frames = field(default_factory=Frames)
    policy: Policy = POLICIES["linux"]
    architecture: Architecture = ARCHITECTURES["x86-64"]
    tables: PageTables = field(default_factory=PageTables)
    cache: PageCache = field(init=False)
    shadows: Shadows = field(init=False)
    folios: Folios = field(init=False)
    tlb: Tlb = field(default_factory=Tlb)
    work: Work = field(default_factory=Work)
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    spaces: dict[int, AddressSpace] = field(default_factory=dict)
    """All address spaces over this memory, by number."""
    guarded: bool = False
    """Whether any guard marker was ever installed."""
    huge_pages: bool = False
    """Whether mappings marked HUGEPAGE get transparent huge pages."""
    pools: dict[int, Pool] = field(default_factory=dict)
    """Pools of hugetlb pages, by base pages in each."""
    folio_orders: frozenset[int] = frozenset()
    """Orders below that of a huge page that every fault of private anonymous memory may use (mTHP)."""
    advised_orders: frozenset[int] = frozenset()
    """Those that mappings marked HUGEPAGE may use beside it."""
    swap_pages: int = 0
    """Pages that the swap device can hold."""
    overruled: int = 0
    """Faults for which a caller imposed another outcome than the policy would have chosen."""
    spared: int = 0
    """Those of them that the policy would have copied."""

    def __post_init__(self) -> None:
        """The page cache lives in the same frames."""
        self.folios = Folios(self.frames)
        self.cache = PageCache(self.frames, self.folios)
        self.shadows = Shadows(self.frames)

    @property
    def one_by_one(self) -> bool:
        """Whether faults must be looked at one by one, since large folios are, or may come, into play."""
        orders = self.folio_orders or self.advised_orders
        return bool(self.pools or self.folios or self.tables.huge or orders or self.huge_pages)

    @property
    def most_frames(self) -> int:
        """How many frames a fault takes at most.

        Two where a hole of a file is filled and then copied, or where a page comes back from swap and is copied.

        >>> Memory().most_frames, Memory(swap_pages=1).most_frames, Memory(huge_pages=True).most_frames
        (1, 2, 512)
        """
        folio = LEAF_SIZE if self.huge_pages else 1 << max(self.folio_orders | self.advised_orders, default=0)
        return max(folio, 2 if self.cache.known or self.swap_pages else 1)

    def tell(self, event: Event) -> None:
        """Give `event` to everybody who listens."""
        for listener in self.listeners:
            listener(event)
