"""Start the observed command so that no event of it is missed, and pass its end on.

The child waits in a pipe until the events stand; they switch themselves on at its exec. So nothing of the
recorder's own pages is ever recorded.
"""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Iterable, Mapping, Sequence

from cowscope.errors import CommandNotStarted

_RESTORED_SIGNALS = (signal.SIGPIPE, signal.SIGXFSZ)
"""Python ignores these, and an ignored signal would stay ignored over exec."""


class Command:
    """The command, forked and waiting; `release` lets it run."""

    def __init__(
        self,
        arguments: Sequence[str],
        *,
        signal_mask: Iterable[int],
        environment: Mapping[str, str] | None = None,
    ) -> None:
        """Fork; `signal_mask` are the signals that the command shall find blocked (those that we found)."""
        self.arguments = tuple(arguments)
        self._environment = os.environ if environment is None else environment
        self._go_read, self._go_write = os.pipe()
        self._error_read, self._error_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._become(signal_mask)
        os.close(self._go_read)
        os.close(self._error_write)

    @property
    def waiting(self) -> bool:
        """Whether it has not been let go yet."""
        return self._go_write >= 0

    def release(self) -> None:
        """Let it exec. Raises `CommandNotStarted` when the kernel will not."""
        os.write(self._go_write, b"x")
        os.close(self._go_write)
        self._go_write = -1
        report = os.read(self._error_read, 16)
        os.close(self._error_read)
        if report:
            os.waitpid(self.pid, 0)
            raise _not_started(self.arguments[0], int(report))

    def abandon(self) -> None:
        """End the child if it still waits, when the recording cannot be set up."""
        if not self.waiting:
            return
        os.close(self._go_write)
        self._go_write = -1
        os.close(self._error_read)
        os.waitpid(self.pid, 0)

    def _become(self, signal_mask: Iterable[int]) -> None:
        """The child's side; never returns."""
        try:
            os.close(self._go_write)
            if not os.read(self._go_read, 1):
                os._exit(125)
            for number in _RESTORED_SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_SETMASK, signal_mask)
            os.execvpe(self.arguments[0], self.arguments, self._environment)
        except OSError as error:
            os.write(self._error_write, str(error.errno).encode())
        finally:
            os._exit(125)


def shell_status(wait_status: int) -> int:
    """The exit status as a shell tells it: 128 + the signal's number for a command that a signal ended.

    >>> shell_status(0), shell_status(3 << 8), shell_status(signal.SIGKILL)
    (0, 3, 137)
    """
    code = os.waitstatus_to_exitcode(wait_status)
    return 128 - code if code < 0 else code


def _not_started(command: str, number: int) -> CommandNotStarted:
    if number == errno.ENOENT:
        return CommandNotStarted(command, "command not found", 127)
    if number == errno.EACCES and os.path.isdir(command):
        return CommandNotStarted(command, "it is a directory", 126)
    if number == errno.EACCES:
        return CommandNotStarted(command, "not executable (chmod +x it, or name its interpreter)", 126)
    return CommandNotStarted(command, os.strerror(number), 126)
