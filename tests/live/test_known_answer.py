"""Programs whose copies and reuses follow from arithmetic: what cowscope says of them is exactly that.

n sharers that all write a page make n - 1 copies, and the last one reuses the original (kernel-cow.md R2.2).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from tests.live.helpers import (
    BASE,
    Program,
    at_mapping,
    cowscope_command,
    dumped,
    label,
    looked_at,
    record_gated,
    shown,
    wait_until,
)

from cowscope.units import PAGE_SIZE

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

PAGES = 600
HALF = PAGES // 2
BY_RULE = "decided by rule alone"


@dataclass(frozen=True)
class Case:
    """A scenario of known.c and its arithmetic, for PAGES pages; `forks` are those that share memory by copy."""

    scenario: str
    copied: int
    reused: int
    forks: int = 1
    new: int = 0


CASES = (
    # The child copies half; the parent finds those left to it, and copies the half that the child still maps.
    Case("child-first", copied=HALF + HALF, reused=HALF),
    # The parent copies all; the child is then alone with the originals.
    Case("parent-first", copied=PAGES, reused=HALF),
    Case("three-children", copied=3 * PAGES, reused=PAGES, forks=3),
    # Grandchild, child, parent: the first two copy, the last one is left.
    Case("grandchild", copied=2 * PAGES, reused=PAGES, forks=2),
    Case("child-exits", copied=0, reused=PAGES),
    Case("child-unmaps", copied=HALF, reused=HALF),
    Case("child-discards", copied=HALF, reused=HALF),
    # A read copies nothing, so the parent's write has to.
    Case("child-reads", copied=PAGES, reused=0),
    # exec leaves everything behind.
    Case("child-execs", copied=0, reused=PAGES),
    # The parent's one write before the fork replaces the zero page, the child's of that page copies; its others
    # replace the zero page too.
    Case("zero-page", copied=1, reused=0, new=1 + PAGES - 1),
    # One address space: nothing was write-protected, so nobody ever faults.
    Case("vfork", copied=0, reused=0, forks=0),
)


def check_all_is_exact(said: dict[str, Any]) -> None:
    """Nothing lost, the kernel's count of shared pages confirmed by ours, labels that say so."""
    assert said["recording"]["lost"] == {}
    assert label(said, "shared_at_fork_pages") == "exact"
    assert [item for item in said["differences"] if item["what"] != "overruled"] == []
    assert said["reconciliation"]["difference_pages"] == 0
    figure = said["totals"]["copied_pages"]
    assert (figure["label"] == "exact") == (figure["reason"] == "")
    known = (BY_RULE, "without a fault to copy them")
    assert all(any(text in part for text in known) for part in filter(None, figure["reason"].split("; ")))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of one page and PAGES pages, in the page cache. Made here: the page cache's pages would look like copies."""
    path = tmp_path / "pages"
    path.write_bytes(b"x" * (1 + PAGES) * PAGE_SIZE)
    return path


@pytest.mark.parametrize("source", ["bpf", "tracepoint"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.scenario)
def test_pages_of_the_mapping(
    case: Case, source: str, compiled: Callable[[str], Path], tmp_path: Path
) -> None:
    """Copies, reuses and zero-fills of the mapping equal the arithmetic, and all else is known exactly."""
    out = tmp_path / "r.cow"
    done = record_gated(out, compiled("known"), case.scenario, str(PAGES), options=["--source", source])
    assert (done.status, done.stdout) == (0, "done\n"), done.stderr
    said = shown(out, "mapping")
    pages = at_mapping(said)
    assert (pages["copied"], pages["reused"], pages["new"]) == (case.copied, case.reused, case.new)
    assert said["counts"]["forks"] == case.forks
    check_all_is_exact(said)


def test_a_sparse_child_that_exits(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """8 TiB with 2,000 pages in them: the recorder looks at the parent and never holds on to the child's pages, so
    that the parent reuses them all when the child has gone, as it does unobserved."""
    out, pages = tmp_path / "r.cow", 2_000
    command = cowscope_command(
        "run", "-q", "-o", out, "--", compiled("known"), "sparse-child-exits", str(pages)
    )
    with Program(command, more_environment={"KNOWN_GATED": "1"}) as program:
        child = int(program.line().removeprefix("forked "))
        wait_until(lambda: looked_at(out), "a census")
        assert child not in looked_at(out)
        program.send("g")
        assert program.end().status == 0
    said = shown(out, "mapping")
    found = at_mapping(said)
    assert (found["copied"], found["reused"]) == (0, pages)
    assert said["recording"]["missed_census"] == 1
    assert label(said, "shared_at_fork_pages") == "exact"
    figure = said["totals"]["still_shared_pages"]
    assert (figure["label"], "1 children had no census" in figure["reason"]) == ("estimate", True)


def test_shared_at_fork_holds_the_mapping(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """Each of three forks shares the whole mapping, and the same few pages of stack and data besides.

    Two recordings that differ in nothing but the size of the mapping tell it apart from the rest.
    """
    shared = []
    for pages in (PAGES, 2 * PAGES):
        out = tmp_path / f"{pages}.cow"
        assert record_gated(out, compiled("known"), "three-children", str(pages)).status == 0
        shared.append([int(row["anonymous_pages"]) for row in dumped(out, "forks")])
    # Where in a page the stack begins is random, and so is whether what is used of it touches one page more. All
    # else begins at a page.
    assert all(abs(large - small - PAGES) <= 1 for small, large in zip(*shared, strict=True))


def test_private_file(compiled: Callable[[str], Path], file: Path, tmp_path: Path) -> None:
    """Pages that were private copies by the fork are copied; those still the file's come new from the file."""
    out = tmp_path / "r.cow"
    assert record_gated(out, compiled("known"), "private-file", str(PAGES), file).status == 0
    said = shown(out, "mapping")
    assert at_mapping(said, str(file)) == {
        "copied": HALF,
        "reused": 0,
        # The parent's own writes before the fork, and the child's of the other half after it.
        "new": HALF + HALF,
        "other": 0,
    }
    check_all_is_exact(said)


def test_shared_memory_is_never_copied(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """Writes of parent and child to MAP_SHARED memory are seen, and none of them is a copy or a reuse."""
    out = tmp_path / "r.cow"
    done = record_gated(out, compiled("known"), "shared-memory", str(PAGES), options=["--first-touch"])
    assert done.status == 0
    pages = at_mapping(shown(out, "mapping"), "/dev/zero (deleted)")
    assert (pages["copied"], pages["reused"], pages["new"]) == (0, 0, 0)
    # The parent fills it page by page. The child's first touch maps a window of up to 16 pages that are there.
    assert PAGES + PAGES // 16 <= pages["other"] <= 2 * PAGES


def test_the_kernels_own_writes_are_copies_too(
    compiled: Callable[[str], Path], file: Path, tmp_path: Path
) -> None:
    """read(2) into shared pages copies them like the program's own writes, and the kernel is named as writer."""
    out = tmp_path / "r.cow"
    assert record_gated(out, compiled("known"), "kernel-writes", str(PAGES), file).status == 0
    said = shown(out, "mapping")
    pages = at_mapping(said)
    assert (pages["copied"], pages["reused"]) == (HALF + HALF, HALF)
    check_all_is_exact(said)
    start, end = BASE, BASE + PAGES * PAGE_SIZE
    by_kernel = {
        int(row["address"], 16) // PAGE_SIZE
        for row in dumped(out, "faults")
        if start <= int(row["address"], 16) < end and "user" not in row["access"]
    }
    assert len(by_kernel) == HALF


def test_what_the_child_leaves_is_told_apart(compiled: Callable[[str], Path], tmp_path: Path) -> None:
    """Pages that a child unmapped count as dropped, those that it kept and never wrote as still shared or alone."""
    out = tmp_path / "r.cow"
    assert record_gated(out, compiled("known"), "child-unmaps", str(PAGES)).status == 0
    said = shown(out)
    totals = {key: figure["value"] for key, figure in said["totals"].items()}
    assert totals["dropped_pages"] == HALF
    # The child wrote none of the mapping itself, so what it had at the fork ended in one of these, but for what
    # it wrote of its stack and data: at most its few copies and reuses outside the mapping.
    outside = totals["copied_pages"] + totals["reused_pages"] - PAGES
    kept = totals["still_shared_pages"] + totals["left_alone_pages"]
    assert 0 <= totals["shared_at_fork_pages"] - HALF - kept <= outside
