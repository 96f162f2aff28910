"""Signals as something to poll: what the structures say, and the mask put back."""

from __future__ import annotations

import os
import select
import signal
import struct
import threading

from hypothesis import given
from hypothesis import strategies as st

from cowscope.linux.signals import Received, SignalQueue, parse_signals


def siginfo(number: int, code: int) -> bytes:
    """A `signalfd_siginfo`: number, errno, code, and 116 more bytes."""
    return struct.pack("<Iii", number, 0, code).ljust(128, b"\xff")


def test_the_sender_tells_terminal_and_process_apart() -> None:
    """SI_KERNEL is 128; `kill` is 0, `tgkill` -6."""
    data = siginfo(2, 128) + siginfo(15, 0) + siginfo(15, -6)
    assert parse_signals(data) == [Received(2, True), Received(15, False), Received(15, False)]


@given(st.binary(max_size=400))
def test_only_whole_structures_count(data: bytes) -> None:
    """Any bytes: one signal for each 128."""
    assert len(parse_signals(data)) == len(data) // 128


def test_a_signal_is_queued_and_the_old_mask_comes_back() -> None:
    """It kills nobody meanwhile; one that we send is not from the terminal."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    queue = SignalQueue([signal.SIGUSR1])
    try:
        assert queue.receive() == []
        signal.pthread_kill(threading.get_ident(), signal.SIGUSR1)
        assert select.select([queue.fd], [], [], 10)[0] == [queue.fd]
        assert queue.receive() == [Received(signal.SIGUSR1, False)]
        assert queue.old_mask == before
        assert not os.get_inheritable(queue.fd)
    finally:
        queue.restore()
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
