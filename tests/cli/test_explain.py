"""`cowscope explain`: the story is told whole, under every policy, with and without a kernel to ask."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import select
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from cowscope.cli import explain as command
from cowscope.cli.explain import explain
from cowscope.lab.library import story
from cowscope.lab.parser import parse
from cowscope.lab.story import Story
from cowscope.views.story import paint
from cowscope.views.terminal import PIPE_WIDTH
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
    reason = "live kernel   not asked (there is no Linux kernel to compare with: run on Linux)"
    assert done.stdout.count(reason) == 1
    assert "\x1b" not in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= PIPE_WIDTH
    told = f"The model decides as {policy} does; the comments tell what Linux does now.\n"
    assert (told in done.stdout) is (policy != "linux")


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
    assert done.stdout.startswith("Short.\n")
    assert "\n\n 1  A start\n" in done.stdout
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


@pytest.mark.parametrize(("no_color", "width"), [("", 60), ("1", 60), ("", 80), ("", 30)])
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
    coloured = re.search(r"\x1b\[(\d+;)*3[0-9]m", out.getvalue())
    assert (coloured is None) is bool(no_color)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    assert max(map(len, plain.splitlines())) <= width


def test_a_policy_that_is_none_is_told() -> None:
    """With those that are."""
    done = CliRunner().invoke(explain, ["--policy", "vms"])
    assert str(done.exception).startswith("there is no policy vms: it is one of linux, linux-aex, ")


def test_step_waits_for_a_key_and_ctrl_c_ends_it(tmp_path: Path) -> None:
    """At a terminal; the third step is never told."""
    path = tmp_path / "mine.cow"
    path.write_text(FORKED)
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cowscope", "explain", "--step", "--scenario", str(path)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE) as telling:
        os.close(theirs)
        told = _read_until(ours, b"live kernel ")
        assert b"2  A mmap" not in told
        _press(ours, b" ")
        assert b"3  A store" not in _read_until(ours, b"m[2]")
        _press(ours, b"\x03")
        _, errors = telling.communicate(timeout=30)
    os.close(ours)
    assert (telling.returncode, errors.strip()) == (130, b"cowscope: interrupted")


def _press(terminal: int, key: bytes) -> None:
    """Once somebody waits for a key; what was typed before is thrown away."""
    give_up = time.monotonic() + 30
    while termios.tcgetattr(terminal)[3] & termios.ICANON:
        assert time.monotonic() < give_up
        os.sched_yield()
    os.write(terminal, key)


def _read_until(terminal: int, text: bytes) -> bytes:
    """What a terminal shows up to `text`."""
    told = b""
    while text not in told:
        assert select.select([terminal], [], [], 30)[0], told
        told += os.read(terminal, 1 << 16)
    return told
