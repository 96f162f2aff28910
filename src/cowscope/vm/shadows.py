"""Shadow objects: who holds the pages that a fork shared, under Mach and 4.4BSD.

A fork puts an object below parent and child, and what they share lies in it. Either side's first write to a
page makes a copy above; the page itself stays in the object, though nobody may see it any more.

        before        after fork          after the child's end
        parent        parent   child      parent
          |               \\     /            |
        (pages)           object          (pages): collapsed

| event | effect |
|---|---|
| fork | a new object between the space's place in the tree and the two; it holds what is shared and not held yet |
| a space goes | the object above which only one is left collapses: its pages move up, to that one |

Source: `vm_object_shadow`, `vm_object_collapse` (4.4BSD, FreeBSD).
Not modelled: objects by mapping (here: by space), `vm_object_bypass`, pages that are paged out.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from cowscope.vm.columns import Ints
from cowscope.vm.frames import Frames


@dataclass(eq=False)
class _Object:
    below: _Object | None = None
    above: list[_Object] = field(default_factory=list)
    held: set[int] = field(default_factory=set)


class Shadows:
    """The trees of objects; each space is a leaf.

    >>> frames = Frames()
    >>> page = frames.allocate(1, 0)
    >>> shadows = Shadows(frames)
    >>> shadows.fork(0, 1, page)
    >>> frames.holds
    {1: 1}
    >>> shadows.leave(1)
    >>> frames.holds
    {}
    """

    def __init__(self, frames: Frames) -> None:
        """Start with no object."""
        self._frames = frames
        self._leaves: dict[int, _Object] = {}

    def fork(self, parent: int, child: int, shared: Ints) -> None:
        """An object below both spaces holds those of the frames `shared` that no object below them holds."""
        leaf = self._leaves.setdefault(parent, _Object())
        middle = _Object(leaf.below)
        if leaf.below is not None:
            leaf.below.above.remove(leaf)
            leaf.below.above.append(middle)
        self._leaves[child] = _Object(middle)
        leaf.below = middle
        middle.above = [leaf, self._leaves[child]]
        middle.held = set(shared.tolist()) - self._held_below(middle.below)
        self._frames.hold(np.array(sorted(middle.held), np.int64))

    def _held_below(self, lowest: _Object | None) -> set[int]:
        held: set[int] = set()
        while lowest is not None:
            held |= lowest.held
            lowest = lowest.below
        return held

    def leave(self, space: int) -> None:
        """A space has no memory any more."""
        leaf = self._leaves.pop(space, None)
        if leaf is None or leaf.below is None:
            return
        leaf.below.above.remove(leaf)
        self._collapse(leaf.below)

    def _collapse(self, lone: _Object) -> None:
        (heir,) = lone.above
        heir.below = lone.below
        if lone.below is not None:
            lone.below.above.remove(lone)
            lone.below.above.append(heir)
        if heir.above:
            heir.held |= lone.held
        else:
            self._frames.release(np.array(sorted(lone.held), np.int64))
