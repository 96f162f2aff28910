"""`cowscope explain`: the story is told whole, under every policy, with and without a kernel to ask."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from cowscope.cli import explain as command
from cowscope.cli.explain import explain
from cowscope.lab.library import story
from cowscope.lab.parser import parse
from cowscope.lab.story import Story
from cowscope.views.story import Kind, lines, paint, picture
from cowscope.vm.policies import POLICIES

FORKED = """# Short.

A start
A mmap m 3 rw private anonymous
A store m[0] "mine"
A load m[1]
# The child comes.
A fork B
B store m[0] "ours"
"""


@pytest.fixture
def no_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """As off Linux."""
    monkeypatch.setattr(
        command, "_stage", lambda: (None, "there is no Linux kernel to compare with: run on Linux")
    )


def test_arrows_show_who_points_where() -> None:
    """Shared before, apart afterwards; what changed is marked."""
    chapters = list(Story(parse(FORKED)))
    assert picture(chapters[-2].entries) == [
        "A m[1]  r─▶  the zero page  ◀─r B m[1]",
        'A m[0]  r─▶  frame 1 "mine" ×2  ◀─r B m[0]',
        "A: no entry for m[2]",
        "B: no entry for m[2]",
    ]
    told = list(lines(chapters[-1], chapters[-2]))
    assert [line.text for line in told if line.kind is Kind.CHANGED] == [
        '  * A m[0]  r─▶  frame 1 "mine" ×1',
        '  * B m[0]  w─▶  frame 2 "ours" ×1',
    ]
    (events,) = (line.text for line in told if line.kind is Kind.EVENT)
    assert [event.split(":")[0] for event in events.strip().split(" → ")] == [
        "trap",
        "classify",
        "allocate frame 2",
        "copy frame 1 to frame 2",
        "map frame 2, writable",
        "flush the TLB entry",
        "resume",
    ]


def test_the_comment_before_a_line_is_its_story() -> None:
    """The head is the scenario's own."""
    scenario = parse(FORKED)
    assert scenario.sentence == "Short."
    assert [line.said for line in scenario] == ["", "", "", "", "The child comes.", ""]


@pytest.mark.usefixtures("no_kernel")
@pytest.mark.parametrize("policy", POLICIES)
def test_every_policy_tells_the_whole_story(policy: str) -> None:
    """No rights, no Linux: the vm alone, and the reason why."""
    done = CliRunner().invoke(explain, ["--policy", policy])
    assert done.exit_code == 0
    assert f"{len(story().lines):>2}  D store big[3]" in done.stdout
    assert "live kernel: not asked (there is no Linux kernel to compare with: run on Linux)" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.usefixtures("no_kernel")
def test_policies_tell_different_stories() -> None:
    """The parent's write after the child's: reused, copied again, or never trapped."""
    told = {}
    for policy in ("linux", "mach-shadow", "eager"):
        chapters = json.loads(CliRunner().invoke(explain, ["--policy", policy, "--json"]).stdout)["chapters"]
        told[policy] = next(c["outcome"] for c in chapters if c["step"] == 'A store heap[0] "mine2"')
    assert told == {"linux": "reused", "mach-shadow": "copied", "eager": "no-fault"}


@pytest.mark.usefixtures("no_kernel")
def test_any_scenario_can_be_told(tmp_path: Path) -> None:
    """With its comments as the story."""
    path = tmp_path / "mine.cow"
    path.write_text(FORKED)
    done = CliRunner().invoke(explain, ["--scenario", str(path)])
    assert done.exit_code == 0
    assert done.stdout.startswith("Short.\n\n 1  A start")
    assert "    The child comes.\n" in done.stdout


@pytest.mark.usefixtures("no_kernel")
def test_a_comment_does_not_steer_the_terminal(tmp_path: Path) -> None:
    """A scenario file comes from anywhere; bytes in it are ASCII, comments may be anything."""
    path = tmp_path / "hostile.cow"
    path.write_text(FORKED.replace("The child comes.", "\x1b[2Jgone").replace("Short.", "\x1b]0;title\x07"))
    done = CliRunner().invoke(explain, ["--scenario", str(path)])
    assert done.exit_code == 0
    assert "\x1b" not in done.stdout
    assert "    \\x1b[2Jgone\n" in done.stdout


@pytest.mark.parametrize(("no_color", "width"), [("", 60), ("1", 60)])
def test_a_terminal_gets_colours_unless_told_otherwise_and_lines_that_fit(
    no_color: str, width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everywhere: https://no-color.org."""
    monkeypatch.setenv("NO_COLOR", no_color)
    monkeypatch.setenv("TERM", "xterm")
    out = io.StringIO()
    terminal = Console(file=out, force_terminal=True, width=width, highlight=False)
    for chapter in Story(parse(FORKED)):
        paint(terminal, chapter, None)
    coloured = re.search(r"\x1b\[3[0-9]m", out.getvalue())
    assert (coloured is None) is bool(no_color)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, plain.splitlines())) <= width


def test_a_policy_that_is_none_is_told() -> None:
    """With those that are."""
    done = CliRunner().invoke(explain, ["--policy", "vms"])
    assert str(done.exception).startswith("there is no policy vms: it is one of linux, linux-aex, ")
