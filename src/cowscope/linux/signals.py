"""Signals as something to poll: signalfd(2), which also tells who sent one.

A Ctrl-C at the terminal reaches the whole foreground group, the observed command included; a `kill` of the
recorder reaches only the recorder. The sender tells these two apart, and Python's own handlers do not know it. A
`kill` of the whole group is told apart by `signal_witness`.

A signal to the process goes to any thread that does not block it. numpy's import starts threads (OpenBLAS's), so
make the queue before it: they then inherit the mask.
"""

from __future__ import annotations

import ctypes
import os
import signal
import struct
from collections.abc import Iterable
from dataclasses import dataclass

FORWARDED = (
    signal.SIGINT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
"""Signals that `run` passes on to the command."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end an `attach`."""

_SIGINFO_BYTES = 128
_SET_BYTES = 8
_CLOEXEC_NONBLOCK = os.O_CLOEXEC | os.O_NONBLOCK
_SI_KERNEL = 0x80
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class Received:
    """A signal that arrived; `from_terminal` when the kernel sent it (Ctrl-C, hang-up) and not a process."""

    number: int
    from_terminal: bool


class SignalQueue:
    """Blocks `signals` for this thread and queues them; `restore` puts the old mask back.

    Source: signalfd(2). Raises `OSError`.
    """

    def __init__(self, signals: Iterable[signal.Signals]) -> None:
        """Block and open."""
        wanted = set(signals)
        self._old = signal.pthread_sigmask(signal.SIG_BLOCK, wanted)
        mask = sum(1 << (number - 1) for number in wanted).to_bytes(_SET_BYTES, "little")
        # glibc's sigset_t is 128 bytes, of which the kernel reads the first eight.
        buffer = ctypes.create_string_buffer(mask, 128)
        self.fd = int(_libc.signalfd(-1, buffer, _CLOEXEC_NONBLOCK))
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "signalfd")

    @property
    def old_mask(self) -> set[int]:
        """The signals that were blocked before; what a child of ours must go back to."""
        return set(self._old)

    def receive(self) -> list[Received]:
        """What has arrived since; does not wait."""
        try:
            data = os.read(self.fd, _SIGINFO_BYTES * 16)
        except BlockingIOError:
            return []
        return parse_signals(data)

    def restore(self) -> None:
        """Close the queue and restore the mask."""
        os.close(self.fd)
        signal.pthread_sigmask(signal.SIG_SETMASK, self._old)


def parse_signals(data: bytes) -> list[Received]:
    """The `signalfd_siginfo` structures in `data`: number at byte 0, code at byte 8.

    >>> parse_signals(struct.pack("<Iii", 2, 0, 0x80).ljust(128, bytes(1)))
    [Received(number=2, from_terminal=True)]
    """
    found = []
    for at in range(0, len(data) - _SIGINFO_BYTES + 1, _SIGINFO_BYTES):
        number, _, code = struct.unpack_from("<Iii", data, at)
        found.append(Received(number, code == _SI_KERNEL))
    return found
