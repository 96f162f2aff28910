"""Each row of the table in `cowscope.replay.forks`: a census of the child that came a little late."""

from __future__ import annotations

import numpy as np
import pytest
from tests.replay.recorded import OWN, SHARED, Recorded

from cowscope.recording.schema import Allocation, Operation
from cowscope.replay.census import Census
from cowscope.replay.forks import Window, shared_pages
from cowscope.replay.verdicts import Verdict

NOTHING = np.zeros(0, np.int64)
RANGES = np.zeros((0, 2), np.int64)


def looked(**happened: object) -> tuple[list[int], list[int], list[int]]:
    """A census that finds page 16 mapped twice and pages 17, 18 once; the replay knows nothing of them.

    Gives what was shared, what is doubtful, and what had vanished.
    """
    in_file = np.isin([16, 17, 18], np.asarray(happened.pop("in_file", NOTHING)))
    known = np.asarray(happened.pop("known", NOTHING), np.int64)
    nothing: dict[str, object] = {
        "written": NOTHING,
        "copied": NOTHING,
        "copied_late": NOTHING,
        "written_by_others": NOTHING,
        "dropped": RANGES,
        "dropped_by_others": RANGES,
        "others_left": False,
    }
    census = Census(1, 110, 120, np.array([16, 17, 18]), np.array([False, True, True]), np.full(3, -1))
    found = shared_pages(census, known, in_file, Window(**{**nothing, **happened}))  # type: ignore[arg-type]
    return found.certain.tolist(), found.doubtful.tolist(), found.vanished.tolist()


@pytest.mark.parametrize(
    ("happened", "shared", "doubtful"),
    [
        ({}, [16], []),
        ({"known": [17]}, [16, 17], []),
        ({"copied": np.array([17])}, [16, 17], []),
        ({"copied": np.array([17]), "in_file": [17]}, [16], [17]),
        ({"copied_late": np.array([18]), "others_left": True}, [16], [18, 17]),
        ({"written": np.array([17])}, [16], []),
        ({"written_by_others": np.array([18])}, [16], [18]),
        ({"dropped_by_others": np.array([[18, 30]]), "others_left": True}, [16], [18, 17]),
        ({"others_left": True}, [16], [17, 18]),
    ],
)
def test_which_pages_were_shared_at_the_fork(
    happened: dict[str, object], shared: list[int], doubtful: list[int]
) -> None:
    """Mapped twice; or once, with a reason for it since the fork. Otherwise it is the child's own."""
    assert looked(**happened) == (shared, doubtful, [])


def test_a_known_page_that_the_child_lacks_had_been_lost_before() -> None:
    """Unless the child dropped it meanwhile."""
    assert looked(known=[16, 20, 21]) == ([16], [], [20, 21])
    assert looked(known=[16, 20, 21], dropped=np.array([[20, 21]])) == ([16], [], [21])


def test_a_copy_between_fork_and_census() -> None:
    """The child's write was seen to copy page 16, so it was shared; page 20 is new, and its own."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1)
    recorded.fault(105, 1, 16, allocation=Allocation.PAGE)
    recorded.census(110, 1, (16, 1, OWN), (17, 1, SHARED), (20, 1, OWN), lasts=5)
    replay = recorded.replay()
    assert replay.forks[0].replay_pages == 2
    assert (recorded.verdicts()[0].name, replay.unforeseen, replay.overruled) == ("COPIED", 0, 0)


def test_the_parent_dropped_a_page_between_fork_and_census() -> None:
    """Then the child has it alone, and it was shared all the same."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1)
    recorded.operation(105, 0, Operation.UNMAP, 16, 1)
    recorded.census(110, 1, (16, 1, OWN), (17, 1, SHARED))
    assert recorded.replay().forks[0].replay_pages == 2


def test_a_child_that_nobody_saw() -> None:
    """What its parent has soon after stands in; the share says that it was not seen."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1)
    recorded.census(120, 0, (16, 3, OWN))
    (share,) = recorded.replay().forks
    assert (share.seen, share.replay_pages) == (False, 3)


def test_a_census_after_the_childs_exec_tells_nothing_of_the_fork() -> None:
    """It looks at another program's memory."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1)
    recorded.operation(105, 1, Operation.EXEC)
    recorded.census(110, 1, (16, 9, OWN))
    (share,) = recorded.replay().forks
    assert (share.seen, share.replay_pages) == (False, 0)


@pytest.mark.parametrize(("counted", "verdict"), [(1, Verdict.COPIED), (0, Verdict.COPIED_FROM_FILE)])
def test_the_kernels_count_settles_what_is_doubtful(counted: int, verdict: Verdict) -> None:
    """The child's early copy in a private file mapping: of the fork if the kernel counted it, else of the file."""
    recorded = Recorded()
    recorded.process(0)
    recorded.map(0, 0, file=True, name="/bin/data")
    recorded.fork(100, 0, 1, pages=counted)
    recorded.fault(105, 1, 16, allocation=Allocation.PAGE)
    recorded.census(110, 1, (16, 1, OWN))
    assert recorded.verdicts() == [verdict]
