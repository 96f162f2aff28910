"""Every public call with every kind of wrong argument: one clear error, and the machine as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from inspect import signature
from typing import Any

import numpy as np
import pytest
from tests.vm.frozen import frozen
from tests.vm.mapped import AT, PAGE, RW, put

from cowscope.errors import InvalidArgument
from cowscope.vm import Advice, File, Machine, Outcome, Process, Protection, Thread
from cowscope.vm.compare import compare
from cowscope.vm.kernel_access import Hold
from cowscope.vm.laws import check

WRONG: dict[str, list[object]] = {
    "int": [
        1.5,
        4096.0,
        np.float64(1),
        "1",
        b"1",
        None,
        True,
        np.True_,
        [1],
        1j,
        1 << 64,
        -(1 << 63) - 1,
        object(),
    ],
    "bool": [1, 0, 1.0, "yes", None, []],
    "bytes": ["text", 5, None, [1, 2], 1.5, object()],
    "File": [3, "name", b"", 1.5, True, object()],
    "name": [3, None, 1.5, b"linux", True, object()],
}
CALLS: dict[str, tuple[dict[str, object], dict[str, str]]] = {
    # what would be right, and of what kind each argument is
    "Process.mmap": (
        {"length": PAGE, "protection": RW},
        {
            **dict.fromkeys(("length", "protection", "offset", "address", "huge"), "int"),
            **dict.fromkeys(
                ("shared", "opened_for_writing", "fixed", "replace", "populate", "locked", "reserve"), "bool"
            ),
            "file": "File?",
        },
    ),
    "Process.munmap": ({"address": AT, "length": PAGE}, {"address": "int", "length": "int"}),
    "Process.mprotect": (
        {"address": AT, "length": PAGE, "protection": Protection.READ},
        dict.fromkeys(("address", "length", "protection"), "int"),
    ),
    "Process.mremap": (
        {"address": AT, "old_length": PAGE, "new_length": PAGE},
        {
            **dict.fromkeys(("address", "old_length", "new_length"), "int"),
            "new_address": "int?",
            **dict.fromkeys(("may_move", "keep_old"), "bool"),
        },
    ),
    "Process.madvise": (
        {"address": AT, "length": PAGE, "what": Advice.DONTNEED},
        dict.fromkeys(("address", "length", "what"), "int"),
    ),
    "Process.brk": ({}, {"address": "int"}),
    "Process.mlock": ({"address": AT, "length": PAGE}, {"address": "int", "length": "int"}),
    "Process.munlock": ({"address": AT, "length": PAGE}, {"address": "int", "length": "int"}),
    "Process.load": ({"address": AT}, {"address": "int", "count": "int"}),
    "Process.store": ({"address": AT, "data": b"x"}, {"address": "int", "data": "bytes"}),
    "Process.pin": ({"address": AT, "length": PAGE}, {"address": "int", "length": "int", "write": "bool"}),
    "Process.splice": ({"address": AT, "length": PAGE}, {"address": "int", "length": "int"}),
    "Process.pages": ({"address": AT, "length": PAGE}, {"address": "int", "length": "int"}),
    "Process.exit": ({}, {"status": "int"}),
    "Process.wait": ({}, {"pid": "int?"}),
    "Thread.load": ({"address": AT}, {"address": "int", "count": "int"}),
    "Thread.store": ({"address": AT, "data": b"x"}, {"address": "int", "data": "bytes"}),
    "File.write": ({"offset": 0, "data": b"x"}, {"offset": "int", "data": "bytes"}),
    "File.read": ({"offset": 0, "count": 1}, {"offset": "int", "count": "int"}),
    "File.truncate": ({"n_bytes": 1}, {"n_bytes": "int"}),
    "Hold.read": ({"offset": 0, "count": 1}, {"offset": "int", "count": "int"}),
    "Machine.file": ({}, {"n_bytes": "int", "tracked": "bool"}),
    "Machine.fork": ({"parent_id": 0}, {"parent_id": "int"}),
    "Machine.exec": ({"space_id": 0}, {"space_id": "int"}),
    "Machine.exit": ({"space_id": 0}, {"space_id": "int"}),
}
OTHERS = {
    "Machine.listen": "below",
    "Machine.write_faults": "below",
    "Machine.read_faults": "below",
    "Machine.install_shared": "below",
    "Machine.adopt": "for processes",
    "Machine.leave": "for processes",
    "Machine.bury": "for processes",
    "Process.lives_in": "for the machine",
    "File.is_of": "for processes",
}


def wrong_ones() -> Iterator[Any]:
    for call, (_, kinds) in CALLS.items():
        for name, kind in kinds.items():
            for value in WRONG[kind.rstrip("?")]:
                if value is not None or not kind.endswith("?"):
                    shown = "object" if type(value) is object else repr(value)
                    yield pytest.param(call, name, value, id=f"{call}-{name}-{shown}")


def played() -> tuple[Process, dict[str, object]]:
    """A process with a bit of everything, and one thing of each class to call."""
    process = Machine().start()
    put(process, 0, 2)
    process.store(AT, b"x")
    file = process.machine.file(2 * PAGE)
    file.write(0, b"file")
    things = {
        "Machine": process.machine,
        "Process": process,
        "Thread": process.thread(),
        "File": file,
        "Hold": process.pin(AT, PAGE),
    }
    return process, things


@pytest.mark.parametrize(("call", "name", "value"), list(wrong_ones()))
def test_a_wrong_argument_is_refused_by_name_and_changes_nothing(call: str, name: str, value: object) -> None:
    process, things = played()
    thing, _, method = call.partition(".")
    before = frozen(process.machine)
    with pytest.raises(InvalidArgument, match=rf"{method}: {name} must |at -?\d+: no addresses"):
        getattr(things[thing], method)(**{**CALLS[call][0], name: value})
    check(process.machine)
    assert frozen(process.machine) == before


def from_numpy(value: object) -> object:
    return np.int64(value) if isinstance(value, int) else value


@pytest.mark.parametrize("change", [lambda value: value, from_numpy])
@pytest.mark.parametrize("by_place", [True, False])
@pytest.mark.parametrize("call", CALLS)
def test_the_right_arguments_are_taken_by_place_or_name_and_from_numpy(
    call: str, by_place: bool, change: Callable[[object], object]
) -> None:
    process, things = played()
    process.fork()  # for wait
    thing, _, method = call.partition(".")
    right = {name: change(value) for name, value in CALLS[call][0].items()}
    bound = getattr(things[thing], method)
    _ = bound(*right.values()) if by_place else bound(**right)


def test_no_public_call_is_left_out() -> None:
    """Every method with arguments is in one of the tables, with all its arguments."""
    for kind in (Machine, Process, Thread, File, Hold):
        for name, method in vars(kind).items():
            if name.startswith("_") or not callable(method):
                continue
            arguments = set(signature(method).parameters) - {"self"}
            call = f"{kind.__name__}.{name}"
            if arguments and call not in OTHERS:
                assert set(CALLS[call][1]) == arguments, call


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("policy", "name"),
        ("architecture", "name"),
        ("frame_limit", "int?"),
        ("swap_pages", "int"),
        ("n_cpus", "int"),
        ("huge_pages", "bool"),
    ],
)
def test_a_machine_of_wrong_parts_is_refused(name: str, kind: str) -> None:
    for value in WRONG[kind.rstrip("?")]:
        if value is not None or not kind.endswith("?"):
            with pytest.raises(InvalidArgument, match=f"Machine: {name} must "):
                Machine(**{name: value})  # type: ignore[arg-type]


@pytest.mark.parametrize("listener", [None, 3, "print"])
def test_who_cannot_be_called_cannot_listen(listener: object) -> None:
    machine = Machine()
    with pytest.raises(InvalidArgument, match="listen: listener must "):
        machine.listen(listener)  # type: ignore[arg-type]
    assert not machine.memory.listeners


@pytest.mark.parametrize(("scenario", "policies"), [(None, ["linux"]), (len, 3), (len, ["nope"]), (len, [3])])
def test_what_cannot_be_compared_is_refused(scenario: Any, policies: Any) -> None:
    with pytest.raises(InvalidArgument):
        compare(scenario, policies)


# --- batches ---

COLUMNS = [
    [1.5],
    [0.0],
    ["0"],
    [None],
    [[0]],
    0,
    None,
    "0",
    [True],
    [0, [1]],
    [0, 0],
    [],
    np.array([[0]]),
    np.array([0], np.float32),
    np.array([object()]),
    [-1],
    [1 << 63],
    [1 << 70],
]


def many(batch: list[int]) -> list[int]:
    """So many that they are looked at in another way than a few are."""
    return batch * 40


CALLS_OF_BATCHES: list[Callable[[Machine, Any, Any], object]] = [
    lambda machine, spaces, pages: machine.write_faults(spaces, pages),
    lambda machine, spaces, pages: machine.read_faults(spaces, pages),
    lambda machine, spaces, pages: machine.install_shared(spaces, pages, [1]),
]


@pytest.mark.parametrize("call", CALLS_OF_BATCHES)
@pytest.mark.parametrize("column", COLUMNS, ids=repr)
def test_a_batch_of_wrong_columns_is_refused(
    call: Callable[[Machine, Any, Any], object], column: object
) -> None:
    process, _ = played()
    before = frozen(process.machine)
    for spaces, pages in ((column, [AT // PAGE + 1]), ([0], column)):
        with pytest.raises(InvalidArgument):
            call(process.machine, spaces, pages)
    check(process.machine)
    assert frozen(process.machine) == before


@pytest.mark.parametrize("ids", [[7], [0, 7], many([0, 7]), many([7]), many([0, -1]), many([0, 1 << 40])])
def test_a_batch_with_a_space_that_is_not_there_is_refused_before_its_first_fault(ids: list[int]) -> None:
    process, _ = played()
    process.machine.exit(process.machine.fork(0).id)
    before = frozen(process.machine)
    with pytest.raises(InvalidArgument, match="there is no space"):
        process.machine.write_faults(ids, [AT // PAGE + 1] * len(ids))
    assert frozen(process.machine) == before


@pytest.mark.parametrize("decided", [[], [1, 1], [5], [1.0], ["1"], [[1]], 1, [None], [-2], [1 << 40]])
def test_a_decision_that_is_none_is_refused(decided: object) -> None:
    process, _ = played()
    process.fork()
    before = frozen(process.machine)
    with pytest.raises(InvalidArgument):
        process.machine.write_faults([0], [AT // PAGE], decided=decided)  # type: ignore[arg-type]
    assert frozen(process.machine) == before


@pytest.mark.parametrize("groups", [[], [1, 2], [1.5], ["a"], [[1]], 1, None])
def test_groups_that_are_none_are_refused(groups: object) -> None:
    process, _ = played()
    before = frozen(process.machine)
    with pytest.raises(InvalidArgument):
        process.machine.install_shared([0], [AT // PAGE + 1], groups)  # type: ignore[arg-type]
    assert frozen(process.machine) == before


@pytest.mark.parametrize("kind", [np.int8, np.uint16, np.int32, np.uint64])
def test_columns_of_any_whole_numbers_are_taken(kind: type[np.generic]) -> None:
    machine = Machine()
    machine.spawn().map(0, 40, protection=RW)
    machine.fork(0)
    ids = np.array([0, 1] * 20, kind)
    outcomes = machine.write_faults(ids, np.arange(40).astype(kind), decided=np.full(40, -1, np.int8))
    assert set(outcomes.tolist()) == {Outcome.ZERO_FILLED}


@pytest.mark.parametrize("data", [bytearray(b"abc"), memoryview(b"abc"), np.array([97, 98, 99], np.uint8)])
def test_what_has_a_buffer_is_bytes(data: Any) -> None:
    process, things = played()
    process.store(AT, data)
    assert process.load(AT, 3) == b"abc"
    file = things["File"]
    assert isinstance(file, File)
    file.write(0, data)
    assert file.read(0, 3) == b"abc"


def test_what_is_not_held_cannot_be_read() -> None:
    process, _ = played()
    pin = process.pin(AT, PAGE)
    for offset, count in ((-1, 1), (0, -1), (PAGE, 1), (1, PAGE)):
        with pytest.raises(InvalidArgument):
            pin.read(offset, count)
    pin.release()
    with pytest.raises(InvalidArgument):
        pin.read(0, 1)
    pin.release()
    check(process.machine)
