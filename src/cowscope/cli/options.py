"""Options and steps that `run` and `attach` share."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cowscope.cli.status import clear_status_line, status_line
from cowscope.units import format_bytes, pages_to_bytes, parse_bytes

if TYPE_CHECKING:
    from cowscope.recorder.observe import Options
    from cowscope.recorder.session import Progress


class Size(click.ParamType):  # type: ignore[type-arg]
    """A number of bytes with a unit."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Parse, or say what a size looks like."""
        if isinstance(value, int):
            return value
        try:
            return parse_bytes(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """What was chosen on the command line for a recording."""

    output: Path | None
    duration: float | None
    max_size: int | None
    first_touch: bool
    allocations: bool
    source: str
    python: str
    lines: bool
    keep_raw: bool
    quiet: bool
    top: int

    @property
    def shows_progress(self) -> bool:
        """Whether somebody watches."""
        # Python has no stderr where the caller closed it.
        return sys.stderr is not None and sys.stderr.isatty() and not self.quiet


_OPTIONS = (
    click.option("-o", "--output", type=click.Path(path_type=Path), help="Directory of the recording."),
    click.option(
        "--duration",
        type=click.FloatRange(min=0, min_open=True, max=1e9),
        metavar="SECONDS",
        help="End the recording after this time.",
    ),
    click.option("--max-size", type=Size(), help="End it when the raw data reach this, such as 500M."),
    click.option("--first-touch", is_flag=True, help="Record the faults that bring new pages in, too."),
    click.option(
        "--allocations/--no-allocations",
        default=True,
        show_default=True,
        help="Record the kernel's page allocations, which prove each copy; without, copies are an estimate.",
    ),
    click.option(
        "--source",
        type=click.Choice(["auto", "bpf", "tracepoint", "software"]),
        default="auto",
        show_default=True,
        help="Where faults come from: BPF programs or perf events at the tracepoints, or the software event, "
        "which needs no rights and gives estimates.",
    ),
    click.option(
        "--python",
        type=click.Choice(["auto", "off"]),
        default="auto",
        show_default=True,
        help="List the objects of Python processes before each fork (run only), or keep out of them.",
    ),
    click.option(
        "--lines/--no-lines",
        default=True,
        show_default=True,
        help="Note the Python line at each fault, where Python is not kept out of.",
    ),
    click.option("--keep-raw", is_flag=True, help="Keep the raw ring contents beside the tables."),
    click.option("-q", "--quiet", is_flag=True, help="No progress and no summary."),
    click.option(
        "--top",
        type=click.IntRange(min=1),
        default=5,
        show_default=True,
        help="Rows per table of the summary.",
    ),
)


def recording_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a recording; it gets them as one argument `choices`."""

    @wraps(function)
    def command(**given: Any) -> Any:
        choices = Choices(**{item.name: given.pop(item.name) for item in fields(Choices)})
        return function(choices=choices, **given)

    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def observation_options(choices: Choices) -> Options:
    """The recorder's options from those of the command line."""
    from cowscope.recorder.observe import Options
    from cowscope.recorder.session import Limits

    return Options(
        output=choices.output,
        limits=Limits(duration_s=choices.duration, max_bytes=choices.max_size),
        first_touch=choices.first_touch,
        allocations=choices.allocations,
        source=choices.source,
        python=choices.python == "auto",
        lines=choices.lines,
        on_progress=show_progress if choices.shows_progress else None,
    )


def show_progress(progress: Progress) -> None:
    """One line on stderr, written over itself."""
    pages = progress.copied_pages
    copied = "" if pages is None else f"about {format_bytes(pages_to_bytes(pages))} copied · "
    status_line(
        f"{progress.elapsed_s:.1f} s · {progress.processes:,} process(es) · {progress.faults:,} faults · "
        f"{copied}{progress.lost:,} lost"
    )


def finish(directory: Path, ended: str, choices: Choices) -> None:
    """Turn the raw files into tables, and say so where the recording ended before its time.

    Everything is told on stderr, so that the command's own output stays alone on stdout.
    """
    from cowscope.recorder.finalise import finalise

    if choices.shows_progress:
        status_line("writing the recording …")
    try:
        finalise(directory, keep_raw=choices.keep_raw)
    except KeyboardInterrupt:
        raise click.ClickException(f"interrupted: cowscope recover {directory} goes on from here") from None
    except OSError as error:
        raise click.ClickException(
            f"cannot write {error.filename or directory}: {error.strerror or error}; make room, then "
            f"cowscope recover {directory} goes on from here"
        ) from None
    finally:
        if choices.shows_progress:
            clear_status_line()
    reason = _EARLY.get(ended, ended if ended.startswith("write error") else "")
    if reason:
        click.echo(f"cowscope: recording ended, {reason}; everything up to then is in {directory}", err=True)


def summarise(directory: Path, choices: Choices) -> None:
    """What `show` prints, on stderr."""
    if choices.quiet or sys.stderr is None:
        return
    from cowscope.cli.show import print_summary

    print_summary(directory, sys.stderr, top=choices.top)
    click.echo(f"\nRecording: {directory}  (cowscope show {directory})", err=True)


_EARLY = {"size": "--max-size was reached", "disk": "the disk is full"}
