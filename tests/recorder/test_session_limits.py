"""What ends a session by itself, with probes that observe nothing."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from cowscope.recorder.channels import Channel
from cowscope.recorder.probes import Probes
from cowscope.recorder.session import Limits, Progress, Session
from cowscope.recording.journal import JournalWriter, parse_journal


class FakeProbes:
    """Rings that give up `chunks` one after another, then nothing."""

    def __init__(self, chunks: int = 0, error: OSError | None = None) -> None:
        self.bytes, self.chunks, self.error = 0, chunks, error

    def poll_fds(self) -> list[int]:
        return []

    def lines(self) -> Iterator[int]:
        return iter([0])

    def drain(self, line: int) -> bytes:
        if self.error is not None:
            raise self.error
        if self.chunks:
            self.chunks -= 1
            self.bytes += 1000
        return b""

    def watches(self, channel: Channel) -> bool:
        return channel is not Channel.PAGE

    def n_bytes(self, channel: Channel) -> int:
        return self.bytes if channel is Channel.FAULT else 0

    def n_records(self, channel: Channel) -> int:
        return self.n_bytes(channel) // 100

    def patience_s(self) -> float:
        return 0.1

    def lost(self) -> dict[str, int]:
        return {"fault": 3}

    def disable(self) -> None:
        pass


def session(directory: Path, limits: Limits, probes: FakeProbes) -> Session:
    """A session in `directory`."""
    return Session(
        directory=directory,
        probes=cast(Probes, probes),
        journal=JournalWriter(directory),
        limits=limits,
    )


def test_a_duration_ends_it(tmp_path: Path) -> None:
    """At the next turn of the loop."""
    running = session(tmp_path, Limits(duration_s=1e-9), FakeProbes())
    running.run({})
    assert running.ended == "duration"


def test_a_size_ends_it_when_the_raw_data_reach_it(tmp_path: Path) -> None:
    """Counted over journal and rings; not a turn earlier."""
    probes = FakeProbes(chunks=10)
    running = session(tmp_path, Limits(max_bytes=2500), probes)
    running.run({})
    assert (running.ended, running.raw_bytes()) == ("size", 3000)


def test_it_ends_with_its_processes_if_it_shall(tmp_path: Path) -> None:
    """As `attach` does; `run` ends with its command."""
    running = session(tmp_path, Limits(), FakeProbes())
    running.ends_with_processes = True
    running.run({})
    assert running.ended == "processes"


def test_the_first_reason_stays(tmp_path: Path) -> None:
    """What comes while it ends does not matter."""
    running = session(tmp_path, Limits(duration_s=1e-9), FakeProbes())
    running.stop("signal")
    running.stop("size")
    running.run({})
    assert running.ended == "signal"


@pytest.mark.parametrize(
    ("number", "ended"),
    [(errno.ENOSPC, "disk"), (errno.EDQUOT, "disk"), (errno.EIO, "write error: Input/output error")],
)
def test_a_disk_that_takes_no_more_ends_it_cleanly(tmp_path: Path, number: int, ended: str) -> None:
    """No traceback: everything that was written before is kept."""
    running = session(tmp_path, Limits(), FakeProbes(error=OSError(number, "Input/output error")))
    running.run({})
    assert running.ended == ended


def test_the_end_is_noted_with_what_was_lost(tmp_path: Path) -> None:
    """The journal's last chunk."""
    running = session(tmp_path, Limits(duration_s=1e-9), FakeProbes())
    running.run({})
    running.finish({"exit_status": 7})
    (note, _) = list(parse_journal((tmp_path / "journal").read_bytes()))[-1]
    assert (note["kind"], note["ended"], note["exit_status"], note["lost"]) == (
        "end",
        "duration",
        7,
        {"fault": 3},
    )


def test_progress_counts_by_bytes(tmp_path: Path) -> None:
    """No record is looked into for it."""
    told: list[Progress] = []
    running = session(tmp_path, Limits(max_bytes=2000), FakeProbes(chunks=5))
    running.on_progress = told.append
    running.run({})
    assert [(progress.faults, progress.lost) for progress in told] == [(10, 3), (20, 3)]
