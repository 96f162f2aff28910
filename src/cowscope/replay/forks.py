"""Which pages a fork shared, from a census of the child that came a little late.

Between fork and census the child, its parent and its siblings went on. What they did in between was
recorded, but for one thing: pages that the child touched for the first time (unless first touches are
recorded). With A the anonymous pages of the census:

| page of A | it was shared at the fork |
|---|---|
| the replay knows it in the parent | yes |
| mapped more than once | yes (the child has not forked yet) |
| mapped once, the child's write was seen to copy | yes |
| mapped once, somebody else wrote or dropped it meanwhile, or left | yes |
| mapped once, otherwise | no: the child's own, new |

And a page that the replay knows in the parent, but the census does not: the child dropped it meanwhile if an
operation of it says so; else the parent had lost it before, unseen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cowscope.replay.census import Census

Pages = NDArray[np.int64]


@dataclass(frozen=True)
class Window:
    """What happened between fork and census: pages, and page ranges as rows of (start, end)."""

    written: Pages
    copied: Pages
    written_by_others: Pages
    dropped: Pages
    dropped_by_others: Pages
    others_left: bool


def shared_pages(census: Census, known: Pages, window: Window) -> tuple[Pages, Pages]:
    """The pages that parent and child shared, and those that the parent no longer had; both ascending.

    `known` are the anonymous pages that the replay knows in the parent, ascending.
    """
    pages = census.pages
    is_known = np.isin(pages, known, assume_unique=True)
    shared = is_known | ~census.exclusive | np.isin(pages, window.copied)
    if window.others_left:
        shared[:] = True
    elif not shared.all():
        shared |= np.isin(pages, window.written_by_others) | _within(pages, window.dropped_by_others)
    absent = known[~np.isin(known, pages, assume_unique=True)]
    vanished = absent[~_within(absent, window.dropped)]
    return pages[shared], vanished


def _within(pages: Pages, ranges: Pages) -> NDArray[np.bool_]:
    found = np.zeros(len(pages), bool)
    for start, end in ranges.tolist():
        found |= (pages >= start) & (pages < end)
    return found
