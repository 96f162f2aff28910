"""Tables as text, row by row: what golden files hold."""

from __future__ import annotations

from collections.abc import Iterator

from cowscope.recording.schema import TABLES, Columns
from cowscope.views.text import escaped

_IN_HEX = ("address", "start_page", "end_page", "to_page")


def lines(table: str, columns: Columns, *, limit: int | None = None) -> Iterator[str]:
    """A line of names, then one a row; addresses in hex, text escaped, tabs between."""
    names = [column.name for column in TABLES[table]]
    yield "\t".join(names)
    values = [columns[name][:limit].tolist() for name in names]
    for row in zip(*values, strict=True):
        yield "\t".join(_cell(name, value) for name, value in zip(names, row, strict=True))


def _cell(name: str, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:#x}" if name in _IN_HEX and value >= 0 else str(value)
    return escaped(str(value))
