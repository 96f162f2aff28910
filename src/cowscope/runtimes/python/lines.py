"""Python lines of traps, as the agent noted them: read, resolved, and joined to faults. All input is hostile.

    head:   char[8] "COWLIN1", u32 minor of CPython 3, u32 code_bytes, u64 room, u64 traps, u64 text, u64 over; 4 KiB
    codes:  32,768 times u64 key, u64 name, u32 first line, u32 whole, u64 place in the text + 1 (0: none)
    text:   8 MiB; of a code: file, name, line table, each u32 bytes, u32 bytes a letter, then the bytes
    traps:  `room` times u64 address, u64 time, u32 thread, u32 frames, 4 times (u32 code, u32 bytes into it), u64 whole

Times in ns of CLOCK_MONOTONIC. Source: Objects/locations.md of CPython (the line table of 3.11 and later).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_HEAD = struct.Struct("<8sIIQQQ")
_MAGIC = b"COWLIN1\0"
_OVER_AT = _HEAD.size
_HEAD_BYTES, _N_CODES, _TEXT_BYTES = 4096, 1 << 15, 8 << 20
FRAMES = 4
_CODE = np.dtype([("key", "<u8"), ("name", "<u8"), ("line", "<u4"), ("whole", "<u4"), ("text", "<u8")])
_TRAP = np.dtype(
    [
        ("address", "<u8"),
        ("time", "<u8"),
        ("thread", "<u4"),
        ("frames", "<u4"),
        ("stack", [("code", "<u4"), ("at", "<u4")], (FRAMES,)),
        ("whole", "<u8"),
    ]
)
_NAME = re.compile(r"lines\.\d{1,10}\Z")
_ENCODINGS = {1: "latin-1", 2: "utf-16-le", 4: "utf-32-le"}
_MOST_TEXT = 1 << 17

_LATEST_NS = 10_000_000
"""How long after its fault a trap may come: its thread may have lost the CPU in between."""


@dataclass(frozen=True)
class Place:
    """A line of code: hostile text."""

    file: str
    function: str
    line: int


@dataclass(frozen=True, eq=False)
class Traps:
    """The traps of one file: whole ones, and how many found no room. Codes are resolved by `place`."""

    rows: NDArray[np.void]
    lost: int
    _codes: NDArray[np.void]
    _text: bytes
    _code_bytes: int

    def place(self, code: int, at: int) -> Place | None:
        """The line of an instruction `at` bytes into code number `code`; None where its text is not there."""
        if code >= len(self._codes) or not self._codes["whole"][code] or not self._codes["text"][code]:
            return None
        where = int(self._codes["text"][code]) - 1
        parts: list[str | bytes] = []
        for _ in range(3):
            if where + 8 > len(self._text):
                return None
            n, width = struct.unpack_from("<II", self._text, where)
            part = self._text[where + 8 : where + 8 + n]
            if len(part) != n or n > _MOST_TEXT:
                return None
            parts.append(part.decode(_ENCODINGS.get(width, "latin-1"), "replace") if len(parts) < 2 else part)
            where += 8 + n
        file, function, table = parts
        index = max(at - self._code_bytes, 0) // 2
        first = int(self._codes["line"][code])
        return Place(
            str(file),
            str(function),
            line_of(bytes(table), first, index) if isinstance(table, bytes) else first,
        )


def line_of(table: bytes, first_line: int, index: int) -> int:
    """The line of instruction number `index` by a code object's line table; the last one known, where it has none.

    >>> def sample():
    ...     x = 1
    ...     return x
    >>> code = sample.__code__
    >>> {line_of(code.co_linetable, 0, i) for i in range(len(code.co_code) // 2)} <= {0, 1, 2}
    True
    """
    line, at, done = first_line, 0, 0
    known = first_line
    while at < len(table):
        kind, length = table[at] >> 3 & 15, (table[at] & 7) + 1
        at += 1
        if kind <= 9:  # the same line, columns in one byte
            at += 1
        elif kind <= 12:  # up to two lines on, columns in two bytes
            line += kind - 10
            at += 2
        elif kind <= 14:  # any line; 14: its end and columns as well
            delta, at = _signed(table, at)
            line += delta
            for _ in range(3 if kind == 14 else 0):
                _, at = _unsigned(table, at)
        known = known if kind == 15 else line
        done += length
        if done > index:
            break
    return known


def _unsigned(table: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while at < len(table) and shift < 64:
        byte = table[at]
        at += 1
        value |= (byte & 63) << shift
        shift += 6
        if not byte & 64:
            break
    return value, at


def _signed(table: bytes, at: int) -> tuple[int, int]:
    value, at = _unsigned(table, at)
    return (-(value >> 1) if value & 1 else value >> 1), at


def end_traps(directory: Path) -> None:
    """Tell the agents that write into `directory` that nobody wants to know any more: their next trap is the last."""
    for file in directory.glob("lines.*"):
        try:
            if _NAME.fullmatch(file.name) and not file.is_symlink():
                with file.open("r+b") as opened:
                    opened.seek(_OVER_AT)
                    opened.write((1).to_bytes(8, "little"))
        except OSError:
            continue


def read_traps(directory: Path) -> list[Traps]:
    """Every file of traps in `directory`."""
    files = sorted(file for file in directory.glob("lines.*") if _NAME.fullmatch(file.name))
    return [traps for traps in map(_read, files) if traps is not None]


def _read(file: Path) -> Traps | None:
    try:
        if file.is_symlink() or not file.is_file():
            return None
        data = np.memmap(file, np.uint8, mode="r")
    except (OSError, ValueError):
        return None
    codes_at = _HEAD_BYTES
    text_at = codes_at + _N_CODES * _CODE.itemsize
    traps_at = text_at + _TEXT_BYTES
    if len(data) < traps_at:
        return None
    magic, _, code_bytes, room, n_traps, n_text = _HEAD.unpack(data[: _HEAD.size].tobytes())
    room = min(room, (len(data) - traps_at) // _TRAP.itemsize)
    if magic != _MAGIC:
        return None
    count = min(n_traps, room)
    rows = data[traps_at : traps_at + count * _TRAP.itemsize].view(_TRAP)
    rows = np.array(rows[rows["whole"] != 0])
    text = data[text_at : text_at + min(n_text, _TEXT_BYTES)].tobytes()
    codes = np.array(data[codes_at:text_at].view(_CODE))
    return Traps(rows, max(n_traps - room, 0), codes, text, code_bytes)


def joined(
    traps: NDArray[np.void],
    tids: NDArray[np.uint32],
    addresses: NDArray[np.uint64],
    times: NDArray[np.uint64],
) -> NDArray[np.int64]:
    """For each fault the trap that it raised, -1 for none: by the same thread, at the same address, next in time.

    >>> traps = np.zeros(1, _TRAP)
    >>> traps["thread"], traps["address"], traps["time"] = 7, 4096, 20
    >>> joined(traps, np.array([7, 8], np.uint32), np.array([4096] * 2, np.uint64), np.array([10] * 2, np.uint64))
    array([ 0, -1])
    """
    n = len(tids)
    thread = np.concatenate([tids.astype(np.uint64), traps["thread"].astype(np.uint64)])
    address = np.concatenate([addresses, traps["address"]])
    time = np.concatenate([times.astype(np.uint64), traps["time"]])
    order = np.lexsort((time, address, thread))
    follower = np.full(len(order), -1, np.int64)
    follower[order[:-1]] = order[1:]
    after = follower[:n]
    fits = after >= n
    at = np.maximum(after, 0)
    fits &= (thread[at] == thread[:n]) & (address[at] == address[:n])
    fits &= time[at] - time[:n] <= _LATEST_NS
    return np.where(fits, after - n, -1)


def stacks(traps: Traps, rows: NDArray[np.int64]) -> tuple[list[tuple[Place, ...]], NDArray[np.int64]]:
    """The distinct stacks of the traps `rows`, innermost frame first, and which of them each has (-1: none)."""
    chosen = traps.rows[rows]
    depth = np.minimum(chosen["frames"], FRAMES)
    keys = chosen["stack"].copy()
    keys[np.arange(FRAMES)[None, :] >= depth[:, None]] = (0xFFFFFFFF, 0)
    packed = np.ascontiguousarray(keys).view(np.uint64).reshape(len(chosen), FRAMES)
    distinct, which = np.unique(packed, axis=0, return_inverse=True)
    found: list[tuple[Place, ...]] = []
    number = np.full(len(distinct), -1, np.int64)
    for index, words in enumerate(distinct.tolist()):
        places = tuple(_places(traps, words))
        if places:
            number[index] = len(found)
            found.append(places)
    return found, number[which.reshape(-1)] if len(chosen) else np.zeros(0, np.int64)


def _places(traps: Traps, words: list[int]) -> Iterator[Place]:
    for word in words:
        place = traps.place(word & 0xFFFFFFFF, word >> 32)
        if place is not None:
            yield place
