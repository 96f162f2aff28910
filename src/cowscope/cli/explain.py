"""`cowscope explain`: what fork shares and what it copies, step by step, beside the live kernel."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from cowscope.lab.kernel import Stage
    from cowscope.lab.story import Chapter, Story


@click.command()
@click.option(
    "--scenario",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Tell this scenario; a comment before a line is its story.",
)
@click.option("--policy", default="linux", show_default=True, help="Let another kernel's rules decide.")
@click.option("--step", is_flag=True, help="Wait for a key after each step (at a terminal).")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def explain(scenario: Path | None, policy: str, step: bool, as_json: bool) -> None:
    """Tell by example what a fork shares, and what it copies after all.

    Each step shows what came of it in the model and on the live kernel, what the fault handler did, and
    the page tables of all processes with the frames that they name; what changed is marked. It needs no
    rights; without them, or off Linux, the kernel's part says what is missing.

    \b
    Examples:
      cowscope explain
      cowscope explain --step
      cowscope explain --policy mach-shadow
      cowscope explain --scenario my.cow --json | jq .chapters[].outcome
    """
    from cowscope.errors import UsageError
    from cowscope.lab.library import story
    from cowscope.lab.parser import parse_file
    from cowscope.lab.story import Story
    from cowscope.vm.policies import POLICIES

    if policy not in POLICIES:
        raise UsageError(f"there is no policy {policy}: it is one of {', '.join(POLICIES)}")
    chosen = parse_file(scenario) if scenario else story()
    with ExitStack() as stack:
        stage, missing = _stage()
        if stage is not None:
            stack.enter_context(stage)
        told = Story(chosen, policy, stage, missing)
        if as_json:
            _tell_programs(told, policy)
        else:
            _tell(told, policy, wait=step and sys.stdin.isatty() and sys.stdout.isatty())


def _stage() -> tuple[Stage | None, str]:
    """Puppets on the live kernel, or why there are none."""
    from cowscope.errors import CowscopeError
    from cowscope.lab.kernel import Stage

    try:
        return Stage(), ""
    except (CowscopeError, OSError) as error:
        return None, str(error)


def _chapters(story: Story, ended: list[str]) -> Iterator[Chapter]:
    """The chapters, as far as there are; `ended` gets the reason if the story ends early."""
    from cowscope.lab.result import NotChecked

    try:
        yield from story
    except NotChecked as reason:
        ended.append(str(reason))
        click.echo(f"cowscope: the story ends here: {reason}", err=True)


def _tell(story: Story, policy: str, *, wait: bool) -> None:
    from cowscope.views.story import head, paint, paint_line
    from cowscope.views.terminal import console

    out = console(sys.stdout)
    for line in head(story.scenario.sentence, policy, out.width):
        paint_line(out, line)
    before = None
    for chapter in _chapters(story, []):
        out.print()
        paint(out, chapter, before)
        before = chapter
        if wait:
            click.getchar()  # and not click.pause, which takes Ctrl-C for a key


def _tell_programs(story: Story, policy: str) -> None:
    from cowscope.views.story import as_json

    ended: list[str] = []
    chapters = list(_chapters(story, ended))
    document = as_json(story.scenario.sentence, policy, chapters, ended[0] if ended else None)
    click.echo(json.dumps(document, indent=2))
