"""Perf events and their rings, by ctypes: open, filter, map, drain.

Reading only: a ring hands out its bytes as they are, `perf_records` says what they mean.

A ring is one page of bookkeeping and a power of two of data pages behind it. The kernel moves `data_head`
(byte 1024 of the first page) forward as it writes; we move `data_tail` (byte 1032) forward as we have
taken; neither ever wraps, a position is the counter modulo the size.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import struct
import sys
from collections.abc import Sequence

from cowscope.errors import MissingRight, NoSuchProcess
from cowscope.linux.perf_abi import FLAG_FD_CLOEXEC, READ_LOST, SYSCALL_NUMBER, Attributes, Ioctl
from cowscope.units import PAGE_SIZE

HEAD_AT, TAIL_AT = 1024, 1032
"""Bytes of the first page of a ring where its two positions are: how far the kernel wrote, and we have taken."""
_libc = ctypes.CDLL(None, use_errno=True)


class Event:
    """One event on one task (and, inherited, its children) on one CPU.

    `pid` is a thread id (0: the caller), `cpu` a CPU number. Raises `MissingRight` where the kernel
    refuses by policy, `NoSuchProcess` when the task is gone, else `OSError`. Source:
    perf_event_open(2).
    """

    def __init__(self, attributes: Attributes, *, pid: int, cpu: int) -> None:
        """Ask the kernel for the event; it is closed by `close`."""
        self._tells_lost = attributes.read_format == READ_LOST
        self.fd = _open(attributes, pid, cpu)

    def fileno(self) -> int:
        """The file descriptor, for poll."""
        return self.fd

    def set_filter(self, expression: str) -> None:
        """Let only samples through that satisfy `expression`; it can be set once.

        Raises `OSError`: an expression that the kernel refuses would let everything through, so a
        refusal is never passed over.
        """
        text = ctypes.create_string_buffer(expression.encode())
        self._ioctl(Ioctl.SET_FILTER, ctypes.addressof(text))

    def output_to(self, other: Event) -> None:
        """Write into the ring of `other`, an event on the same CPU, instead of a ring of its own."""
        self._ioctl(Ioctl.SET_OUTPUT, other.fd)

    def run_program(self, program: int) -> None:
        """Have a BPF program run at each hit of this tracepoint, by any task, also while the event is disabled."""
        self._ioctl(Ioctl.SET_BPF, program)

    def enable(self) -> None:
        """Start counting, for this task and what has inherited from it."""
        self._ioctl(Ioctl.ENABLE, 0)

    def disable(self) -> None:
        """Stop counting, for this task and what has inherited from it."""
        self._ioctl(Ioctl.DISABLE, 0)

    def lost(self) -> int | None:
        """Records that found the ring full, inherited events' included; None where not asked or not known."""
        if not self._tells_lost:
            return None
        _, lost = struct.unpack("=QQ", os.read(self.fd, 16))
        return int(lost)

    def close(self) -> None:
        """Give the event back; the kernel then removes its inherited copies too."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def _ioctl(self, request: Ioctl, argument: int) -> None:
        # Through libc, since fcntl.ioctl takes no pointers wider than an int as a plain number.
        if _libc.ioctl(self.fd, ctypes.c_ulong(request), ctypes.c_ulong(argument)) < 0:
            number = ctypes.get_errno()
            raise OSError(number, f"perf {request.name}: {os.strerror(number)}")


class Ring:
    """A ring of `n_bytes` (a power of two) of data, drained without looking at it."""

    def __init__(self, fd: int, n_bytes: int, *, offset: int = 0) -> None:
        """Map the ring at byte `offset` of `fd`; raises `MissingRight` past perf_event_mlock_kb, else `OSError`."""
        try:
            self._map = mmap.mmap(fd, PAGE_SIZE + n_bytes, offset=offset)
        except PermissionError as error:
            raise MissingRight(
                f"a ring of {n_bytes >> 10} KiB may not be locked in memory by this user",
                "run as root, or add CAP_IPC_LOCK, or as root set kernel.perf_event_mlock_kb higher",
            ) from error
        self._data = memoryview(self._map)[PAGE_SIZE:]
        self._head = ctypes.c_uint64.from_buffer(self._map, HEAD_AT)
        self._tail = ctypes.c_uint64.from_buffer(self._map, TAIL_AT)
        self.n_bytes = n_bytes

    def pending(self) -> int:
        """Bytes that wait to be taken."""
        return self._head.value - self._tail.value

    def slices(self) -> Sequence[memoryview]:
        """What waits, as one or two pieces in order; `take` says how much of it was used.

        The kernel orders its writes before `data_head`; between our read of it and the use of the
        data stands a system call, which is barrier enough on every machine.
        """
        head, tail = self._head.value, self._tail.value
        start, n = tail % self.n_bytes, head - tail
        first = self._data[start : start + n]
        return [first] if len(first) == n else [first, self._data[: n - len(first)]]

    def take(self, n_bytes: int) -> None:
        """Let the kernel reuse the first `n_bytes` of what waited."""
        self._tail.value += n_bytes

    def number(self, at: int) -> int:
        """The u64 at byte `at` of the bookkeeping page."""
        return int.from_bytes(self._map[at : at + 8], sys.byteorder)

    def close(self) -> None:
        """Unmap the ring."""
        del self._head, self._tail
        self._data.release()
        self._map.close()


def _open(attributes: Attributes, pid: int, cpu: int) -> int:
    number = SYSCALL_NUMBER.get(os.uname().machine)
    if number is None:
        raise MissingRight(f"no perf events on {os.uname().machine}", "use x86-64 or arm64")
    buffer = ctypes.create_string_buffer(attributes.pack())
    fd = int(_libc.syscall(number, buffer, pid, cpu, -1, FLAG_FD_CLOEXEC))
    if fd >= 0:
        return fd
    error = ctypes.get_errno()
    if error in (errno.EACCES, errno.EPERM):
        raise MissingRight(
            "the kernel refuses perf events to this user",
            "run as root, or as root set kernel.perf_event_paranoid to 2 or less for your own processes",
        )
    if error == errno.ESRCH:
        raise NoSuchProcess(pid)
    if error == errno.ENOSYS:
        raise MissingRight("this kernel has no perf events", "use a kernel with CONFIG_PERF_EVENTS")
    raise OSError(error, f"perf_event_open: {os.strerror(error)}")
