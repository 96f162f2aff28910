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
