"""The memory of one machine: what all its address spaces share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cowscope.vm.cache import PageCache
from cowscope.vm.events import Event
from cowscope.vm.frames import Frames
from cowscope.vm.policies import POLICIES, Policy
from cowscope.vm.tables import PageTables

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace


@dataclass(slots=True)
class Memory:
    """Frames, leaf tables, page cache, the policy, the spaces, and who listens to the events.

    >>> Memory().frames.in_use
    0
    """

    frames: Frames = field(default_factory=Frames)
    policy: Policy = POLICIES["linux"]
    tables: PageTables = field(default_factory=PageTables)
    cache: PageCache = field(init=False)
    listeners: list[Callable[[Event], None]] = field(default_factory=list)
    spaces: dict[int, AddressSpace] = field(default_factory=dict)
    """All address spaces over this memory, by number."""
    guarded: bool = False
    """Whether any guard marker was ever installed."""
    swap_pages: int = 0
    """Pages that the swap device can hold."""
    overruled: int = 0
    """Faults for which a caller imposed another outcome than the policy would have chosen."""

    def __post_init__(self) -> None:
        """The page cache lives in the same frames."""
        self.cache = PageCache(self.frames)

    def tell(self, event: Event) -> None:
        """Give `event` to everybody who listens."""
        for listener in self.listeners:
            listener(event)
