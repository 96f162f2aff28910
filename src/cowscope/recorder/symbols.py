"""Which function an instruction address belongs to, worked out on the recording machine.

A file is looked up by its byte offset, so that where it was loaded does not matter; a stripped one is told
by file and offset alone. Kernel addresses become names and nothing else: where the kernel lies is a secret.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from pathlib import Path

from cowscope.recording.schema import NONE

KERNEL_START = 1 << 63
KERNEL = "[kernel]"
_PT_LOAD = 1
_FUNCTION_KINDS = (b"t", b"T", b"w", b"W")


class Symbolizer:
    """Looks files and the kernel up, each once."""

    def __init__(self) -> None:
        """Nothing is opened yet."""
        self._files: dict[str, _File | None] = {}
        self._kernel: tuple[list[int], list[str]] | None = None

    def function(self, file: str, offset: int) -> str:
        """The function at byte `offset` of `file`, empty if none is known."""
        if file not in self._files:
            self._files[file] = _open(file)
        opened = self._files[file]
        return "" if opened is None else opened.function(offset)

    def kernel_function(self, address: int) -> str:
        """The kernel function at `address`, empty where kallsyms hides them."""
        if self._kernel is None:
            self._kernel = parse_kallsyms(_read_kallsyms())
        addresses, names = self._kernel
        at = bisect_right(addresses, address) - 1
        return names[at] if at >= 0 else ""


class _File:
    def __init__(self, cache: object, segments: list[tuple[int, int, int]], base: int) -> None:
        self._cache, self._segments, self._base = cache, segments, base

    def function(self, offset: int) -> str:
        for start, size, address in self._segments:
            if start <= offset < start + size:
                found = self._cache.lookup(offset - start + address - self._base)  # type: ignore[attr-defined]
                return str(found[0].symbol) if found else ""
        return ""


def parse_segments(data: bytes) -> list[tuple[int, int, int]]:
    """The loaded segments of a 64-bit ELF file: (file offset, bytes in the file, address); [] for others.

    Source: elf(5).
    """
    if len(data) < 64 or data[:5] != b"\x7fELF\x02":
        return []
    table, entry_size, count = struct.unpack_from("<Q", data, 32)[0], *struct.unpack_from("<HH", data, 54)
    segments = []
    for index in range(count):
        at = table + index * entry_size
        if at + 56 > len(data):
            break
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", data, at)
        if kind == _PT_LOAD:
            segments.append((offset, size, address))
    return segments


def parse_kallsyms(data: bytes) -> tuple[list[int], list[str]]:
    r"""Addresses and names of the kernel's functions, ascending; none where the addresses are hidden.

    A line is the address, the kind in one letter, the name, and the module if there is one.

    >>> parse_kallsyms(b"ffffffff81000000 T _stext\nffffffff81000040 t helper\t[module]\n")[1]
    ['_stext', 'helper']
    """
    lines = (line.split(None, 2) for line in data.split(b"\n"))
    functions = sorted(
        (int(parts[0], 16), parts[2]) for parts in lines if len(parts) == 3 and parts[1] in _FUNCTION_KINDS
    )
    if not functions or not functions[-1][0]:
        return [], []
    names = b"\n".join(name.partition(b"\t")[0] for _, name in functions).decode("ascii", "backslashreplace")
    return [address for address, _ in functions], names.split("\n")


def _read_kallsyms() -> bytes:
    try:
        return Path("/proc/kallsyms").read_bytes()
    except OSError:
        return b""


def _open(file: str) -> _File | None:
    """Open an ELF file; what cannot be opened or understood has no symbols."""
    import symbolic

    if not Path(file).is_file():
        return None
    try:
        with open(file, "rb") as stream:
            segments = parse_segments(stream.read(1 << 16))
        for thing in symbolic.Archive.open(file).iter_objects():
            base = min((address - offset for offset, _, address in segments), default=0)
            return _File(thing.make_symcache(), segments, base)
    except (OSError, symbolic.SymbolicError, ValueError, LookupError):
        return None
    return None


def location(file: str, offset: int) -> tuple[str, int]:
    """Where an instruction lies as the `symbols` table has it: pseudo-files have no offsets."""
    return (file, offset) if file.startswith("/") else (file or "[unknown]", NONE)
