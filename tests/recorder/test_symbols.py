"""Addresses to functions: ELF headers and kallsyms, hostile ones too."""

from __future__ import annotations

import struct
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope.recorder.symbols import Symbolizer, location, parse_kallsyms, parse_segments

LOAD, NOTE = 1, 4


def elf(
    *segments: tuple[int, int, int, int], table: int = 64, entry: int = 56, count: int | None = None
) -> bytes:
    """A header and program headers of (kind, offset, address, size)."""
    n = len(segments) if count is None else count
    head = b"\x7fELF\x02\x01\x01".ljust(32, b"\0") + struct.pack("<Q", table)
    head = head.ljust(54, b"\0") + struct.pack("<HH", entry, n)
    rows = [struct.pack("<IIQQQQ", kind, 5, offset, at, at, size) for kind, offset, at, size in segments]
    return head.ljust(64, b"\0") + b"".join(row.ljust(entry, b"\0") for row in rows)


def test_loaded_segments_are_found() -> None:
    """Offset in the file, bytes in the file, address; others than PT_LOAD are passed over."""
    data = elf((LOAD, 0, 0x400000, 0x1000), (NOTE, 1, 2, 3), (LOAD, 0x1000, 0x402000, 0x500))
    assert parse_segments(data) == [(0, 0x1000, 0x400000), (0x1000, 0x500, 0x402000)]


@pytest.mark.parametrize(
    "data",
    [b"", b"\x7fELF", b"#!/bin/sh\n" * 20, b"\x7fELF\x01" + bytes(100), elf((LOAD, 0, 0, 1))[:63]],
)
def test_what_is_no_64_bit_elf_file_has_no_segments(data: bytes) -> None:
    """Scripts, 32-bit files, cut headers."""
    assert parse_segments(data) == []


def test_headers_beyond_the_end_are_left_out() -> None:
    """A count or a place that lies."""
    assert parse_segments(elf((LOAD, 0, 1, 2), count=60_000)) == [(0, 2, 1)]
    assert parse_segments(elf((LOAD, 0, 1, 2), table=(1 << 64) - 1)) == []


@given(st.binary(max_size=300), st.integers(0, (1 << 64) - 1), st.integers(0, 65535), st.integers(0, 65535))
def test_no_file_makes_it_fail(body: bytes, table: int, entry: int, count: int) -> None:
    """Whatever the header says; and no more segments than headers."""
    header = elf(table=table, entry=0, count=0)[:54] + struct.pack("<HH", entry, count) + bytes(6)
    assert len(parse_segments(header + body)) <= count


def test_kernel_functions_are_found_by_address() -> None:
    """By ascending address, modules' too; data symbols and broken lines are none."""
    lines = ("20 t second", "10 T first", "18 D data", "30 W weak\t[module]", "40 w last")
    data = "\n".join(f"ffffffff810000{line}" for line in lines) + "\nbroken\n\n"
    addresses, names = parse_kallsyms(data.encode())
    assert [address & 0xFF for address in addresses] == [0x10, 0x20, 0x30, 0x40]
    assert names == ["first", "second", "weak", "last"]


@pytest.mark.parametrize("data", [b"", b"0000000000000000 T _stext\n0000000000000000 t helper\n"])
def test_hidden_addresses_are_no_addresses(data: bytes) -> None:
    """kptr_restrict shows zeroes."""
    assert parse_kallsyms(data) == ([], [])


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/bin/x", ("/bin/x", 64)),
        ("[vdso]", ("[vdso]", -1)),
        ("[anon]", ("[anon]", -1)),
        ("", ("[unknown]", -1)),
    ],
)
def test_only_files_have_offsets(file: str, expected: tuple[str, int]) -> None:
    """What is no file has no bytes that could be looked up."""
    assert location(file, 64) == expected


def test_a_file_that_cannot_be_understood_has_no_functions(tmp_path: Path) -> None:
    """Missing, empty, text, a directory, a cut ELF file."""
    text, cut = tmp_path / "text", tmp_path / "cut"
    text.write_text("not a program\n" * 100)
    cut.write_bytes(Path(sys.executable).resolve().read_bytes()[:5000])
    symbolizer = Symbolizer()
    found = [symbolizer.function(str(file), 64) for file in (tmp_path / "none", tmp_path, text, cut)]
    assert found == ["", "", "", ""]
