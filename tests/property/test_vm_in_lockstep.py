"""Random operations on the vm and on the naive model of it; compared, and the laws checked, after each."""

from __future__ import annotations

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from tests.property.naive_vm import ZERO, Model, Space, Vma

from cowscope.vm import Kind, Machine, Outcome, OutOfMemory, SegmentationFault, laws
from cowscope.vm.entry import frames_of

FIRST, LAST = 500, 524  # over the border of two leaf tables
PAGE = 4096
ALL = np.arange(FIRST - 2, LAST + 8)

pages = st.integers(FIRST, LAST)
lengths = st.integers(1, 8)
protections = st.sampled_from([3, 3, 3, 1, 2, 0])
which = st.integers(0, 5)
faults = st.lists(st.tuples(which, pages, st.sampled_from([-1, -1, -1, 1, 2])), min_size=1, max_size=24)


class VmAgainstModel(RuleBasedStateMachine):
    """Each rule does the same to both and compares what they answer."""

    @initialize(limit=st.sampled_from([None, None, 6, 12]))
    def start(self, limit: int | None) -> None:
        self.machine, self.model = Machine(frame_limit=limit), Model(limit)
        self.spawn()
        self.map(0, FIRST, 8, 3, False, Kind.ANONYMOUS, 0, False)

    def pick(self, index: int) -> int:
        numbers = sorted(self.model.spaces)
        return numbers[index % len(numbers)]

    @precondition(lambda self: len(self.model.spaces) < 5)
    @rule()
    def spawn(self) -> None:
        self.model.spaces[self.machine.spawn().id] = Space()

    @precondition(lambda self: len(self.model.spaces) < 5)
    @rule(index=which)
    def fork(self, index: int) -> None:
        parent = self.pick(index)
        child = self.machine.fork(parent)
        assert child.shared_at_fork == self.model.fork(parent, child.id)

    @rule(index=which)
    def exec(self, index: int) -> None:
        number = self.pick(index)
        assert self.machine.exec(number) == self.model.clear(number)

    @precondition(lambda self: len(self.model.spaces) > 1)
    @rule(index=which)
    def exit(self, index: int) -> None:
        number = self.pick(index)
        assert self.machine.exit(number) == self.model.clear(number)
        del self.model.spaces[number]

    @rule(
        index=which,
        page=pages,
        length=lengths,
        protection=protections,
        shared=st.booleans(),
        kind=st.sampled_from(Kind),
        file=st.sampled_from([0, 0, 7]),
        keep=st.booleans(),
    )
    def map(
        self,
        index: int,
        page: int,
        length: int,
        protection: int,
        shared: bool,
        kind: Kind,
        file: int,
        keep: bool,
    ) -> None:
        number, tag = self.pick(index), page * 100 + length
        if kind == Kind.ANONYMOUS:
            file = 0
        offset = page - FIRST if file else 0
        dropped = self.machine.spaces[number].map(
            page,
            length,
            protection=protection,
            shared=shared,
            kind=kind,
            tag=tag,
            file=file,
            offset=offset,
            keep_entries=keep,
        )
        new = Vma(page, page + length, protection, shared, kind, tag, file, offset)
        assert dropped == self.model.map(number, new, keep=keep)

    @rule(index=which, page=pages, length=lengths)
    def unmap(self, index: int, page: int, length: int) -> None:
        number = self.pick(index)
        dropped = self.machine.spaces[number].unmap(page, length)
        assert dropped == self.model.unmap(number, page, page + length)

    @rule(index=which, page=pages, length=lengths)
    def discard(self, index: int, page: int, length: int) -> None:
        number = self.pick(index)
        dropped = self.machine.spaces[number].discard(page, length)
        assert dropped == self.model.drop(number, list(range(page, page + length)))

    @rule(index=which, chosen=st.lists(pages, min_size=1, max_size=8))
    def zap(self, index: int, chosen: list[int]) -> None:
        number = self.pick(index)
        dropped = self.machine.spaces[number].zap(np.array(chosen))
        assert dropped == self.model.drop(number, sorted(set(chosen)))

    @rule(index=which, page=pages, length=lengths, protection=protections)
    def protect(self, index: int, page: int, length: int, protection: int) -> None:
        number = self.pick(index)
        self.machine.spaces[number].protect(page, length, protection)
        self.model.protect(number, page, page + length, protection)

    @rule(index=which, page=pages, length=lengths, value=st.booleans())
    def advise_dont_fork(self, index: int, page: int, length: int, value: bool) -> None:
        number = self.pick(index)
        self.machine.spaces[number].advise(page, length, dont_fork=value)
        self.model.changed(number, page, page + length, dont_fork=value)

    @rule(index=which, page=pages, length=lengths, value=st.booleans())
    def advise_wipe_on_fork(self, index: int, page: int, length: int, value: bool) -> None:
        number = self.pick(index)
        self.machine.spaces[number].advise(page, length, wipe_on_fork=value)
        self.model.changed(number, page, page + length, wipe_on_fork=value)

    @rule(index=which, page=pages, value=st.integers(1, 255))
    def store(self, index: int, page: int, value: int) -> None:
        number = self.pick(index)
        expected = self.model.write(number, page)
        try:
            self.machine.spaces[number].store(page * PAGE + 5, bytes([value]))
        except SegmentationFault:
            assert expected == Outcome.SEGMENTATION_FAULT
        except OutOfMemory:
            assert expected == Outcome.OUT_OF_MEMORY
        else:
            assert expected not in (Outcome.SEGMENTATION_FAULT, Outcome.OUT_OF_MEMORY)
            self.model.spaces[number].ptes[page].frame.value = value

    @rule(index=which, page=pages)
    def load(self, index: int, page: int) -> None:
        number = self.pick(index)
        expected = self.model.read(number, page)
        try:
            data = self.machine.spaces[number].load(page * PAGE + 5, 1)
        except SegmentationFault:
            assert expected == Outcome.SEGMENTATION_FAULT
        except OutOfMemory:
            assert expected == Outcome.OUT_OF_MEMORY
        else:
            assert data[0] == self.model.spaces[number].ptes[page].frame.value

    @rule(batch=faults)
    def write_batch(self, batch: list[tuple[int, int, int]]) -> None:
        ids, numbers, decided = zip(*((self.pick(i), page, d) for i, page, d in batch), strict=True)
        expected = [self.model.write(*fault) for fault in zip(ids, numbers, decided, strict=True)]
        assert self.machine.write_faults(ids, numbers, decided=decided).tolist() == expected

    @rule(batch=faults)
    def read_batch(self, batch: list[tuple[int, int, int]]) -> None:
        ids, numbers = zip(*((self.pick(i), page) for i, page, _ in batch), strict=True)
        expected = [self.model.read(*fault) for fault in zip(ids, numbers, strict=True)]
        assert self.machine.read_faults(ids, numbers).tolist() == expected

    @rule(index=which, chosen=st.lists(pages, min_size=1, max_size=6), exclusive=st.booleans())
    def install(self, index: int, chosen: list[int], exclusive: bool) -> None:
        number = self.pick(index)
        given = self.machine.spaces[number].install(np.array(chosen), exclusive=exclusive)
        assert given.tolist() == self.model.install(number, chosen, exclusive)

    @invariant()
    def laws_hold(self) -> None:
        laws.check(self.machine)
        assert self.machine.memory.frames.in_use == self.model.in_use()

    @invariant()
    def pages_agree(self) -> None:
        """Same state of every page, and frames that correspond one to one."""
        to_model: dict[int, int] = {}
        for number, space in self.machine.spaces.items():
            naive = self.model.spaces[number]
            states = space.page_states(ALL)
            slots = space.table.slots(ALL)
            frames = frames_of(self.machine.memory.tables.entries[slots]).tolist()
            assert space.present_pages().tolist() == sorted(naive.ptes)
            for at, page in enumerate(ALL.tolist()):
                pte = naive.ptes.get(page)
                if pte is None:
                    continue
                assert states.anon[at] == pte.frame.anon, (number, page)
                assert states.zero[at] == (pte.frame is ZERO), (number, page)
                assert states.exclusive[at] == pte.frame.exclusive, (number, page)
                assert states.writable[at] == pte.writable, (number, page)
                assert states.inherited[at] == pte.inherited, (number, page)
                assert states.map_count[at] == self.model.map_count(pte.frame), (number, page)
                assert self.machine.memory.frames.read(frames[at], 5, 1)[0] == pte.frame.value
                assert to_model.setdefault(frames[at], id(pte.frame)) == id(pte.frame), (number, page)
        assert len(set(to_model.values())) == len(to_model)

    @invariant()
    def mappings_agree(self) -> None:
        for number, space in self.machine.spaces.items():
            mappings, naive = space.mappings, self.model.spaces[number]
            for page, row in zip(ALL.tolist(), mappings.lookup(ALL).tolist(), strict=True):
                vma = naive.at(page)
                assert (row >= 0) == (vma is not None), (number, page)
                if vma is not None:
                    assert mappings.tag[row] == vma.tag
                    assert mappings.protection[row] == vma.protection
                    assert mappings.shared[row] == vma.shared
                    assert mappings.kind[row] == vma.kind
                    assert mappings.anon_vma[row] == vma.anon_vma, (number, page)


TestVmAgainstModel = VmAgainstModel.TestCase
TestVmAgainstModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
