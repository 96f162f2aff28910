"""Root in a pid namespace of its own, where BPF programs would see other ids than the recorder does."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.conftest import Require
from tests.live.helpers import at_mapping, cowscope_command, one_line, shown

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

PAGES = 600


def run_inside(*arguments: str | Path, require: Require) -> subprocess.CompletedProcess[str]:
    """Run cowscope as process 1 of a new pid namespace with its own /proc."""
    inside = ["unshare", "--pid", "--fork", "--mount-proc"]
    require(
        not subprocess.run([*inside, "true"], check=False, capture_output=True).returncode, "pid namespaces"
    )
    command = [*inside, *map(str, cowscope_command(*arguments))]
    return subprocess.run(command, check=False, capture_output=True, text=True)


def test_faults_come_from_perf_events(
    compiled: Callable[[str], Path], tmp_path: Path, require: Require
) -> None:
    """By default, and as exact as ever: the ids of the tables are those that /proc shows inside."""
    out = tmp_path / "r.cow"
    done = run_inside(
        "run", "-q", "-o", out, "--", compiled("known"), "child-first", str(PAGES), require=require
    )
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
    said = shown(out, "mapping")
    pages = at_mapping(said)
    assert (pages["copied"], pages["reused"]) == (PAGES, PAGES // 2)
    assert said["recording"]["source"] == "tracepoint"


def test_programs_asked_for_by_name_are_refused(tmp_path: Path, require: Require) -> None:
    """77 and one line; no directory is left."""
    done = run_inside("run", "-q", "-o", tmp_path / "r.cow", "--source", "bpf", "--", "true", require=require)
    assert (done.returncode, one_line(done.stderr)) == (77, True), done.stderr
    assert not (tmp_path / "r.cow").exists()
