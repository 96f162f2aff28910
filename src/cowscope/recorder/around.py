"""Record the very process that asks for it, around a block of its code: `with cowscope.record("name"):`.

A recorder of its own is started and attaches to us; when the block ends, it is told to end and has written the
recording when the block is left. Where the agent is there, it lists our objects before each fork in the block.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from cowscope.errors import CowscopeError
from cowscope.recorder import interpreters
from cowscope.recording.journal import raw_directory
from cowscope.recording.reader import Recording, open_recording
from cowscope.runtimes.python import agent

_PATIENCE_S = 60


class record(AbstractContextManager["record"]):  # noqa: N801 - used as a word, like open
    """What the block's forks share and copy; the recording is `name.cow`, or `name` if it ends so.

    `options` are words of `cowscope attach`, such as "--first-touch". `path` is where the recording is, `open` reads
    it once the block is left. Raises `CowscopeError` with what the recorder said when it cannot record here, or
    could not write the recording.
    """

    def __init__(self, name: str | Path, *options: str) -> None:
        """Nothing is recorded yet."""
        self.path = Path(name) if str(name).endswith(".cow") else Path(f"{name}.cow")
        self._options = options
        self._recorder: subprocess.Popen[str] | None = None

    def __enter__(self) -> record:
        """Begin to record."""
        ready, theirs = os.pipe()
        command = [sys.executable, "-m", "cowscope", "attach", "-q", "-o", str(self.path), *self._options]
        try:
            self._recorder = subprocess.Popen(
                [*command, "--ready-fd", str(theirs), str(os.getpid())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(theirs,),
                text=True,
                errors="replace",
            )
            os.close(theirs)
            began = bool(select.select([ready], [], [], _PATIENCE_S)[0]) and bool(os.read(ready, 1))
        finally:
            os.close(ready)
        if not began:
            self._recorder.kill()
            raise CowscopeError(self._said())
        where = interpreters.directory(raw_directory(self.path))
        where.mkdir(mode=0o700)
        agent.enter(where)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the recording, and wait until it is written; an error of the block goes on."""
        agent.leave()
        assert self._recorder is not None
        self._recorder.send_signal(signal.SIGINT)
        said = self._said()
        if self._recorder.returncode and error is None:
            raise CowscopeError(said)

    def open(self) -> Recording:
        """The recording. Raises `BadRecording` while it is not finished."""
        return open_recording(self.path)

    def _said(self) -> str:
        """The recorder's last words."""
        assert self._recorder is not None
        _, text = self._recorder.communicate()
        return text.strip().removeprefix("cowscope: ") or "the recorder ended without a word"
