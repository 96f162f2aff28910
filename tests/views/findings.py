"""Findings made by hand, with hostile names, for every kind of paint."""

from __future__ import annotations

from cowscope.insight.breakdown import By, Group
from cowscope.insight.labels import Figure, Label
from cowscope.insight.sharing import Difference, Leftover, Sharing, Totals
from cowscope.recording.meta import Host, Meta

META = Meta(
    host=Host(kernel="6.18", page_size=4096),
    command=("gunicorn", "--preload", "\x1b[2J"),
    started_ns=1_000_000_000,
    ended_ns=3_500_000_000,
    ended="command",
    lost={"fault": 3},
)

SHARING = Sharing(
    totals=Totals(
        shared_at_fork=Figure(40_000),
        copied=Figure(12_345, Label.AT_LEAST, "3 fault events were lost"),
        reused=Figure(17, Label.AT_LEAST, "3 fault events were lost"),
        still_shared=Figure(20_000, Label.ESTIMATE, "3 fault events were lost"),
        new=Figure(0, Label.AT_LEAST, "3 fault events were lost; first touches were not recorded"),
        lost_events=Figure(3),
    ),
    leftover=Leftover(alone=Figure(5), dropped=Figure(6, Label.ESTIMATE, "3 fault events were lost")),
    forks=4,
    processes=5,
    faults=13_000,
    unknown=2,
    reconciled_processes=4,
    reconciled_pages=9_000,
    reconciled_difference=-12,
    differences=(Difference("mapped once", -12, "censuses found 88 pages mapped once, the replay 100: -12"),),
)

GROUPS = {
    By.PROCESS: [
        Group(
            name="\x1b]0;owned\x07 [101]",
            detail="[bold]sh[/] -c 'rm\u202e'",
            copied=12_000,
            reused=17,
            workers=1,
            shared_at_fork=10_000,
            still_shared=5_000,
        ),
        Group(name="=cmd|'/C calc'!A0 [102]", detail="\udcff\nsecond line", copied=345, workers=1),
        Group(name="quiet [103]"),
    ],
    By.FUNCTION: [
        Group(
            name="_PyEval_EvalFrameDefault_with_a_very_long_name",
            detail="/usr/bin/python3",
            copied=12_345,
            workers=4,
        ),
        Group(name="+0x40", detail="/lib/stripped.so", reused=17, workers=0),
    ],
}
