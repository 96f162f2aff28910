"""`cowscope recover`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("recording", type=click.Path(path_type=Path))
@click.option("--keep-raw", is_flag=True, help="Keep the raw ring contents beside the tables.")
def recover(recording: Path, keep_raw: bool) -> None:
    """Finish the recording of a recorder that died: everything up to its last flush.

    \b
    Example:
      cowscope recover web.cow && cowscope show web.cow
    """
    from cowscope.recorder.finalise import recover as rebuild
    from cowscope.recording.reader import open_recording

    rebuild(recording, keep_raw=keep_raw)
    faults = len(open_recording(recording).table("faults")["time_ns"])
    click.echo(f"recovered {faults:,} faults: cowscope show {recording}", err=True)
