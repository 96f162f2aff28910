"""Options and steps that `run` and `attach` share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from cowscope.units import format_bytes, pages_to_bytes, parse_bytes

if TYPE_CHECKING:
    from cowscope.recorder.observe import Options
    from cowscope.recorder.session import Progress

F = TypeVar("F", bound=Callable[..., Any])


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


def recording_options(function: F) -> F:
    """What both ways of recording take."""
    for option in reversed(
        (
            click.option(
                "-o", "--output", type=click.Path(path_type=Path), help="Directory of the recording."
            ),
            click.option(
                "--duration",
                type=click.FloatRange(min=0, min_open=True),
                metavar="SECONDS",
                help="End the recording after this time.",
            ),
            click.option(
                "--max-size", type=Size(), help="End it when the raw data reach this, such as 500M."
            ),
            click.option(
                "--first-touch", is_flag=True, help="Record the faults that bring new pages in, too."
            ),
            click.option(
                "--source",
                type=click.Choice(["auto", "tracepoint", "software"]),
                default="auto",
                show_default=True,
                help="Where faults come from; software needs no rights and gives estimates.",
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
    ):
        function = option(function)
    return function


def observation_options(
    output: Path | None,
    duration: float | None,
    max_size: int | None,
    first_touch: bool,
    source: str,
    quiet: bool,
) -> Options:
    """The recorder's options from those of the command line."""
    import sys

    from cowscope.recorder.observe import Options
    from cowscope.recorder.session import Limits

    return Options(
        output=output,
        limits=Limits(duration_s=duration, max_bytes=max_size),
        first_touch=first_touch,
        source=source,
        on_progress=show_progress if sys.stderr.isatty() and not quiet else None,
    )


def show_progress(progress: Progress) -> None:
    """One line on stderr, written over itself."""
    copied = format_bytes(pages_to_bytes(progress.copied_pages))
    line = (
        f"cowscope: {progress.elapsed_s:.1f} s · {progress.processes:,} processes · {progress.faults:,} faults · "
        f"about {copied} copied · {progress.lost:,} lost"
    )
    click.echo(f"\r\x1b[2K{line}", err=True, nl=False)


def finish(directory: Path, ended: str, *, keep_raw: bool, quiet: bool, top: int) -> None:
    """Tables, then the summary, both told on stderr, so that the command's own output stays alone on stdout."""
    import sys

    from cowscope.recorder.finalise import finalise

    if sys.stderr.isatty() and not quiet:
        click.echo("\r\x1b[2Kcowscope: writing the recording …", err=True, nl=False)
    try:
        finalise(directory, keep_raw=keep_raw)
    except KeyboardInterrupt:
        raise click.ClickException(f"interrupted: cowscope recover {directory} goes on from here") from None
    except OSError as error:
        raise click.ClickException(
            f"{error}: make room, then cowscope recover {directory} goes on from here"
        ) from None
    finally:
        if sys.stderr.isatty() and not quiet:
            click.echo("\r\x1b[2K", err=True, nl=False)
    if ended in _EARLY:
        click.echo(f"cowscope: {_EARLY[ended]}; everything up to then is in {directory}", err=True)
    elif ended.startswith("write error"):
        click.echo(f"cowscope: recording ended, {ended}; everything up to then is in {directory}", err=True)


def summarise(directory: Path, *, quiet: bool, top: int) -> None:
    """What `show` prints, on stderr."""
    import sys

    if quiet:
        return
    from cowscope.cli.show import print_summary

    print_summary(directory, sys.stderr, top=top)
    click.echo(f"\nRecording: {directory}  (cowscope show {directory})", err=True)


_EARLY = {
    "size": "recording ended, --max-size was reached",
    "disk": "recording ended, the disk is full",
}
