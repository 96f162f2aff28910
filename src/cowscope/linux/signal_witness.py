"""Who else got a signal: a process of the same group that lets signals wait, and so shows which came to all.

A siginfo tells who sent a signal and not to whom: `kill PID` and `kill -PGID` look the same to the process that
gets it. A second member of the group gets only the second. The witness is a `cat` at a pipe that never brings
anything, with the signals blocked: one that was sent to the group stays in the `ShdPnd` line of its status. It
ends when its pipe is closed, so with its maker, however that ends.

Where there is no `cat`, there is no witness.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterable
from dataclasses import dataclass

from cowscope.errors import NoSuchProcess
from cowscope.linux.border import read_proc


@dataclass(frozen=True)
class _Member:
    pid: int
    pipe: int

    def pending(self) -> int:
        try:
            return parse_pending(read_proc(self.pid, "status"))
        except NoSuchProcess:
            return 0

    def end(self) -> None:
        os.close(self.pipe)
        with contextlib.suppress(ProcessLookupError):  # it may stand stopped with its group
            os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


class Witness:
    """A member of our process group that notes `signals`, from its making until `close`."""

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        """Start it."""
        self._signals = tuple(signals)
        self._member = self._start()

    def seen(self) -> frozenset[int] | None:
        """The signals that were sent to the whole group since the last look; None if there is no witness."""
        if self._member is None:
            return None
        # Who sends to a group holds the kernel's list of tasks until all have it, and this waits for that list.
        with contextlib.suppress(PermissionError):
            os.setpgid(0, os.getpgrp())
        pending = self._member.pending()
        if pending:
            # What waits cannot be taken back from another process, so a new one takes over.
            old, self._member = self._member, self._start()
            pending |= old.pending()
            old.end()
        return frozenset(number for number in self._signals if pending >> (number - 1) & 1)

    def close(self) -> None:
        """End it."""
        if self._member is not None:
            self._member.end()
            self._member = None

    def _start(self) -> _Member | None:
        reader, writer = os.pipe()
        null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        places = [(os.POSIX_SPAWN_DUP2, reader, 0), *((os.POSIX_SPAWN_DUP2, null, fd) for fd in (1, 2))]
        try:
            pid = os.posix_spawnp("cat", ["cat"], os.environ, file_actions=places, setsigmask=self._signals)
        except OSError:
            os.close(writer)
            return None
        finally:
            os.close(reader)
            os.close(null)
        return _Member(pid, writer)


def parse_pending(status: bytes) -> int:
    r"""The bit mask of the signals that wait for the process as a whole; 0 if the status does not tell.

    >>> parse_pending(b"SigPnd:\t0000000000000001\nShdPnd:\t0000000000004002\n") == 1 << 14 | 1 << 1
    True
    """
    for line in status.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"ShdPnd":
            with contextlib.suppress(ValueError):
                return int(value, 16)
    return 0
