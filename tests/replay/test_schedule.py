"""What happens between faults, in which order."""

from __future__ import annotations

from tests.replay.recorded import OWN, SHARED, WRITE_ABSENT, Recorded

from cowscope.recording.schema import Operation
from cowscope.replay.schedule import Kind, schedule


def steps(recorded: Recorded) -> list[tuple[int, str, int]]:
    """Time, kind and row of each step."""
    return [(step.time_ns, step.kind.name, step.row) for step in schedule(recorded.tables())]


def test_at_one_instant_a_look_comes_first_and_a_fork_last() -> None:
    """Censuses see what was; forks hand down what then is."""
    recorded = Recorded()
    recorded.process(0)
    recorded.map(0, 0, 100, 110, to=50)
    recorded.map(0, 50, 200, 210)
    recorded.fork(50, 0, 1, inherit=False)
    recorded.operation(50, 0, Operation.UNMAP, 100, 1)
    recorded.census(50, 0, (100, 1, OWN), (101, 1, SHARED))
    assert steps(recorded) == [
        (0, "PLACE", 0),
        (50, "CENSUS", 0),
        (50, "OPERATION", 0),
        (50, "PLACE", 1),
        (50, "REMOVE", 0),
        (50, "FORK", 0),
    ]
    assert [kind.name for kind in sorted(Kind)] == ["CENSUS", "OPERATION", "PLACE", "REMOVE", "FORK"]


def test_what_a_fork_hands_down_is_not_placed_again() -> None:
    """The fork brings it; what the child maps later is placed."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1)
    recorded.map(1, 150, 40, 50)
    assert steps(recorded) == [(0, "PLACE", 0), (100, "FORK", 0), (150, "PLACE", 2)]


def test_what_exec_and_exit_clear_is_not_removed_one_by_one() -> None:
    """The operation does it, and says what stood there."""
    recorded = Recorded()
    recorded.process(0)
    recorded.map(0, 0, to=100)
    recorded.map(0, 0, 40, 50, to=200)
    recorded.operation(100, 0, Operation.EXEC)
    recorded.operation(200, 0, Operation.EXIT)
    assert [step[1] for step in steps(recorded)] == ["PLACE", "PLACE", "OPERATION", "OPERATION"]


def test_a_fault_of_the_same_instant_comes_after_the_steps() -> None:
    """A mapping made at its time is there for it."""
    recorded = Recorded()
    recorded.process(0)
    recorded.map(0, 10)
    recorded.fault(10, 0, 16, WRITE_ABSENT)
    assert recorded.replay().mapping.tolist() == [0]
