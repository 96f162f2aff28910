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
    """What `show` says of the demo without and with gc.freeze(), of all workers and of one with one request."""
    said = {}
    for name, workers, more in (
        ("plain", WORKERS, []),
        ("frozen", WORKERS, ["--freeze"]),
        ("one plain", 1, ["--requests=1"]),
        ("one frozen", 1, ["--requests=1", "--freeze"]),
    ):
        out = tmp_path_factory.mktemp("prefork") / "r.cow"
        demo = [sys.executable, "-m", "cowscope.demo.prefork", f"--items={ITEMS}", f"--workers={workers}"]
        done = cowscope_run("run", "-q", "-o", out, "--", *demo, *more)
        assert (done.status, done.stdout.split()[0]) == (0, str(workers)), done.stderr
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
    request meets a tenth of them, which lie together, as they were made. A page that several workers write is
    copied by each but the last of its sharers, and the parent, which never writes them while they live, remains
    one: so each worker that served at least one request copied as many. At least one worker did.
    """
    said = recordings[name]
    pages_of_dicts = ITEMS // 10 // (4096 // 64)
    workers = sorted(row["copied"] for row in said["by"]["process"] if row["shared_at_fork"] is not None)
    assert len(workers) == WORKERS
    assert workers[-1] >= pages_of_dicts
    first = max(said["by"]["function"], key=lambda row: row["copied"])
    assert "libpython" in first["detail"] or "python" in Path(first["detail"]).name
    assert not first["name"].startswith("+"), "the interpreter's functions have names"


def test_freeze_spares_what_only_the_collector_would_write(recordings: dict[str, dict[str, Any]]) -> None:
    """gc.freeze() takes the parent's objects out of the collector's lists, so a collection in a worker leaves
    their heads alone: its functions copy fewer pages, and so does the worker altogether.

    One worker with one request walks a tenth of the items and then collects, with freeze as without, so nothing
    else differs; with several workers chance decides who serves how much. Without freeze the collection writes
    into the head of each item's dict, of which 64 at most fit a page: of the nine tenths that the walk did not
    meet, it copies at least ITEMS * 9 / 10 / 64 pages, which freeze spares.
    """
    plain, frozen = recordings["one plain"], recordings["one frozen"]
    least = ITEMS * 9 // 10 // 64
    assert copies_by(plain, COLLECTOR) - copies_by(frozen, COLLECTOR) >= least
    # In the worker alone: what the parent writes meanwhile, at its end too, is not the same in both.
    in_worker = [
        next(row["copied"] for row in said["by"]["process"] if row["shared_at_fork"] is not None)
        for said in (plain, frozen)
    ]
    assert in_worker[0] - in_worker[1] >= least
