"""Lines of traps: line tables as the interpreter itself reads them, files whole or not at all, faults and traps joined."""

from __future__ import annotations

import argparse
import inspect
import struct
import types
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from cowscope.runtimes.python.lines import Place, Traps, joined, line_of, read_traps, stacks

CODE_BYTES = 184
TEXT_AT = 4096 + 32 * (1 << 15)
TRAPS_AT = TEXT_AT + (8 << 20)


def codes(code: types.CodeType) -> Iterator[types.CodeType]:
    """A code object and all within it."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from codes(constant)


def test_line_tables_are_read_as_python_reads_them() -> None:
    """Every instruction of a large module; those without a line have the one before."""
    source = inspect.getsource(argparse)
    n = 0
    for code in codes(compile(source, "argparse.py", "exec")):
        known = code.co_firstlineno
        for index, (line, *_) in enumerate(code.co_positions()):
            known = known if line is None else line
            assert line_of(code.co_linetable, code.co_firstlineno, index) == known, (code.co_qualname, index)
            n += 1
    assert n > 10_000


@pytest.mark.parametrize("table", [b"", b"\xf0", b"\xf0\xff\xff\xff", bytes(range(256)) * 4, b"\xff" * 1000])
def test_a_broken_line_table_is_read_to_its_end(table: bytes) -> None:
    """Some line comes of it, and nothing else."""
    assert isinstance(line_of(table, 7, 10_000), int)


def text(*parts: tuple[bytes, int]) -> bytes:
    """What the agent writes of a code object."""
    return b"".join(struct.pack("<II", len(data), width) + data for data, width in parts)


def traps_file(
    *traps: tuple[int, int, int, tuple[tuple[int, int], ...]],
    magic: bytes = b"COWLIN1\0",
    n_traps: int | None = None,
    described: bytes | None = None,
) -> bytes:
    """A file with one code object, number 5 on line 40, and these traps: address, time, thread, frames."""
    if described is None:
        described = text((b"/app.py", 1), ("schön".encode("utf-16-le"), 2), (b"\xf0\x00", 1))
    count = len(traps) if n_traps is None else n_traps
    head = struct.pack("<8sIIQQQ", magic, 11, CODE_BYTES, len(traps), count, len(described))
    code = struct.pack("<QQIIQ", 0x1000, 0x2000, 40, 1, 1)
    rows = b""
    for address, time, thread, frames in traps:
        filled = [*frames, *[(0xDEAD, 0)] * (4 - len(frames))]
        rows += struct.pack("<QQII", address, time, thread, len(frames))
        rows += b"".join(struct.pack("<II", *frame) for frame in filled) + struct.pack("<Q", 1)
    data = bytearray(TRAPS_AT) + rows
    data[: len(head)] = head
    data[4096 + 32 * 5 : 4096 + 32 * 6] = code
    data[TEXT_AT : TEXT_AT + len(described)] = described
    return bytes(data)


def read(directory: Path, data: bytes) -> list[Traps]:
    """What is read of a directory with one such file."""
    (directory / "lines.7").write_bytes(data)
    return read_traps(directory)


FRAME = (5, CODE_BYTES + 2)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Addresses, times and frames; names of any width."""
    (traps,) = read(tmp_path, traps_file((4096, 20, 7, (FRAME,)), (8192, 30, 8, ())))
    assert traps.rows["address"].tolist() == [4096, 8192]
    found, which = stacks(traps, np.array([0, 1]))
    assert found == [(Place("/app.py", "schön", 40),)]
    assert which.tolist() == [0, -1]
    assert traps.lost == 0


@pytest.mark.parametrize(
    "data",
    [b"", traps_file()[: TRAPS_AT - 1], traps_file(magic=b"\x7fELF\0\0\0\0")],
    ids=["empty", "cut off", "another file"],
)
def test_what_is_no_such_file_is_passed_over(tmp_path: Path, data: bytes) -> None:
    """Whoever may write there may write anything."""
    assert read(tmp_path, data) == []


def test_more_traps_than_there_was_room_for_are_lost(tmp_path: Path) -> None:
    """As many as it says, and no row that is not there is read."""
    (traps,) = read(tmp_path, traps_file((4096, 20, 7, (FRAME,)), n_traps=10))
    assert (len(traps.rows), traps.lost) == (1, 9)


@pytest.mark.parametrize(
    "described",
    [b"", b"\xff" * 40, text((b"/app.py", 1)), struct.pack("<II", 1 << 30, 1) + b"x"],
    ids=["none", "huge numbers", "only a file", "longer than all"],
)
def test_text_that_is_not_there_gives_no_place(tmp_path: Path, described: bytes) -> None:
    """The trap stays; its stack is unknown."""
    (traps,) = read(tmp_path, traps_file((4096, 20, 7, (FRAME, (1 << 20, 0))), described=described))
    assert stacks(traps, np.array([0])) == ([], np.array([-1]))


def test_links_and_others_files_are_left_alone(tmp_path: Path) -> None:
    """Only what the agent names so."""
    (tmp_path / "lines.x").write_bytes(traps_file())
    (tmp_path / "lines.8").mkdir()
    (tmp_path / "real").write_bytes(traps_file())
    (tmp_path / "lines.9").symlink_to(tmp_path / "real")
    assert read_traps(tmp_path) == []


def test_a_trap_belongs_to_the_last_fault_before_it(tmp_path: Path) -> None:
    """Of its own thread, at its own address, soon enough."""
    (traps,) = read(
        tmp_path,
        traps_file(
            (4096, 105, 7, (FRAME,)), (4096, 205, 7, (FRAME,)), (4096, 305, 8, ()), (8192, 300_000_000, 7, ())
        ),
    )
    faults = [(7, 4096, 100), (7, 4096, 200), (7, 4096, 210), (8, 4096, 300), (9, 4096, 300), (7, 8192, 200)]
    tids, addresses, times = (np.array(column, np.uint64) for column in zip(*faults, strict=True))
    assert joined(traps.rows, tids.astype(np.uint32), addresses, times).tolist() == [0, 1, -1, 2, -1, -1]
