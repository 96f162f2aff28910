"""Which pages a fork shared, from a census of the child that came a little late.

Between fork and census the child, its parent and its siblings went on. What they did in between was
recorded, but for one thing: pages that the child touched for the first time (unless first touches are
recorded). With A the anonymous pages of the census:

| page of A | it was shared at the fork |
|---|---|
| the replay knows it in the parent | yes |
| mapped more than once | yes (the child has not forked yet) |
| mapped once, the child's write was seen to copy, no file behind it | yes |
| mapped once, the child wrote it and a page was allocated late | doubtful: it may be for something else |
| mapped once, somebody else wrote or dropped it meanwhile | doubtful: it may be new in both |
| mapped once, the child's write was seen to copy, a file behind it | doubtful: the copy may be of the file |
| mapped once, somebody else left meanwhile | doubtful: it may have held the page too |
| mapped once, otherwise | no: the child's own, new |

The kernel's own count of the fork settles how many of the doubtful ones belong to it (the caller knows it).

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
    copied_late: Pages
    written_by_others: Pages
    dropped: Pages
    dropped_by_others: Pages
    others_left: bool


@dataclass(frozen=True)
class Shared:
    """Pages: shared, doubtful (the likelier first), and known ones that the parent no longer had at the fork."""

    certain: Pages
    doubtful: Pages
    vanished: Pages


def shared_pages(census: Census, known: Pages, in_file: NDArray[np.bool_], window: Window) -> Shared:
    """Sort the pages of the census by the table above.

    `known` are the anonymous pages that the replay knows in the parent, ascending; `in_file` tells for each page of
    the census whether its mapping has a file behind it.
    """
    pages = census.pages
    is_known = among(pages, known)
    copied = among(pages, np.sort(window.copied))
    shared = is_known | ~census.exclusive | (copied & ~in_file)
    doubtful = [pages[:0]]
    if not shared.all():
        seen_elsewhere = among(pages, np.sort(window.written_by_others)) | _within(
            pages, window.dropped_by_others
        )
        left = ~shared
        late = among(pages, np.sort(window.copied_late))
        for reason in (late, seen_elsewhere, copied, np.full(len(pages), window.others_left)):
            doubtful.append(pages[left & reason])
            left &= ~reason
    absent = known[~among(known, pages)]
    vanished = absent[~_within(absent, window.dropped)]
    return Shared(pages[shared], np.concatenate(doubtful), vanished)


def among(pages: Pages, ascending: Pages) -> NDArray[np.bool_]:
    """Whether each of `pages` occurs in `ascending`.

    >>> among(np.array([3, 4]), np.array([1, 3])).tolist()
    [True, False]
    """
    if not len(ascending):
        return np.zeros(len(pages), bool)
    if np.array_equal(pages, ascending):  # as at every fork but the first of a quiet parent
        return np.ones(len(pages), bool)
    place = np.minimum(np.searchsorted(ascending, pages), len(ascending) - 1)
    found: NDArray[np.bool_] = ascending[place] == pages
    return found


def _within(pages: Pages, ranges: Pages) -> NDArray[np.bool_]:
    found = np.zeros(len(pages), bool)
    for start, end in ranges.tolist():
        found |= (pages >= start) & (pages < end)
    return found
