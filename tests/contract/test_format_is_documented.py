"""The format on paper is the format in code."""

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
