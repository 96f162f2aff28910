"""Children too many, too short-lived, or of a pid that was used before; and names that steer a terminal."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    ROUNDS_PAGES,
    ROUNDS_STATUS,
    Compiled,
    Program,
    at_mapping,
    cowscope_command,
    cowscope_run,
    dumped,
    ended,
    environment,
    label,
    pid_in,
    record,
    recorded_rounds,
    shown,
    value,
)

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]


def test_many_children(compiled: Compiled, tmp_path: Path) -> None:
    """Of 5,000 children that live for a moment each is counted, and what its fork shared by the kernel's count."""
    out, n = tmp_path / "r.cow", 5_000
    assert record(out, compiled("swarm"), str(n)).status == 0
    said = shown(out)
    assert said["counts"]["forks"] == n
    assert said["counts"]["processes"] == n + 1
    assert value(said, "lost_events") == 0
    assert label(said, "shared_at_fork_pages") == "exact"
    pages = [int(row["anonymous_pages"]) for row in dumped(out, "forks")]
    assert value(said, "shared_at_fork_pages") == sum(pages)
    # The parent does the same each time, so after its first turn each fork shares the same pages.
    assert len(set(pages[2:])) == 1
    assert pages[2] > 0


def test_children_that_vanish_before_they_are_read(compiled: Compiled, tmp_path: Path) -> None:
    """The recorder is stopped while ten children live and die, so it can look at none of them: all are counted,
    what they shared is known from the kernel, and what is left of it is told as an estimate."""
    out, n = tmp_path / "r.cow", 10
    with recorded_rounds(compiled, out) as program:
        program.line()
        program.signal(signal.SIGSTOP)
        for _ in range(n):
            program.ask("s")
        program.signal(signal.SIGCONT)
        assert program.end().status == ROUNDS_STATUS
    said = shown(out)
    assert said["recording"]["missed_census"] == n
    assert said["counts"]["forks"] == n
    assert label(said, "shared_at_fork_pages") == "exact"
    assert value(said, "shared_at_fork_pages") >= n * ROUNDS_PAGES
    assert label(said, "still_shared_pages") == "estimate"


def test_nobody_can_be_looked_at(compiled: Compiled, tmp_path: Path) -> None:
    """Where parent and child are gone before a census, copies are still the kernel's word, and writes that no
    allocation followed are reuse of what the fork shared: right to the page, but said to be an estimate."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        pid = pid_in(program.line())
        program.signal(signal.SIGSTOP)
        program.ask("r")
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert program.line() == "bye"
        assert ended(pid)
        program.process.stdin = None
        program.signal(signal.SIGCONT)
        assert program.end().status == ROUNDS_STATUS
    said = shown(out, "mapping")
    pages = at_mapping(said)
    assert (pages["copied"], pages["reused"]) == (ROUNDS_PAGES, ROUNDS_PAGES)
    assert label(said, "reused_pages") == "estimate"
    assert label(said, "shared_at_fork_pages") == "exact"


def test_a_pid_used_twice(compiled: Compiled, tmp_path: Path, require: Callable[[object, str], None]) -> None:
    """Two processes of one pid are two processes. In a pid namespace of its own nobody else takes the pid."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    able = shutil.which("unshare") and subprocess.run([*unshare, "true"], check=False).returncode == 0
    require(able, "needs unshare and the right to make a pid namespace")
    out = tmp_path / "r.cow"
    command = cowscope_command("run", "-q", "-o", out, "--", compiled("swarm"), "3", "again")
    done = subprocess.run(
        [*unshare, *command], capture_output=True, env=environment(), timeout=PATIENCE_S, check=True
    )
    first, second = done.stdout.split()
    assert first == second, "ns_last_pid brought another pid"
    processes = dumped(out, "processes")
    of_that_pid = [row for row in processes if row["pid"] == second.decode()]
    assert len(of_that_pid) == 2
    assert len({row["start_ns"] for row in of_that_pid}) == 2
    assert len(processes) == 1 + 3 + 1
    assert len({row["child"] for row in dumped(out, "forks")}) == 4


def test_vfork_in_a_pid_namespace(
    compiled: Compiled, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    """A child that shares the address space is known as one also where pids differ from the kernel's own."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    able = shutil.which("unshare") and subprocess.run([*unshare, "true"], check=False).returncode == 0
    require(able, "needs unshare and the right to make a pid namespace")
    out = tmp_path / "r.cow"
    command = cowscope_command("run", "-q", "-o", out, "--", compiled("known"), "vfork", str(ROUNDS_PAGES))
    subprocess.run([*unshare, *command], env=environment(), timeout=PATIENCE_S, check=True)
    assert [row["shares_memory"] for row in dumped(out, "forks")] == ["yes"]
    assert shown(out)["counts"]["forks"] == 0


def test_hostile_names(compiled: Compiled, tmp_path: Path) -> None:
    """No view hands on what steers a terminal: escape codes, newlines and bytes that are no UTF-8."""
    evil = os.fsdecode(b"\x1b[31mred\nnext\xff\xfe")
    program_file = tmp_path / evil
    shutil.copy(compiled("rounds"), program_file)
    out = tmp_path / "r.cow"
    command = cowscope_command(
        "run", "-o", out, "--", program_file, str(ROUNDS_PAGES), "0", evil, "\x9b31m\r"
    )
    with Program(command) as program:
        program.line()
        program.ask("n")
        program.ask("r")
        done = program.end()
    assert done.status == ROUNDS_STATUS
    views = [done.stderr]
    for arguments in (("show", out), ("show", out, "--by=process", "--csv"), ("dump", out, "processes")):
        printed = cowscope_run(*arguments)
        assert printed.status == 0, printed.stderr
        views.append(printed.stdout)
    for view in views:
        assert "red" in view
        assert not {
            character for character in view if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
        } - {
            "\n",
            "\t",
        }
        assert "\nnext" not in view
    raw = cowscope_run("show", out, "--json").stdout
    assert "\x1b" not in raw
    said = json.loads(raw)
    assert len(said["by"]["process"]) == 2
    assert len(dumped(out, "processes")) == 2
