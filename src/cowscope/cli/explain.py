"""`cowscope explain`: what fork shares and what it copies, step by step, beside the live kernel."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

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

    Each step shows what the fault handler did, which page of which process points at which frame
    (changed lines are marked), and what the live kernel did at the same step. It needs no rights; without
    them, or off Linux, the kernel's part says what is missing.

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
            click.echo(json.dumps(_as_json(told, policy), indent=2))
        else:
            _tell(told, wait=step and sys.stdin.isatty() and sys.stdout.isatty())


def _stage() -> tuple[Stage | None, str]:
    """Puppets on the live kernel, or why there are none."""
    from cowscope.errors import CowscopeError
    from cowscope.lab.kernel import Stage

    try:
        return Stage(), ""
    except (CowscopeError, OSError) as error:
        return None, str(error)


def _chapters(story: Story) -> Iterator[Chapter]:
    from cowscope.lab.result import NotChecked

    try:
        yield from story
    except NotChecked as reason:
        click.echo(f"cowscope: the story ends here: {reason}", err=True)


def _tell(story: Story, *, wait: bool) -> None:
    from rich.text import Text

    from cowscope.views.story import paint
    from cowscope.views.terminal import console
    from cowscope.views.text import escaped

    out = console(sys.stdout)
    for sentence in story.scenario.sentence.splitlines():
        out.print(Text(escaped(sentence), "bold"), soft_wrap=not out.is_terminal)
    before = None
    for chapter in _chapters(story):
        out.print()
        paint(out, chapter, before)
        before = chapter
        if wait:
            click.pause("")


def _as_json(story: Story, policy: str) -> dict[str, Any]:
    from cowscope.views.story import as_json

    chapters = [as_json(chapter) for chapter in _chapters(story)]
    return {"shows": story.scenario.sentence, "policy": policy, "chapters": chapters}
