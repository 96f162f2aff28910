"""The fault path: the rules one by one, batches, verdicts from outside, lack of memory."""

from __future__ import annotations

import numpy as np
import pytest

from cowscope.errors import InvalidArgument
from cowscope.vm import FrameFlag, Kind, Machine, Outcome, OutOfMemory, laws
from cowscope.vm import faults as faults_module

RW = 3


def forked(n_children: int = 1, n_pages: int = 4) -> Machine:
    """A parent (0) that wrote pages 0 to `n_pages`, and its children."""
    machine = Machine()
    machine.spawn().map(0, n_pages, protection=RW)
    machine.write_faults([0] * n_pages, range(n_pages))
    for _ in range(n_children):
        machine.fork(0)
    return machine


def names(outcomes: np.ndarray[tuple[int], np.dtype[np.int8]]) -> list[str]:
    return [Outcome(outcome).name for outcome in outcomes.tolist()]


def test_the_values_of_outcomes_never_change() -> None:
    """They are in recordings."""
    assert [outcome.name for outcome in sorted(Outcome)] == [
        "NO_FAULT",
        "COPIED",
        "REUSED",
        "ZERO_FILLED",
        "COPIED_FROM_FILE",
        "MAPPED",
        "WRITE_TRACKED",
        "SEGMENTATION_FAULT",
        "BUS_ERROR",
        "OUT_OF_MEMORY",
    ]
    assert [outcome.value for outcome in Outcome] == list(range(10))


@pytest.mark.parametrize("order", [[1, 0], [0, 1], [1, 2, 0], [0, 1, 2], [2, 0, 3, 1]])
def test_all_but_the_last_writer_copy(order: list[int]) -> None:
    machine = forked(len(order) - 1)
    outcomes = machine.write_faults(order, [2] * len(order))
    assert names(outcomes) == ["COPIED"] * (len(order) - 1) + ["REUSED"]
    laws.check(machine)


def test_a_write_after_a_read_fills_with_zeros() -> None:
    """The zero page and the page cache's frames never become a process's own."""
    machine = Machine()
    space = machine.spawn()
    space.map(0, 1, protection=RW)
    space.map(1, 1, protection=RW, kind=Kind.FILE)
    assert names(machine.read_faults([0, 0], [0, 1])) == ["MAPPED", "MAPPED"]
    assert names(machine.write_faults([0, 0], [0, 1])) == ["ZERO_FILLED", "COPIED_FROM_FILE"]
    laws.check(machine)


def test_a_writer_alone_after_its_child_exits_reuses_with_a_fault() -> None:
    machine = forked()
    assert machine.exit(1).inherited_shared == 4
    assert names(machine.write_faults([0, 0], [1, 1])) == ["REUSED", "NO_FAULT"]
    assert machine.spaces[0].page_states(np.array([1])).exclusive.all()


def test_an_imposed_copy_leaves_the_old_frame() -> None:
    machine = forked()
    machine.exit(1)
    before = machine.memory.frames.in_use
    assert names(machine.write_faults([0], [1], decided=[Outcome.COPIED])) == ["COPIED"]
    assert machine.memory.frames.in_use == before, "the frame that nobody maps any more is freed"
    laws.check(machine)


def test_an_imposed_reuse_of_a_shared_frame_is_not_exclusive() -> None:
    machine = forked()
    assert names(machine.write_faults([1, 1], [1, 1], decided=[Outcome.REUSED] * 2)) == ["REUSED", "NO_FAULT"]
    states = machine.spaces[1].page_states(np.array([1]))
    assert states.writable.all()
    assert not states.exclusive.any()
    assert not states.inherited.any()
    assert np.count_nonzero(machine.memory.frames.flags & FrameFlag.DISPUTED) == 1
    laws.check(machine)


def test_imposed_verdicts_count_for_the_writers_after_them() -> None:
    """Frame with three mappers: a reuse leaves three, a copy two; so the last one copies."""
    machine = forked(2)
    outcomes = machine.write_faults([0, 1, 2], [1, 1, 1], decided=[Outcome.REUSED, Outcome.COPIED, -1])
    assert names(outcomes) == ["REUSED", "COPIED", "COPIED"]
    laws.check(machine)


def test_an_imposed_verdict_does_not_touch_other_faults() -> None:
    machine = Machine()
    machine.spawn().map(0, 2, protection=RW)
    assert names(machine.write_faults([0], [0], decided=[Outcome.COPIED])) == ["ZERO_FILLED"]


def test_shared_mappings_are_mapped_and_tracked() -> None:
    machine = Machine()
    space = machine.spawn()
    space.map(0, 4, protection=RW, shared=True, kind=Kind.FILE)
    assert names(machine.read_faults([0], [0])) == ["MAPPED"]
    assert names(machine.write_faults([0, 0], [0, 1])) == ["WRITE_TRACKED", "MAPPED"]
    child = machine.fork(0)
    assert not child.present_pages().size
    space.store(5, b"x")
    assert child.load(5, 1) == b"x"


def test_memory_that_runs_out_inside_a_batch_refuses_only_what_needs_it() -> None:
    machine = Machine(frame_limit=2)
    machine.spawn().map(0, 8, protection=RW)
    outcomes = names(machine.write_faults([0] * 5, [0, 0, 1, 2, 1]))
    assert outcomes == ["ZERO_FILLED", "NO_FAULT", "ZERO_FILLED", "OUT_OF_MEMORY", "NO_FAULT"]
    with pytest.raises(OutOfMemory):
        machine.spaces[0].store(2 * 4096, b"x")
    machine.spaces[0].zap(np.array([0]))
    machine.spaces[0].store(2 * 4096, b"x")
    laws.check(machine)


def test_a_batch_over_several_parts_means_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    """As the whole in one part, whatever the size of the parts."""
    rng = np.random.default_rng(7)
    ids, pages = rng.integers(0, 4, 500), rng.integers(0, 70, 500)
    whole = forked(3, 64).write_faults(ids, pages)
    monkeypatch.setattr(faults_module, "CHUNK", 7)
    parted = forked(3, 64)
    assert parted.write_faults(ids, pages).tolist() == whole.tolist()
    laws.check(parted)


def test_space_numbers_beyond_16_bits_group_as_well() -> None:
    machine = forked()
    machine._n_spaces = 1 << 17
    far = machine.fork(0).id
    assert names(machine.write_faults([far, 0, 1], [2, 2, 2])) == ["COPIED", "COPIED", "REUSED"]


def test_an_unknown_space_is_an_error() -> None:
    with pytest.raises(InvalidArgument, match="no space 3"):
        Machine().write_faults([3], [0])


def test_an_empty_batch_has_no_outcomes() -> None:
    assert not Machine().write_faults([], []).size
    assert not Machine().read_faults([], []).size
