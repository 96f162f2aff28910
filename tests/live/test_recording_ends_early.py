"""The recorder killed, out of room or out of time: the program never suffers, and what was recorded is told."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    ROUNDS_PAGES,
    ROUNDS_STATUS,
    Compiled,
    at_mapping,
    cowscope_run,
    ended,
    fault_bytes,
    label,
    one_line,
    pid_in,
    recorded_rounds,
    shown,
    value,
    wait_until,
)

from cowscope.recorder.channels import RING_BYTES, Channel
from cowscope.recorder.setup import FAULT_BYTES, fitting_rings
from cowscope.recording.journal import raw_directory

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

FAULT = FAULT_BYTES["tracepoint"]


def test_recorder_killed(compiled: Compiled, tmp_path: Path) -> None:
    """The program goes on and ends by itself; show names recover; recover brings back all that was flushed."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        pid = pid_in(program.line())
        program.ask("r")
        # The child's copies and the parent's reuses.
        wait_until(lambda: fault_bytes(out) >= 2 * ROUNDS_PAGES * FAULT, "the flush of a round")
        program.signal(signal.SIGKILL)
        program.process.wait(PATIENCE_S)
        program.ask("r")
        done = program.end()
    assert (done.status, done.stdout) == (128 + signal.SIGKILL, "bye\n")
    assert ended(pid)
    refused = cowscope_run("show", out)
    assert (refused.status, one_line(refused.stderr)) == (65, True)
    assert f"cowscope recover {out}" in refused.stderr
    recovered = cowscope_run("recover", out)
    assert recovered.status == 0, recovered.stderr
    said = shown(out, "mapping")
    assert said["recording"]["recovered"]
    assert label(said, "copied_pages") != "exact"
    assert "the recorder died" in said["totals"]["copied_pages"]["reason"]
    pages = at_mapping(said)
    # One round is on disk, and of the second nothing can be: it began when the recorder was gone.
    assert pages["copied"] == ROUNDS_PAGES
    assert cowscope_run("recover", out).status == 65


def test_journal_cut_off(compiled: Compiled, tmp_path: Path) -> None:
    """A last chunk of the journal that is cut off costs that chunk alone."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        program.line()
        program.ask("r")
        wait_until(lambda: fault_bytes(out) >= 2 * ROUNDS_PAGES * FAULT, "the flush of a round")
        program.signal(signal.SIGKILL)
        program.process.wait(PATIENCE_S)
        program.end()
    journal = raw_directory(out) / "journal"
    os.truncate(journal, journal.stat().st_size - 5)
    assert cowscope_run("recover", out).status == 0
    assert value(shown(out), "copied_pages") >= ROUNDS_PAGES


def test_max_size(compiled: Compiled, tmp_path: Path) -> None:
    """The recording ends there and is written at once; it says so; the program goes on to its own status."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out, "--max-size", str(ROUNDS_PAGES * FAULT)) as program:
        program.line()
        program.ask("r")
        wait_until((out / "meta.json").exists, "the end of the recording")
        program.ask("r")
        done = program.end()
    assert done.status == ROUNDS_STATUS
    assert one_line(done.stderr)
    assert "--max-size" in done.stderr
    said = shown(out, "mapping")
    assert said["recording"]["ended"] == "size"
    assert 0 < at_mapping(said)["copied"] <= ROUNDS_PAGES


def test_duration(compiled: Compiled, tmp_path: Path) -> None:
    """The recording ends then, without a word since it was asked for; the program goes on to its own status."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out, "--duration", "0.3") as program:
        program.line()
        wait_until((out / "meta.json").exists, "the end of the recording")
        program.ask("r")
        done = program.end()
    assert (done.status, done.stderr) == (ROUNDS_STATUS, "")
    said = shown(out, "mapping")
    assert said["recording"]["ended"] == "duration"
    assert said["recording"]["ended_ns"] - said["recording"]["started_ns"] >= 300_000_000
    assert at_mapping(said)["copied"] == 0


@pytest.fixture
def small_disk(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", disk], check=False)
    require(mounted.returncode == 0, "needs to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_disk_full(compiled: Compiled, small_disk: Path) -> None:
    """The recording ends and says what to do; the program goes on to its own status; with room, recover works."""
    out = small_disk / "r.cow"
    pages = 2 * (1 << 20) // FAULT
    with recorded_rounds(compiled, out, pages=pages) as program:
        program.line()
        program.ask("r")
        program.ask("r")
        done = program.end()
    assert done.status == ROUNDS_STATUS, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr or "disk is full" in done.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    if not (out / "meta.json").exists():
        assert f"cowscope recover {out}" in done.stderr
        assert cowscope_run("recover", out).status == 0
    said = shown(out, "mapping")
    # Two MiB of faults per round cannot be on a disk of one, and those of the child come first: all of them were
    # copies, also where the disk was full before their allocations could be written.
    found = at_mapping(said)
    assert 0 < found["copied"] < pages
    assert found["reused"] == 0
    assert label(said, "copied_pages") != "exact"


@pytest.mark.parametrize(
    ("source", "rings"), [("bpf", 1.125), ("bpf", 2.5), ("tracepoint", 1.125), ("tracepoint", 3)]
)
def test_ring_overflow(source: str, rings: float, compiled: Compiled, tmp_path: Path) -> None:
    """What a stopped recorder cannot take is counted as lost, and figures are at least; the program waits for
    nobody. With many more pages than a ring holds the ring of page allocations overflows, too."""
    out = tmp_path / "r.cow"
    ring = fitting_rings(RING_BYTES)[Channel.FAULT] // FAULT
    pages = int(ring * rings)
    with recorded_rounds(compiled, out, "--source", source, pages=pages) as program:
        program.line()
        program.signal(signal.SIGSTOP)
        program.ask("r")
        program.signal(signal.SIGCONT)
        done = program.end()
    assert done.status == ROUNDS_STATUS
    said = shown(out, "mapping")
    assert value(said, "lost_events") > 0
    reason = said["totals"]["copied_pages"]["reason"]
    assert "fault events were lost" in reason
    assert ("page events were lost" in reason) == (rings > 2)
    # The rest of the reason is of a few faults of the fork itself, whatever the ring lost.
    assert label(said, "copied_pages") == ("estimate" if "pages off" in reason else "at least")
    # The ring was full of the child's copies when it overflowed; a record of a loss and the faults of the fork
    # itself took a few places: fewer than 1 in 100.
    assert ring - ring // 100 <= at_mapping(said)["copied"] <= pages
    # The fork's own count is in another ring, and nothing of that was lost.
    assert label(said, "shared_at_fork_pages") == "exact"
    assert pages <= value(said, "shared_at_fork_pages")


def test_a_running_recording_is_left_to_its_recorder(compiled: Compiled, tmp_path: Path) -> None:
    """`show` and `recover` say that it is still being recorded, and change nothing: it ends as if nobody had asked."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        program.line()
        for command in ("show", "recover"):
            done = cowscope_run(command, out)
            assert (done.status, one_line(done.stderr)) == (65, True), done.stderr
            assert "still being recorded" in done.stderr
        program.ask("r")
        assert program.end().status == ROUNDS_STATUS
    assert value(shown(out), "lost_events") == 0
