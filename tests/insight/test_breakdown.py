"""The same faults by process, mapping, function and time."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope.insight.breakdown import TIME_BINS, By, Group, breakdown, tally
from cowscope.recording.meta import Meta
from cowscope.recording.schema import NONE, Columns, from_rows
from cowscope.replay.verdicts import Fate, ForkShare, Replay, Verdict

V = Verdict
# time in s, process, mapping, code, verdict
FAULTS = [
    (0, 0, 0, 0, V.COPIED),
    (1, 1, 0, 0, V.COPIED),
    (2, 1, 1, 1, V.REUSED),
    (3, 1, 2, 1, V.ZERO_FILLED),
    (4, -1, -1, 2, V.UNKNOWN),
    (10, 1, 3, 3, V.COPIED_FROM_FILE),
]
SECOND = 1_000_000_000
META = Meta(started_ns=0, ended_ns=10 * SECOND)


def tables() -> dict[str, Columns]:
    """Two processes that write through four mappings and four pieces of code."""
    return {
        "processes": from_rows(
            "processes",
            [
                (0, 100, -1, 0, -1, -1, -1, "main", "", "main --serve"),
                (1, 101, 0, 0, -1, -1, -1, "work\x1b", "", "worker"),
            ],
        ),
        "mappings": from_rows(
            "mappings",
            [
                (0, 0, 0, -1, 0x10, 0x20, 3, False, 0, 0, "[anon]"),
                (1, 0, 0, -1, 0x30, 0x40, 3, False, 0, 0, "[heap]"),
                (2, 1, 5, -1, 0x10, 0x18, 3, False, 0, 0, "[anon]"),
                (3, 1, 0, -1, 0x50, 0x60, 3, True, 1, 0, "/data"),
                (4, 1, 0, -1, 0x70, 0x80, 3, False, 0, 0, "[never written]"),
            ],
        ),
        "symbols": from_rows(
            "symbols",
            [
                (0, "/bin/x", 16, "touch"),
                (1, "/bin/x", 48, "touch"),
                (2, "[unknown]", NONE, ""),
                (3, "/bin/stripped", 64, ""),
            ],
        ),
        "faults": from_rows(
            "faults",
            [(time * SECOND, process, 0, 0, code, 7, 0) for time, process, _, code, _ in FAULTS],
        ),
        "objects": from_rows("objects", [(0, 0, 1, 0, 24), (2, 0, 0, 16, 24), (3, 5, NONE, 0, 0)]),
        "types": from_rows("types", [(0, "dict"), (1, "float")]),
        "interpreters": from_rows("interpreters", [(0, "3.11.7", "", "", NONE)]),
        "lines": from_rows("lines", [(0, 0), (1, 0), (3, 1)]),
        "stacks": from_rows(
            "stacks", [(0, 0, "a.py", "f", 3), (0, 1, "b.py", "g", 4), (1, 0, "a.py", "h", 3)]
        ),
    }


def replay() -> Replay:
    """The verdicts, one fork and one fate."""
    return Replay(
        verdict=np.array([row[4] for row in FAULTS], np.int8),
        mapping=np.array([row[2] for row in FAULTS], np.int32),
        forks=(
            ForkShare(
                parent=0, child=1, time_ns=0, kernel_pages=-1, replay_pages=9, seen=True, before_start=False
            ),
        ),
        fates=(Fate(process=1, still_shared=4),),
        reconciliations=(),
        overruled=0,
        unforeseen=0,
    )


def groups(by: By) -> list[Group]:
    """The rows of one grouping."""
    return breakdown(by, META, replay(), tables())


def test_by_process() -> None:
    """Name with pid, command line, and what the process had by fork; unknown ones last."""
    assert groups(By.PROCESS) == [
        Group(
            name="work\x1b [101]",
            detail="worker",
            copied=1,
            reused=1,
            new=2,
            workers=1,
            shared_at_fork=9,
            still_shared=4,
        ),
        Group(name="main [100]", detail="main --serve", copied=1, workers=1),
        Group(name="unknown process", other=1),
    ]


def test_by_mapping() -> None:
    """Anonymous ones by their start, so that the parent's and the child's are one; unwritten ones not at all."""
    assert groups(By.MAPPING) == [
        Group(name="[anon] 10000", detail="private", copied=2, new=1),
        Group(name="[heap]", detail="private", reused=1),
        Group(name="/data", detail="shared", new=1),
        Group(name="unknown mapping", other=1),
    ]


def test_by_function() -> None:
    """Instructions of one function are one row; a stripped file's offset stands for the name."""
    assert groups(By.FUNCTION) == [
        Group(name="touch", detail="/bin/x", copied=2, reused=1, new=1, workers=2),
        Group(name="+0x40", detail="/bin/stripped", new=1),
        Group(name="?", detail="[unknown]", other=1),
    ]


def test_by_time() -> None:
    """Equal bins from start to end, in order, empty ones too; the last instant lies in the last bin."""
    found = groups(By.TIME)
    assert len(found) == TIME_BINS
    assert [(g.name, g.detail) for g in (found[0], found[19])] == [
        ("0.00 s", "0.50 s"),
        ("9.50 s", "10.00 s"),
    ]
    assert [i for i, g in enumerate(found) if any(g.weight)] == [0, 1, 3, 5, 7, 19]


@pytest.mark.parametrize("by", By)
def test_every_fault_is_in_one_row(by: By) -> None:
    """Nothing is lost or counted twice, whatever the grouping."""
    found = groups(by)
    sums = tuple(sum(column) for column in zip(*(group.weight for group in found), strict=True))
    assert sums == (2, 1, 2, 1)


@pytest.mark.parametrize("by", By)
def test_a_recording_without_faults_has_no_counts(by: By) -> None:
    """No division by nothing either."""
    none = {name: {key: column[:0] for key, column in columns.items()} for name, columns in tables().items()}
    nothing = Replay(
        verdict=np.zeros(0, np.int8),
        mapping=np.zeros(0, np.int32),
        forks=(),
        fates=(),
        reconciliations=(),
        overruled=0,
        unforeseen=0,
    )
    assert not any(any(group.weight) for group in breakdown(by, Meta(), nothing, none))


@given(st.lists(st.tuples(st.integers(-1, 3), st.sampled_from(list(Verdict))), max_size=50))
def test_a_tally_counts_as_one_would_by_hand(faults: list[tuple[int, Verdict]]) -> None:
    """Keys of -1 come last."""
    keys, verdicts = [key for key, _ in faults], [verdict for _, verdict in faults]
    found = tally(np.array(keys, np.int32), np.array(verdicts, np.int8), 4)
    named: dict[str, set[Verdict]] = {
        "copied": {V.COPIED},
        "reused": {V.REUSED},
        "new": {V.ZERO_FILLED, V.COPIED_FROM_FILE},
    }
    named["other"] = {V.UNKNOWN, V.FIRST_TOUCH, V.WRITE_TRACKED, V.REFUSED, V.RACED}
    for key in range(-1, 4):
        mine = [verdict for at, verdict in faults if at == key]
        expected = {name: sum(v in which for v in mine) for name, which in named.items()}
        assert found.row([key if key >= 0 else 4]) == expected
