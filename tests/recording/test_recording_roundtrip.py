"""Writer and reader: every table comes back as it went, and what is no recording says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.errors import BadRecording
from cowscope.recording.journal import raw_directory
from cowscope.recording.meta import Host, Meta
from cowscope.recording.reader import open_recording
from cowscope.recording.schema import FORMAT_MAJOR, TABLES, empty, from_rows
from cowscope.recording.writer import write_meta, write_table

ODD = [
    "",
    "plain",
    "\x1b[31mred\x1b[0m",
    "two\nlines\ttab\r",
    "\0nul",
    "naïve ✓ 牛",
    "'; DROP TABLE x; --",
    "\\x80",
]
BYTES_THAT_ARE_NO_TEXT = b"caf\xe9 \xff".decode("utf-8", "surrogateescape")


def extreme(sql: str, index: int) -> object:
    """Values at the edges of a column's type."""
    edges: dict[str, tuple[object, ...]] = {
        "UBIGINT": (0, (1 << 64) - 1, 1 << 63),
        "BIGINT": (-1, (1 << 63) - 1, -(1 << 63)),
        "INTEGER": (-1, (1 << 31) - 1, -(1 << 31)),
        "UTINYINT": (0, 255, 128),
        "BOOLEAN": (False, True, False),
        "VARCHAR": tuple(ODD),
    }
    return edges[sql][index % len(edges[sql])]


@pytest.mark.parametrize("table", TABLES)
def test_every_table_comes_back_as_it_went(table: str, tmp_path: Path) -> None:
    """All types at their edges, and text that would steer a terminal or a query."""
    rows = [tuple(extreme(column.sql, i) for column in TABLES[table]) for i in range(len(ODD))]
    columns = from_rows(table, rows)
    write_table(tmp_path, table, columns)
    write_meta(tmp_path, Meta())
    back = open_recording(tmp_path).table(table)
    assert list(back) == [column.name for column in TABLES[table]]
    for column in TABLES[table]:
        assert back[column.name].dtype == column.dtype
        assert back[column.name].tolist() == columns[column.name].tolist()


@pytest.mark.parametrize("table", TABLES)
def test_a_table_without_rows_comes_back_with_its_types(table: str, tmp_path: Path) -> None:
    """Nothing recorded is no error."""
    write_table(tmp_path, table, empty(table))
    write_meta(tmp_path, Meta())
    back = open_recording(tmp_path).table(table)
    assert {name: (values.dtype, len(values)) for name, values in back.items()} == {
        column.name: (column.dtype, 0) for column in TABLES[table]
    }


def test_bytes_that_are_no_text_become_escapes(tmp_path: Path) -> None:
    """Parquet holds UTF-8 alone; what a process called itself can still be seen."""
    write_table(tmp_path, "symbols", from_rows("symbols", [(0, BYTES_THAT_ARE_NO_TEXT, 0, "f")]))
    write_meta(tmp_path, Meta())
    assert open_recording(tmp_path).table("symbols")["file"].tolist() == ["caf\\xe9 \\xff"]


@given(st.text())
@settings(max_examples=25, deadline=None)
def test_any_text_survives(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever Unicode there is, but for lone surrogates."""
    directory = tmp_path_factory.mktemp("text")
    write_table(directory, "symbols", from_rows("symbols", [(0, text, 0, text)]))
    write_meta(directory, Meta())
    assert open_recording(directory).table("symbols")["function"].tolist() == [text]


@pytest.mark.parametrize("name", ["it's.cow", "web[1]*?.cow", "naïve {a,b}.cow", "with space", "=x"])
def test_a_directory_may_have_any_name(tmp_path: Path, name: str) -> None:
    """Names are neither patterns nor SQL."""
    directory = tmp_path / name
    directory.mkdir()
    write_table(directory, "symbols", from_rows("symbols", [(0, "a", 1, "b")]))
    write_meta(directory, Meta())
    assert open_recording(directory).table("symbols")["code"].tolist() == [0]


def test_meta_comes_back_as_it_went(tmp_path: Path) -> None:
    """Tuples, None and nested facts included."""
    meta = Meta(
        host=Host(kernel="6.18", cpus=2, exact_map_counts=False),
        command=("a b", "\x1b[31m", "\udce9"),
        exit_status=None,
        lost={"fault": 3, "map": 4},
        notes=("x",),
    )
    write_meta(tmp_path, meta)
    assert open_recording(tmp_path).meta == meta
    assert meta.lost_events == 7


def changed_meta(tmp_path: Path, **keys: Any) -> Path:
    """A recording whose meta.json has other `keys`."""
    document = json.loads(Meta().to_json()) | keys
    (tmp_path / "meta.json").write_text(json.dumps(document))
    return tmp_path


def test_another_major_version_is_refused_and_both_are_named(tmp_path: Path) -> None:
    """The reader knows what to look for, and what the writer needs."""
    theirs = FORMAT_MAJOR + 1
    with pytest.raises(BadRecording, match=rf"format {theirs}\.7, .* reads {FORMAT_MAJOR}\.x"):
        open_recording(changed_meta(tmp_path, format={"major": theirs, "minor": 7}))


def test_keys_of_a_later_minor_version_are_passed_over(tmp_path: Path) -> None:
    """At the top and in the host's facts."""
    path = changed_meta(
        tmp_path,
        format={"major": FORMAT_MAJOR, "minor": 99},
        invented_later=[1],
        host={"kernel": "7.0", "moon": "full"},
    )
    assert open_recording(path).meta.host == Host(kernel="7.0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"format": 1}',
        '{"format": {"major": "x", "minor": 0}}',
        '{"format": {"major": Infinity, "minor": 0}}',
        '{"format": {"major": 1, "minor": 0}}',
        '{"format": {"major": 1, "minor": 0}, "host": null}',
        '{"format": {"major": 1, "minor": 0}, "host": []}',
    ],
)
def test_a_damaged_meta_is_no_traceback(tmp_path: Path, text: str) -> None:
    """Whatever is wrong with it, the file is named."""
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(BadRecording, match=r"meta\.json is damaged"):
        open_recording(tmp_path)


def test_a_meta_that_is_no_text_is_no_traceback(tmp_path: Path) -> None:
    """Bytes that are no UTF-8."""
    (tmp_path / "meta.json").write_bytes(b"\xff\xfe")
    with pytest.raises(BadRecording, match="cannot read"):
        open_recording(tmp_path)


def test_what_is_no_recording(tmp_path: Path) -> None:
    """Nothing there, a file, an empty directory, an unfinished recording: each is told as what it is."""
    with pytest.raises(BadRecording, match="does not exist"):
        open_recording(tmp_path / "nowhere")
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(BadRecording, match="a recording is a directory"):
        open_recording(file)
    with pytest.raises(BadRecording, match=r"no meta\.json"):
        open_recording(tmp_path)
    raw_directory(tmp_path).mkdir()
    with pytest.raises(BadRecording, match=f"never finished: run cowscope recover {tmp_path}"):
        open_recording(tmp_path)


def test_a_missing_table_is_named(tmp_path: Path) -> None:
    """Incomplete is something else than damaged."""
    write_meta(tmp_path, Meta())
    with pytest.raises(BadRecording, match=r"is incomplete: faults\.parquet is missing"):
        open_recording(tmp_path).table("faults")


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_cut_table_is_damaged(tmp_path: Path, kept: float) -> None:
    """Wherever it was cut."""
    write_table(tmp_path, "symbols", from_rows("symbols", [(i, f"file{i}", i, "f") for i in range(100)]))
    write_meta(tmp_path, Meta())
    file = tmp_path / "symbols.parquet"
    file.write_bytes(file.read_bytes()[: int(file.stat().st_size * kept)])
    with pytest.raises(BadRecording, match=r"symbols\.parquet is damaged"):
        open_recording(tmp_path).table("symbols")


def test_a_table_with_other_columns_is_damaged(tmp_path: Path) -> None:
    """A file under another's name."""
    write_table(tmp_path, "symbols", empty("symbols"))
    (tmp_path / "symbols.parquet").rename(tmp_path / "forks.parquet")
    write_meta(tmp_path, Meta())
    with pytest.raises(BadRecording, match=r"forks\.parquet is damaged"):
        open_recording(tmp_path).table("forks")


def test_a_table_that_the_format_lacks_is_a_key_error(tmp_path: Path) -> None:
    """The caller's mistake, not the recording's."""
    write_meta(tmp_path, Meta())
    with pytest.raises(KeyError):
        open_recording(tmp_path).table("secrets")


def test_a_failed_write_leaves_the_old_table_whole(tmp_path: Path) -> None:
    """And nothing half beside it."""
    write_table(tmp_path, "symbols", from_rows("symbols", [(0, "old", 0, "f")]))
    write_meta(tmp_path, Meta())
    (tmp_path / ".symbols.parquet.partial").mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - DuckDB's own words follow
        write_table(tmp_path, "symbols", from_rows("symbols", [(1, "new", 0, "f")]))
    assert open_recording(tmp_path).table("symbols")["file"].tolist() == ["old"]


def test_rows_and_columns_agree() -> None:
    """`from_rows` keeps order and types; a row of another length is refused."""
    columns = from_rows("forks", [(1, 0, 1, False, 2, 3, 4, True)])
    assert {name: values.dtype for name, values in columns.items()} == {
        c.name: c.dtype for c in TABLES["forks"]
    }
    assert np.concatenate([values.astype(np.int64) for values in columns.values()]).tolist() == [
        1,
        0,
        1,
        0,
        2,
        3,
        4,
        1,
    ]
    with pytest.raises(ValueError, match="zip"):
        from_rows("forks", [(1, 0)])
