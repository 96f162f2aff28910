"""Tables as text, row by row: what golden files hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntFlag
from functools import cache

from cowscope.recording.schema import TABLES, Codes, Column, Columns
from cowscope.views.text import escaped

_IN_HEX = ("address", "start_page", "end_page", "to_page")


def lines(table: str, columns: Columns, *, limit: int | None = None, codes: bool = False) -> Iterator[str]:
    """A line of names, then one a row; addresses in hex, text escaped, tabs between.

    What stands for something is spelt out, unless `codes` asks for the numbers as they are stored.
    """
    yield "\t".join(column.name for column in TABLES[table])
    cells = [_cells(column, codes=codes) for column in TABLES[table]]
    values = [columns[column.name][:limit].tolist() for column in TABLES[table]]
    for row in zip(*values, strict=True):
        yield "\t".join(cell(value) for cell, value in zip(cells, row, strict=True))


def _cells(column: Column, *, codes: bool) -> Callable[[object], str]:
    """How the values of a column are written."""
    meaning = column.codes
    if meaning is not None and not codes:

        @cache
        def spelt(value: object) -> str:
            return in_words(int(str(value)), meaning)

        return spelt
    return lambda value: _plain(column.name, value)


def _plain(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:#x}" if name in _IN_HEX and value >= 0 else str(value)
    return escaped(str(value))


def in_words(value: int, codes: Codes) -> str:
    """The name that stands for `value`, or the names of its flags; what has no name stays a number.

    >>> from cowscope.recording.schema import Access, Operation
    >>> in_words(2, Operation), in_words(99, Operation)
    ('discard', '99')
    >>> in_words(7, Access), in_words(2 | 16 | 32, Access), in_words(0, Access)
    ('present|write|user', 'write|48', 'none')
    """
    if not issubclass(codes, IntFlag):
        return next((code.name.lower() for code in codes if code == value), str(value))
    words = [str(flag.name).lower() for flag in codes if value & flag]
    rest = value & ~sum(flag for flag in codes)
    return "|".join([*words, *([str(rest)] if rest else [])]) or "none"
