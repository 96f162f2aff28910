"""JSON and CSV: keys that programs count on."""

from __future__ import annotations

import csv
import io
import json
from typing import Any

import pytest
from tests.views.findings import GROUPS, META, SHARING

from cowscope.insight.breakdown import By, Group
from cowscope.recording.schema import TABLES, from_rows
from cowscope.views.dump import lines
from cowscope.views.machine import to_csv, to_json


def document(top: int | None = None) -> dict[str, Any]:
    """The JSON, parsed."""
    parsed: dict[str, Any] = json.loads(to_json("web.cow", META, SHARING, GROUPS, top=top))
    return parsed


def test_the_keys_of_the_schema() -> None:
    """Version 1.0: keys may be added, none may go."""
    found = document()
    assert (found["schema"], found["version"]) == ("cowscope.show", "1.1")
    assert set(found) == {
        "schema", "version", "totals", "recording", "counts", "reconciliation", "differences", "by", "by_labels",
    }  # fmt: skip
    assert set(found["totals"]) == {
        "shared_at_fork_pages", "copied_pages", "reused_pages", "still_shared_pages", "new_pages",
        "lost_events", "left_alone_pages", "dropped_pages",
    }  # fmt: skip
    assert set(found["counts"]) == {"forks", "processes", "faults", "unknown_faults"}
    assert set(found["reconciliation"]) == {"processes", "pages", "difference_pages"}
    assert found["recording"]["page_size"] == 4096
    assert found["recording"]["host"]["kernel"] == "6.18"


def test_every_figure_has_its_label_and_reason() -> None:
    """Labels are the three words, and only an exact figure has no reason."""
    for figure in document()["totals"].values():
        assert set(figure) == {"value", "label", "reason"}
        assert figure["label"] in ("exact", "at least", "estimate")
        assert (figure["reason"] == "") == (figure["label"] == "exact")
    assert document()["totals"]["copied_pages"] == {
        "value": 12_345,
        "label": "at least",
        "reason": "3 fault events were lost",
    }


def test_groups_are_whole_unless_top_is_given() -> None:
    """What is not known is null; names come through as they are, for JSON itself escapes them."""
    rows = document()["by"]["process"]
    assert len(rows) == 3
    assert rows[0]["name"] == "\x1b]0;owned\x07 [101]"
    assert (rows[0]["shared_at_fork"], rows[1]["shared_at_fork"]) == (10_000, None)
    assert len(document(top=1)["by"]["process"]) == 1


def test_the_json_text_is_ascii() -> None:
    """No control character or surrogate reaches a terminal through it."""
    text = to_json("web.cow", META, SHARING, GROUPS, top=None)
    assert text.isascii()
    assert text.replace("\n", "").isprintable()


def test_csv_rows() -> None:
    """A header, a row a group, empty cells for what is not known, control characters spelt out."""
    found = list(csv.DictReader(io.StringIO(to_csv(GROUPS[By.PROCESS], SHARING))))
    assert [row["copied"] for row in found] == ["12000", "345", "0"]
    assert [row["shared_at_fork"] for row in found] == ["10000", "", ""]
    assert found[0]["name"] == "\\x1b]0;owned\\x07 [101]"
    assert found[1]["detail"] == "\\xff\\nsecond line"


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@SUM(A1)", "=cmd|'/C calc'!A0"])
def test_no_cell_is_a_formula(name: str) -> None:
    """A spreadsheet runs what begins so."""
    (row,) = csv.DictReader(io.StringIO(to_csv([Group(name=name, detail=name)], SHARING)))
    assert (row["name"], row["detail"]) == ("'" + name, "'" + name)


@pytest.mark.parametrize("name", ["+0x40", "plain", "/usr/bin/x", ""])
def test_what_is_no_formula_stays(name: str) -> None:
    """The offset that stands for a function's name too."""
    (row,) = csv.DictReader(io.StringIO(to_csv([Group(name=name)], SHARING)))
    assert row["name"] == name


def test_no_formula_passes_for_an_offset() -> None:
    """An offset is hexadecimal to its end."""
    (row,) = csv.DictReader(io.StringIO(to_csv([Group(name="+0x1+cmd|'/C calc'!A0")], SHARING)))
    assert row["name"].startswith("'")


def test_a_dump_is_one_line_a_row() -> None:
    """Names, then rows; pages and addresses in hex; text that would break the line is escaped."""
    mappings = from_rows(
        "mappings",
        [
            (0, 1, 5, -1, 0x7F00, 0x7F10, 3, True, 1, 4096, "a\tb\n\x1b"),
            (1, 1, 5, 9, 0, 1, 0, False, 0, 0, ""),
        ],
    )
    assert list(lines("mappings", mappings)) == [
        "\t".join(column.name for column in TABLES["mappings"]),
        "0\t1\t5\t-1\t0x7f00\t0x7f10\tread|write\tyes\tfile\t4096\ta\\tb\\n\\x1b",
        "1\t1\t5\t9\t0x0\t0x1\tnone\tno\tanonymous\t0\t",
    ]
    assert len(list(lines("mappings", mappings, limit=1))) == 2
