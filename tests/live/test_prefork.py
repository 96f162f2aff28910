"""The demo as users meet it first: a Python parent with a catalogue in memory and forked workers that walk it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from tests.live.helpers import cowscope_run, label, shown, value

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

ITEMS = 300_000
WORKERS = 4
COLLECTOR = {
    "gc_reset_refs",
    "gc_decref",
    "gc_get_refs",
    "gc_set_refs",
    "gc_clear_collecting",
    "gc_list_append",
    "gc_list_clear",
    "gc_list_init",
    "gc_list_merge",
    "gc_list_move",
    "_PyGCHead_SET_NEXT",
    "_PyGCHead_SET_PREV",
    "_PyGCHead_SET_REFS",
    "move_unreachable",
    "subtract_refs",
    "update_refs",
    "visit_decref",
    "visit_reachable",
    "untrack_dicts",
    "untrack_tuples",
    "deduce_unreachable",
    "gc_collect_main",
}
"""Functions of CPython's Modules/gcmodule.c that write into the heads of collected objects."""


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What `show` says of the demo without and with gc.freeze()."""
    said = {}
    for name, more in (("plain", []), ("frozen", ["--freeze"])):
        out = tmp_path_factory.mktemp("prefork") / "r.cow"
        demo = [sys.executable, "-m", "cowscope.demo.prefork", f"--items={ITEMS}", f"--workers={WORKERS}"]
        done = cowscope_run("run", "-q", "-o", out, "--", *demo, *more)
        assert (done.status, done.stdout.split()[0]) == (0, str(WORKERS)), done.stderr
        said[name] = shown(out, "function", "process")
    return said


def copies_by(said: dict[str, Any], functions: set[str]) -> int:
    """Pages that these functions copied."""
    return sum(row["copied"] for row in said["by"]["function"] if row["name"] in functions)


@pytest.mark.parametrize("name", ["plain", "frozen"])
def test_everything_was_seen(name: str, recordings: dict[str, dict[str, Any]]) -> None:
    """Nothing is lost, all workers are there, and censuses find the copies that the faults tell of."""
    said = recordings[name]
    assert value(said, "lost_events") == 0
    assert said["counts"]["forks"] == WORKERS
    assert said["counts"]["unknown_faults"] == 0
    assert label(said, "shared_at_fork_pages") == "exact"
    gap = said["reconciliation"]["difference_pages"]
    assert said["reconciliation"]["processes"] > 0
    assert gap == 0 or any(item["what"] == "mapped once" for item in said["differences"])


@pytest.mark.parametrize("name", ["plain", "frozen"])
def test_a_walk_copies_what_it_only_reads(name: str, recordings: dict[str, dict[str, Any]]) -> None:
    """Looking at a dict counts a reference in it, so a walk copies the pages of all the dicts that it meets.

    Every item has a dict object of 64 bytes (16 of them the collector's), 64 of which fit a page of 4 KiB; a
    request meets every tenth, hence every such page. The workers do 8 requests for 10 residues mod 10 only,
    but one is enough. A page that several workers write is copied by each but the last of its sharers, and the
    parent, which never writes them while they live, remains one: so each worker that served at least one
    request copied all. At least one worker did.
    """
    said = recordings[name]
    pages_of_dicts = ITEMS // (4096 // 64)
    workers = sorted(row["copied"] for row in said["by"]["process"] if row["shared_at_fork"] is not None)
    assert len(workers) == WORKERS
    assert workers[-1] >= pages_of_dicts
    first = max(said["by"]["function"], key=lambda row: row["copied"])
    assert "libpython" in first["detail"] or "python" in Path(first["detail"]).name
    assert not first["name"].startswith("+"), "the interpreter's functions have names"


def test_freeze_spares_what_only_the_collector_would_write(recordings: dict[str, dict[str, Any]]) -> None:
    """gc.freeze() takes the parent's objects out of the collector's lists, so a collection in a worker leaves
    their heads alone: its functions copy fewer pages, and so does everybody together.

    It does not help against reference counts: these are most of the copies with it as without.
    """
    plain, frozen = recordings["plain"], recordings["frozen"]
    assert 0 < copies_by(frozen, COLLECTOR) < copies_by(plain, COLLECTOR)
    assert value(frozen, "copied_pages") < value(plain, "copied_pages")
