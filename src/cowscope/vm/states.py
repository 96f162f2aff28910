"""What can be asked about pages: their state, and what went when their entries were dropped."""

from __future__ import annotations

from dataclasses import astuple, dataclass

from cowscope.vm.columns import Bools, Counts, Entries, Ints


@dataclass(frozen=True, slots=True)
class Dropped:
    """What stood in a range when its entries were dropped; all in pages.

    `inherited` came by fork and were never written here since: `inherited_shared` of them others still
    mapped, `inherited_alone` nobody else. `own` were anonymous and not inherited. `entries` counts all, the
    zero page and the page cache's frames too.
    """

    entries: int = 0
    inherited_shared: int = 0
    inherited_alone: int = 0
    own: int = 0

    @property
    def inherited(self) -> int:
        """Pages that came by fork and were never written here.

        >>> Dropped(entries=9, inherited_shared=3, inherited_alone=2, own=4).inherited
        5
        """
        return self.inherited_shared + self.inherited_alone

    def __add__(self, other: Dropped) -> Dropped:
        """What stood in two ranges."""
        return Dropped(*(one + two for one, two in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class PageStates:
    """The state of pages, as arrays side by side; where `present` is False all but `guard` and `swapped` is 0.

    `frame` numbers the frame behind each page (0: the zero page, or none); equal numbers, equal frame.
    """

    present: Bools
    anon: Bools
    zero: Bools
    exclusive: Bools
    writable: Bools
    inherited: Bools
    map_count: Counts
    guard: Bools
    swapped: Bools
    frame: Ints
    large: Bools
    """The page is part of a large folio, or of the huge zero page."""
    accessed: Bools
    dirty: Bools


@dataclass(frozen=True, slots=True)
class Taken:
    """Entries on their way from one place to another; `huge_leaves` numbers the leaf tables that were huge rows."""

    pages: Ints
    entries: Entries
    huge_leaves: tuple[int, ...]
