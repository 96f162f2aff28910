"""The format on paper is the format in code."""

from enum import IntFlag
from pathlib import Path

from cowscope.recording.schema import FORMAT_MAJOR, FORMAT_MINOR, TABLES

PAGE = (Path(__file__).parents[2] / "docs" / "recording-format.md").read_text(encoding="utf-8")


def test_every_column_stands_in_the_documentation() -> None:
    """Table by table, in order, with type and meaning."""
    assert f"format {FORMAT_MAJOR}.{FORMAT_MINOR}" in PAGE
    for table, columns in TABLES.items():
        section = PAGE.partition(f"## `{table}`\n")[2].partition("\n## ")[0]
        rows = [line for line in section.splitlines() if line.startswith("| `")]
        assert rows == [f"| `{c.name}` | {c.sql} | {c.meaning} |" for c in columns]


def test_every_code_stands_in_the_documentation() -> None:
    """Number and word of each, as `cowscope dump` prints it."""
    expected = [
        f"| `{table}.{column.name}` | {'flags: ' if issubclass(column.codes, IntFlag) else ''}"
        + ", ".join(f"{int(code)} `{str(code.name).lower()}`" for code in column.codes)
        + " |"
        for table, columns in TABLES.items()
        for column in columns
        if column.codes is not None
    ]
    section = PAGE.partition("| column | words |\n|---|---|\n")[2].partition("\n\n")[0]
    assert section.splitlines() == expected
