"""`cowscope doctor`: what can be recorded here, why, and the one command that gives more."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from rich.console import Console

    from cowscope.linux.facts import Abilities, Check


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of lines for people.")
@click.pass_context
def doctor(context: click.Context, *, as_json: bool) -> None:
    """Say what can be recorded on this machine by this user.

    Each missing right comes with one command that gives it, what else that command does, and what works
    without it. The exit status is 0 if faults can be recorded, and 1 if only the sharing of own processes can
    be shown.

    \b
    Examples:
      cowscope doctor
      cowscope doctor --json | jq -r .level
    """
    from cowscope.linux.facts import Level, abilities
    from cowscope.linux.perf_probe import probe

    found = abilities(probe)
    found = replace(found, checks=(*found.checks, _agent()))
    if as_json:
        click.echo(to_json(found))
    else:
        from rich.console import Console

        paint(found, Console(highlight=False, markup=False, emoji=False))
    context.exit(0 if found.level >= Level.SOFTWARE else 1)


def _agent() -> Check:
    """Whether Python processes can be looked into."""
    from cowscope.linux.facts import Check
    from cowscope.runtimes.python.agent import missing

    name, why = "objects of Python processes", missing()
    if not why:
        return Check(name, True, "listed before each fork")
    remedy = "sudo apt install gcc python3-dev, then install cowscope again"
    return Check(
        name, False, why, remedy, without="copies are told by process, mapping and function, not by cause"
    )


def to_json(found: Abilities) -> str:
    """The answer for programs: level, its meaning, and all checks as they are."""
    checks = [asdict(check) for check in found.checks]
    return json.dumps({"level": found.level.name, "meaning": found.level.meaning, "checks": checks}, indent=2)


def paint(found: Abilities, console: Console) -> None:
    """The answer for people, one line a check; plain where `console` is no terminal or NO_COLOR is set."""
    console.print(f"{found.level.name}: {found.level.meaning}", style="bold", soft_wrap=True)
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        _paint_check(check, width, console)


def _paint_check(check: Check, width: int, console: Console) -> None:
    from rich.text import Text

    mark, style = {True: ("yes", "green"), False: ("no", "red"), None: ("", "")}[check.ok]
    line = Text.assemble((f"{mark:4}", style), f"{printable(check.name):{width}}  {printable(check.detail)}")
    console.print(line, soft_wrap=True)
    indent = f"{'':4}{'':{width}}  "
    if check.remedy:
        console.print(f"{indent}→ {printable(check.remedy)}", style="cyan", soft_wrap=True)
    for word, text in (("mind", check.caution), ("without", check.without)):
        if text:
            console.print(f"{indent}  {word}: {printable(text)}", style="dim", soft_wrap=True)


def printable(text: str) -> str:
    r"""`text` with every character that could steer a terminal spelt out.

    >>> print(printable("a\x1b[31mb\n–"))
    a\x1b[31mb\n–
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
