"""The vm against a naive model: dictionaries from page to an object with its owners and its bytes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from cowscope.vm import Dropped, Kind, Machine, Outcome, Protection, SegmentationFault
from cowscope.vm.laws import check

PAGE = 4096
FIRST, LAST = 508, 515  # over the border of two leaf tables; few, so that processes meet on them
FILE = 1
RW, R, NONE = Protection.READ | Protection.WRITE, Protection.READ, Protection.NONE

pages = st.integers(FIRST, LAST)
lengths = st.integers(1, 4)
protections = st.sampled_from([RW, RW, R, NONE])
kinds = st.sampled_from(["anonymous", "anonymous", "file", "shared", "shared file"])


@dataclass(eq=False)
class Private:
    """A private page: who maps it, whether it is marked exclusive, what it holds."""

    owners: set[int]
    exclusive: bool = True
    data: bytearray = field(default_factory=lambda: bytearray(PAGE))


@dataclass
class Place:
    """A mapped page: what backs it (a dictionary of pages by offset), and how it may be accessed."""

    protection: Protection
    shared: bool
    file: bool
    backing: dict[int, bytearray] | None
    offset: int
    present: bool = False
    """For shared places: an entry is there. `writable` and `dirty` are its bits."""
    writable: bool = False
    dirty: bool = False
    private: Private | None = None
    inherited: bool = False

    def copy(self) -> Place:
        """What a child gets; shared entries are not inherited."""
        return Place(
            self.protection,
            self.shared,
            self.file,
            self.backing,
            self.offset,
            private=None if self.shared else self.private,
            inherited=self.private is not None,
        )


Space = dict[int, Place]


class Model:
    """The naive machine: every operation is a loop over pages."""

    def __init__(self) -> None:
        self.spaces: dict[int, Space] = {}
        self.file: dict[int, bytearray] = {}

    def drop(self, space: int, numbers: Iterable[int]) -> Dropped:
        """Take the entries of `numbers` away; counts of inherited shared, inherited alone, own."""
        shared = alone = own = 0
        for number in numbers:
            place = self.spaces[space].get(number)
            if place is None:
                continue
            if place.private is not None:
                if not place.inherited:
                    own += 1
                elif len(place.private.owners) > 1:
                    shared += 1
                else:
                    alone += 1
                place.private.owners.discard(space)
            place.private, place.inherited = None, False
            place.present = place.writable = place.dirty = False
        return Dropped(0, shared, alone, own)

    def write(self, space: int, number: int) -> Outcome:
        """A write fault."""
        place = self.spaces[space].get(number)
        if place is None or not place.protection & Protection.WRITE:
            return Outcome.SEGMENTATION_FAULT
        if place.shared:
            return self._write_shared(place)
        if place.private is None:
            place.private = Private({space})
            if place.backing is None:
                return Outcome.ZERO_FILLED
            place.private.data[:] = place.backing.get(place.offset, bytes(PAGE))
            return Outcome.COPIED_FROM_FILE
        if place.private.exclusive:
            return Outcome.NO_FAULT
        place.inherited = False
        if len(place.private.owners) == 1:
            place.private.exclusive = True
            return Outcome.REUSED
        place.private.owners.discard(space)
        place.private = Private({space}, data=bytearray(place.private.data))
        return Outcome.COPIED

    def _write_shared(self, place: Place) -> Outcome:
        if place.present and place.writable:
            return Outcome.NO_FAULT
        outcome = Outcome.WRITE_TRACKED if place.present else Outcome.MAPPED
        place.present = place.writable = place.dirty = True
        return outcome

    def touch(self, place: Place) -> None:
        """A read: a shared page gets its entry, writable at once where no file system tracks it."""
        if place.shared and not place.present:
            place.present = True
            place.writable = not place.file and bool(place.protection & Protection.WRITE)

    def protect(self, place: Place, protection: Protection) -> None:
        """mprotect of one page."""
        place.protection = protection
        wanted = bool(protection & Protection.WRITE)
        place.writable = place.present and wanted and (place.dirty or not place.file)

    def held(self, place: Place) -> bytes | bytearray:
        """What a read of the page sees."""
        if place.private is not None:
            return place.private.data
        return bytes(PAGE) if place.backing is None else place.backing.get(place.offset, bytes(PAGE))

    def private_frames(self) -> int:
        """Private pages that exist."""
        every = [p.private for space in self.spaces.values() for p in space.values() if p.private]
        return len({id(private) for private in every})


class MachineAgainstModel(RuleBasedStateMachine):
    """Each rule on both; every figure that both know is compared."""

    ids = Bundle("ids")

    @initialize(target=ids)
    def begin(self) -> int:
        self.machine, self.model = Machine(), Model()
        first = self.spawn_one()
        self.map_there(first, FIRST, LAST - FIRST, RW, "anonymous")
        return first

    def spawn_one(self) -> int:
        number = self.machine.spawn().id
        self.model.spaces[number] = {}
        return number

    @rule(target=ids)
    def spawn(self) -> int:
        return self.spawn_one()

    @rule(space=ids, start=pages, n=lengths, protection=protections, kind=kinds)
    def map(self, space: int, start: int, n: int, protection: Protection, kind: str) -> None:
        self.map_there(space, start, n, protection, kind)

    def map_there(self, space: int, start: int, n: int, protection: Protection, kind: str) -> None:
        dropped = self.model.drop(space, range(start, start + n))
        shared, file = kind.startswith("shared"), kind.endswith("file")
        backing = self.model.file if file else {} if shared else None
        for i in range(n):
            place = Place(protection, shared, file, backing, i + 3 * file)
            self.model.spaces[space][start + i] = place
        told = self.machine.spaces[space].map(
            start,
            n,
            protection=protection,
            shared=shared,
            kind=Kind.FILE if file else Kind.ANONYMOUS,
            file=FILE if file else 0,
            offset=3 if file else 0,
        )
        assert counted(told) == counted(dropped)

    @rule(space=ids, start=pages, n=lengths)
    def unmap(self, space: int, start: int, n: int) -> None:
        dropped = self.model.drop(space, range(start, start + n))
        for number in range(start, start + n):
            self.model.spaces[space].pop(number, None)
        assert counted(self.machine.spaces[space].unmap(start, n)) == counted(dropped)

    @rule(space=ids, start=pages, n=lengths)
    def discard(self, space: int, start: int, n: int) -> None:
        dropped = self.model.drop(space, range(start, start + n))
        assert counted(self.machine.spaces[space].discard(start, n)) == counted(dropped)

    @rule(space=ids, start=pages, n=lengths, protection=protections)
    def protect(self, space: int, start: int, n: int, protection: Protection) -> None:
        for number in range(start, start + n):
            if number in self.model.spaces[space]:
                self.model.protect(self.model.spaces[space][number], protection)
        self.machine.spaces[space].protect(start, n, protection)

    @rule(
        space=ids,
        page=pages,
        offset=st.sampled_from([0, 7, PAGE - 2]),
        data=st.binary(min_size=1, max_size=4),
    )
    def store(self, space: int, page: int, offset: int, data: bytes) -> None:
        places = self.model.spaces[space]
        address = page * PAGE + offset
        if not self._allows(space, touched(page, offset, len(data)), Protection.WRITE):
            with pytest.raises(SegmentationFault):
                self.machine.spaces[space].store(address, data)
            return
        for number in touched(page, offset, len(data)):
            self.model.write(space, number)
        for i, byte in enumerate(data):
            number, at = divmod(address + i, PAGE)
            place = places[number]
            if place.private is not None:
                place.private.data[at] = byte
            elif place.backing is not None:
                place.backing.setdefault(place.offset, bytearray(PAGE))[at] = byte
        self.machine.spaces[space].store(address, data)

    @rule(space=ids, page=pages, offset=st.sampled_from([0, PAGE - 3]))
    def load(self, space: int, page: int, offset: int) -> None:
        if not self._allows(space, touched(page, offset, 6), ~Protection.NONE):
            with pytest.raises(SegmentationFault):
                self.machine.spaces[space].load(page * PAGE + offset, 6)
            return
        expected = b""
        for number in touched(page, offset, 6):
            place = self.model.spaces[space][number]
            self.model.touch(place)
            expected += bytes(self.model.held(place))
        assert self.machine.spaces[space].load(page * PAGE + offset, 6) == expected[offset : offset + 6]

    def _allows(self, space: int, numbers: range, needed: Protection) -> bool:
        """Whether all of the pages may be accessed; an access that fails on the way is undone."""
        places = [self.model.spaces[space].get(number) for number in numbers]
        return all(place is not None and place.protection & needed for place in places)

    @rule(target=ids, parent=ids)
    def fork(self, parent: int) -> int:
        child = self.machine.fork(parent)
        self.model.spaces[child.id] = {n: p.copy() for n, p in self.model.spaces[parent].items()}
        shared = [p.private for p in self.model.spaces[parent].values() if p.private is not None]
        for private in shared:
            private.exclusive = False
            private.owners.add(child.id)
        assert child.shared_at_fork == len(shared)
        return child.id

    @rule(space=consumes(ids))
    def exit(self, space: int) -> None:
        dropped = self.model.drop(space, list(self.model.spaces[space]))
        del self.model.spaces[space]
        assert counted(self.machine.exit(space)) == counted(dropped)

    @rule(space=ids)
    def exec(self, space: int) -> None:
        dropped = self.model.drop(space, list(self.model.spaces[space]))
        self.model.spaces[space] = {}
        assert counted(self.machine.exec(space)) == counted(dropped)

    @rule(faults=st.lists(st.tuples(ids, pages), min_size=2, max_size=30))
    def write_faults(self, faults: list[tuple[int, int]]) -> None:
        expected = [self.model.write(space, page) for space, page in faults]
        spaces, numbers = [space for space, _ in faults], [page for _, page in faults]
        assert [Outcome(int(o)) for o in self.machine.write_faults(spaces, numbers)] == expected

    @invariant()
    def laws_hold(self) -> None:
        check(self.machine)

    @invariant()
    def frames_are_as_many(self) -> None:
        memory = self.machine.memory
        assert memory.frames.in_use - len(memory.cache.cached()) == self.model.private_frames()


def touched(page: int, offset: int, count: int) -> range:
    """The pages of an access."""
    return range(page, page + (offset + count - 1) // PAGE + 1)


def counted(dropped: Dropped) -> tuple[int, int, int]:
    """What the model knows of it: it has no zero page and no entries of the page cache."""
    return dropped.inherited_shared, dropped.inherited_alone, dropped.own


TestMachineAgainstModel = MachineAgainstModel.TestCase
TestMachineAgainstModel.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)


def family(plan: list[int]) -> Machine:
    """A machine with children, all of whom share pages in some way."""
    machine = Machine()
    space = machine.spawn()
    space.map(FIRST, 4, protection=RW)
    space.map(FIRST + 4, 2, protection=RW, kind=Kind.FILE, file=FILE)
    space.map(FIRST + 6, 2, protection=RW, shared=True)
    machine.write_faults([0] * 4, [FIRST, FIRST + 1, FIRST + 2, FIRST + 4])
    machine.read_faults([0] * 3, [FIRST + 3, FIRST + 5, FIRST + 6])
    for parent in plan:
        machine.fork(parent % len(machine.spaces))
    return machine


def picture(machine: Machine) -> list[list[list[int]]]:
    """All that a machine tells about its pages, without frame numbers."""
    numbers = np.arange(FIRST, LAST + 1)
    columns = ("present", "anon", "zero", "exclusive", "writable", "inherited", "map_count")
    states = [space.page_states(numbers) for space in machine.spaces.values()]
    return [[getattr(state, name).tolist() for name in columns] for state in states]


@given(
    plan=st.lists(st.integers(0, 3), min_size=1, max_size=3),
    faults=st.lists(
        st.tuples(st.integers(0, 3), pages, st.sampled_from([-1, -1, -1, Outcome.COPIED])),
        min_size=10,
        max_size=60,
    ),
    limit=st.none() | st.integers(0, 12),
)
@settings(max_examples=200, deadline=None)
def test_a_batch_is_the_same_faults_one_by_one(
    plan: list[int], faults: list[tuple[int, int, int]], limit: int | None
) -> None:
    """Outcomes, states of all pages and counts are equal, near the end of memory too."""
    together, single = family(plan), family(plan)
    n = len(together.spaces)
    for machine in (together, single):
        if limit is not None:
            machine.memory.frames.limit = machine.memory.frames.in_use + limit
    spaces, numbers, decided = zip(*((space % n, page, word) for space, page, word in faults), strict=True)
    outcomes = together.write_faults(spaces, numbers, decided=decided).tolist()
    one_by_one = [
        int(single.write_faults([s], [p], decided=[d])[0])
        for s, p, d in zip(spaces, numbers, decided, strict=True)
    ]
    check(together)
    assert outcomes == one_by_one
    assert picture(together) == picture(single)
    assert together.memory.frames.in_use == single.memory.frames.in_use
    assert together.memory.overruled == single.memory.overruled
    assert together.memory.spared == single.memory.spared


@given(
    plan=st.lists(st.integers(0, 3), max_size=3),
    faults=st.lists(st.tuples(st.integers(0, 3), pages), min_size=5, max_size=40),
    limit=st.none() | st.integers(0, 3),
)
@settings(max_examples=50, deadline=None)
def test_a_batch_of_reads_is_the_same_reads_one_by_one(
    plan: list[int], faults: list[tuple[int, int]], limit: int | None
) -> None:
    """Reads take frames too, where the page cache lacks a page."""
    together, single = family(plan), family(plan)
    for machine in (together, single):
        machine.spawn().map(FIRST, 8, protection=R, kind=Kind.FILE, file=FILE)
        if limit is not None:
            machine.memory.frames.limit = machine.memory.frames.in_use + limit
    spaces, numbers = zip(*((space % len(together.spaces), page) for space, page in faults), strict=True)
    outcomes = together.read_faults(spaces, numbers).tolist()
    assert outcomes == [int(single.read_faults([s], [p])[0]) for s, p in zip(spaces, numbers, strict=True)]
    check(together)
    assert picture(together) == picture(single)
