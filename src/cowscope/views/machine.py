"""Paint for programs: JSON (schema "cowscope.show", version 1.1) and CSV.

At the top of the JSON stands `totals`, each figure as `{"value", "label", "reason"}`. A minor version adds
keys, a major one changes them. `docs/show-json.md` describes every key.
"""

from __future__ import annotations

import csv
import io
import json
import re
from dataclasses import asdict, replace
from typing import Any

from cowscope.insight.breakdown import By, Group, avoidable
from cowscope.insight.labels import Figure
from cowscope.insight.sharing import Sharing
from cowscope.recording.meta import Meta
from cowscope.recording.schema import NONE
from cowscope.views.rows import row_labels
from cowscope.views.text import escaped

SCHEMA = "cowscope.show"
SCHEMA_VERSION = "1.1"

_OFFSET = re.compile(r"\+0x[0-9a-f]+")
"""Stands for the name of a function in a stripped file."""

_GROUP_FIELDS = (
    "name",
    "detail",
    "copied",
    "reused",
    "new",
    "other",
    "workers",
    "shared_at_fork",
    "still_shared",
    "from_ns",
    "to_ns",
)


def to_json(
    name: str, meta: Meta, sharing: Sharing, groups: dict[By, list[Group]], *, top: int | None
) -> str:
    """The summary as JSON text; lone surrogates of hostile names come out as escapes."""
    totals, left = sharing.totals, sharing.leftover
    document = {
        "schema": SCHEMA,
        "version": SCHEMA_VERSION,
        "totals": {
            "shared_at_fork_pages": _figure(totals.shared_at_fork),
            "copied_pages": _figure(totals.copied),
            "reused_pages": _figure(totals.reused),
            "still_shared_pages": _figure(totals.still_shared),
            "new_pages": _figure(totals.new),
            "lost_events": _figure(totals.lost_events),
            "left_alone_pages": _figure(left.alone),
            "dropped_pages": _figure(left.dropped),
        },
        "recording": {"path": name, "page_size": meta.host.page_size, **asdict(meta)},
        "counts": {
            "forks": sharing.forks,
            "processes": sharing.processes,
            "faults": sharing.faults,
            "unknown_faults": sharing.unknown,
        },
        "reconciliation": {
            "processes": sharing.reconciled_processes,
            "pages": sharing.reconciled_pages,
            "difference_pages": sharing.reconciled_difference,
        },
        **_python(sharing, groups),
        "differences": [asdict(item) for item in sharing.differences],
        "by_labels": {key: label.value for key, label in row_labels(sharing).items()},
        "by": {by.value: [_group(group) for group in rows[:top]] for by, rows in groups.items()},
    }
    return json.dumps(document, indent=2)


def _python(sharing: Sharing, groups: dict[By, list[Group]]) -> dict[str, Any]:
    """What copies of Python processes could have been avoided, where causes are told."""
    if not groups.get(By.CAUSE):
        return {}
    same, changed = avoidable(groups[By.CAUSE])
    known = sharing.totals.copied
    return {
        "python": {
            "should_be_shared_pages": _figure(replace(known, value=same)),
            "cannot_be_shared_pages": _figure(replace(known, value=changed)),
        }
    }


def to_csv(groups: list[Group], sharing: Sharing) -> str:
    """One grouping as CSV with a header; counts are pages, an empty cell is not known.

    The label of each kind of count stands in a column of its own behind them.
    """
    labels = row_labels(sharing)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([*_GROUP_FIELDS, *(f"{key}_label" for key in labels)])
    for group in groups:
        row = _group(group)
        cells = [_printable(row.get(name)) for name in _GROUP_FIELDS]
        writer.writerow([*cells, *(label.value for label in labels.values())])
    return out.getvalue()


def _figure(figure: Figure) -> dict[str, Any]:
    return {"value": figure.value, "label": figure.label.value, "reason": figure.reason}


def _group(group: Group) -> dict[str, Any]:
    return {key: (None if value == NONE and key != "name" else value) for key, value in asdict(group).items()}


def _printable(value: Any) -> Any:
    """Text with control characters written out, and no cell that a spreadsheet would run."""
    if not isinstance(value, str):
        return value
    text = escaped(value)
    return "'" + text if text[:1] in ("=", "+", "-", "@") and not _OFFSET.fullmatch(text) else text
