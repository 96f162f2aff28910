"""Moved memory stays what it was: shared pages shared, private ones private, the rest gone."""

from __future__ import annotations

import pytest

from cowscope.vm import Machine, Outcome, Protection, laws
from cowscope.vm.trap import SegmentationFault

RW = Protection.READ | Protection.WRITE


def test_a_moved_page_is_still_shared_with_the_child() -> None:
    """R4.7: the parent moves its pages after the fork; child copies at the old place, parent reuses at the new."""
    machine = Machine()
    parent = machine.spawn()
    parent.map(16, 4, protection=RW)
    parent.store(17 * 4096, b"shared")
    child = machine.fork(parent.id)
    parent.move(16, 4, 5000)
    laws.check(machine)
    assert parent.load(5001 * 4096, 6) == b"shared"
    with pytest.raises(SegmentationFault):
        parent.load(17 * 4096, 1)
    assert machine.write_faults([child.id, parent.id], [17, 5001]).tolist() == [
        Outcome.COPIED,
        Outcome.REUSED,
    ]
    laws.check(machine)


def test_a_move_drops_what_lay_at_its_destination() -> None:
    """MREMAP_FIXED unmaps the place it goes to; nothing else of either mapping is touched."""
    machine = Machine()
    space = machine.spawn()
    space.map(16, 4, protection=RW)
    space.map(32, 4, protection=RW)
    space.store(16 * 4096, b"one")
    space.store(19 * 4096, b"stays")
    space.store(33 * 4096, b"goes")
    assert space.move(16, 2, 32).own == 1
    laws.check(machine)
    assert space.load(32 * 4096, 3) == b"one"
    assert space.load(19 * 4096, 5) == b"stays"
    assert machine.memory.frames.in_use == 2


def test_a_move_into_a_table_that_makes_the_pool_grow_loses_nothing() -> None:
    """The pool is replaced by a larger one while the entries are on their way."""
    space = Machine().spawn()
    space.map(16, 1, protection=RW)
    space.store(16 * 4096, b"kept")
    for leaf in range(1, 40):
        space.map(leaf * 512, 1, protection=RW)
        space.store(leaf * 512 * 4096, b"x")
        space.move(16 if leaf == 1 else 100_000 + (leaf - 1) * 512, 1, 100_000 + leaf * 512)
        assert space.load((100_000 + leaf * 512) * 4096, 4) == b"kept"
