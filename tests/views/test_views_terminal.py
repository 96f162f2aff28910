"""The terminal's text as a golden: fixed width, no colour, hostile names spelt out."""

from __future__ import annotations

import io
from dataclasses import replace

import pytest
from rich.console import Console
from tests.views.findings import GROUPS, META, SHARING

from cowscope.insight.labels import Figure
from cowscope.insight.sharing import Sharing
from cowscope.recording.meta import Meta
from cowscope.views.terminal import PIPE_WIDTH, console, headline, paint


def painted(*, meta: Meta = META, sharing: Sharing = SHARING, top: int = 2) -> list[str]:
    """The lines that a pipe gets, without blanks at their ends."""
    out = io.StringIO()
    paint(console(out), "web\x1b.cow", meta, sharing, GROUPS, top=top)
    return [line.rstrip() for line in out.getvalue().splitlines()]


GOLDEN = """\
web\\x1b.cow  gunicorn --preload \\x1b[2J · 2.5 s · 5 processes · 13,000 faults · tracepoint · 3 lost
4 forks shared 156.2 MiB; 48.2 MiB of it were copied after all (30.9% as much).

                 pages       size  known
shared at fork  40,000  156.2 MiB  exact     anonymous pages that forks mapped into children
copied since    12,345   48.2 MiB  at least  written while shared: now they exist twice
reused              17   68.0 KiB  at least  written when nobody shared them any more: no copy
still shared    20,000   78.1 MiB  estimate  never written by the child; others mapped them to the end
left alone           5   20.0 KiB  exact     never written by the child; nobody else mapped them at the end
dropped              6   24.0 KiB  estimate  unmapped or left behind by exec, never written by the child
new                  0        0 B  at least  zero-filled, or private copies of file pages

not exact (copied, reused, still shared, new): 3 fault events were lost
not exact (new): first touches were not recorded
difference: censuses found 88 pages mapped once, the replay 100: -12
checked against censuses: 9,000 pages of 4 processes, difference -12
in the tables: ~ estimate, ≥ at least, no mark: exact

By process
process                  copied ≥      size  reused ≥  new ≥  shared at fork  still shared ~  command line
\\x1b]0;owned\\x07 [101]     12,000  46.9 MiB        17      0          10,000           5,000  [bold]s…m\\u202e'
=cmd|'/C calc'!A0 [102]       345   1.3 MiB         0      0               –               –  \\xff\\ns…ond line

By writing function
function                              copied ≥      size  reused ≥  new ≥  processes  file
_PyEval_EvalFram…th_a_very_long_name    12,345  48.2 MiB         0      0          4  python3
+0x40                                        0       0 B        17      0          0  stripped.so
"""


def test_the_whole_summary() -> None:
    """What a pipe gets: plain text, every control character spelt out, nothing taken for markup."""
    assert "\n".join(painted()) + "\n" == GOLDEN


def test_fewer_rows_say_how_many_are_hidden() -> None:
    """Rows without any page are not counted among them."""
    assert "… and 1 more (--top)" in painted(top=1)
    assert not [line for line in painted(top=2) if "more (--top)" in line]


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch, no_color: bool) -> None:
    """NO_COLOR takes the colours away; a process's own escapes never come through."""
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    screen = Console(
        file=out, force_terminal=True, color_system="standard", no_color=no_color, width=110, highlight=False
    )
    paint(screen, "web.cow", META, SHARING, GROUPS, top=5)
    assert ("\x1b[33mat least" in out.getvalue()) is not no_color
    for own in ("\x1b]0;", "\x07", "\x1b[2J", "\u202e"):
        assert own not in out.getvalue()


def test_a_pipe_has_a_width_of_its_own() -> None:
    """So that what is stored does not depend on the terminal that stored it."""
    assert console(io.StringIO()).width == PIPE_WIDTH
    assert max(len(line) for line in painted()) <= PIPE_WIDTH


@pytest.mark.parametrize(
    ("forks", "shared", "copied", "sentence"),
    [
        (0, 0, 0, "Nothing forked: no page was ever shared by a fork."),
        (1, 256, 64, "1 fork shared 1.0 MiB; 256.0 KiB of it were copied after all (25.0% as much)."),
        (1234, 0, 0, "1,234 forks shared 0 B; 0 B of it were copied after all."),
    ],
)
def test_the_headline(forks: int, shared: int, copied: int, sentence: str) -> None:
    """One sentence, also where nothing was shared."""
    totals = replace(SHARING.totals, shared_at_fork=Figure(shared), copied=Figure(copied))
    assert headline(replace(SHARING, forks=forks, totals=totals)) == sentence


def test_an_early_end_is_told() -> None:
    """A figure of half a run must not pass for one of the whole."""
    assert "the recording ended early: disk" in painted(meta=replace(META, ended="disk"))
