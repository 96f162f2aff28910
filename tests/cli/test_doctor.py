"""The doctor's two outputs and its exit status, with made-up findings."""

from __future__ import annotations

import io
import json

import pytest
from click.testing import CliRunner
from rich.console import Console

from cowscope.cli.doctor import doctor, paint
from cowscope.linux import facts
from cowscope.linux.facts import Abilities, Check, Level
from cowscope.runtimes.python import agent

CHECKS = (
    Check("tracefs", False, "not mounted", "sudo mount it", "all may read it", "only\x07 estimates"),
    Check("PAGEMAP_SCAN", True, "with guard pages"),
    Check("kernel", None, "6.18 \x1b[31m[bold]evil"),
)


def _with(monkeypatch: pytest.MonkeyPatch, level: Level) -> None:
    monkeypatch.setattr(facts, "abilities", lambda _: Abilities(level, CHECKS))


@pytest.mark.parametrize(("level", "status"), [(Level.TRACEPOINT, 0), (Level.SOFTWARE, 0), (Level.STATES, 1)])
def test_the_exit_status_says_whether_faults_can_be_recorded(
    monkeypatch: pytest.MonkeyPatch, level: Level, status: int
) -> None:
    """Scripts need not read the text."""
    _with(monkeypatch, level)
    assert CliRunner().invoke(doctor).exit_code == status


def test_lines_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole output, plain because it is no terminal, with hostile text spelt out."""
    _with(monkeypatch, Level.SOFTWARE)
    monkeypatch.setattr(agent, "missing", lambda: "")
    assert CliRunner().invoke(doctor).output == (
        "SOFTWARE: own processes, by the page-fault software event and page states: an estimate\n"
        "no  tracefs                      not mounted\n"
        "                                 → sudo mount it\n"
        "                                   mind: all may read it\n"
        "                                   without: only\\x07 estimates\n"
        "yes PAGEMAP_SCAN                 with guard pages\n"
        "    kernel                       6.18 \\x1b[31m[bold]evil\n"
        "yes objects of Python processes  listed before each fork\n"
    )


def test_without_a_compiler_there_is_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    """One command, and what works all the same."""
    _with(monkeypatch, Level.SOFTWARE)
    monkeypatch.setattr(agent, "missing", lambda: "not compiled")
    said = CliRunner().invoke(doctor).output
    assert "no  objects of Python processes  not compiled\n" in said
    assert "python3-dev" in said


def test_one_object_for_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    """JSON carries the same checks, each whole."""
    _with(monkeypatch, Level.STATES)
    told = json.loads(CliRunner().invoke(doctor, ["--json"]).output)
    assert (told["level"], told["meaning"]) == ("STATES", "sharing of own processes only")
    assert told["checks"][1] == {
        "name": "PAGEMAP_SCAN",
        "ok": True,
        "detail": "with guard pages",
        "remedy": "",
        "caution": "",
        "without": "",
    }


@pytest.mark.parametrize("no_color", [False, True])
def test_colour_is_for_terminals_that_want_it(no_color: bool) -> None:
    """NO_COLOR takes the colours away, and nothing else."""
    out = io.StringIO()
    paint(
        Abilities(Level.STATES, CHECKS),
        Console(file=out, force_terminal=True, color_system="standard", no_color=no_color, width=80),
    )
    assert ("\x1b[31m" in out.getvalue()) is not no_color
    assert "\x1b[31m[bold]" not in out.getvalue()
