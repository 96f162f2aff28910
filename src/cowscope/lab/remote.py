"""Reading and writing another process's memory: process_vm_readv(2), process_vm_writev(2), /proc/PID/mem.

Addresses are the other process's. All raise `OSError` as the kernel does.
"""

from __future__ import annotations

import ctypes
import os

_libc = ctypes.CDLL(None, use_errno=True)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def vm_read(pid: int, address: int, count: int) -> bytes:
    """`count` bytes by process_vm_readv: a pin that un-shares the page."""
    data = ctypes.create_string_buffer(count)
    _transfer("process_vm_readv", pid, address, data, count)
    return data.raw


def vm_write(pid: int, address: int, data: bytes) -> None:
    """Write `data` by process_vm_writev."""
    _transfer("process_vm_writev", pid, address, ctypes.create_string_buffer(data, len(data)), len(data))


def mem_read(pid: int, address: int, count: int) -> bytes:
    """`count` bytes through /proc/PID/mem, as a debugger reads."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(fd, count, address)
    finally:
        os.close(fd)


def mem_write(pid: int, address: int, data: bytes) -> None:
    """Write `data` through /proc/PID/mem, as a debugger writes: private memory may forbid it in vain."""
    fd = os.open(f"/proc/{pid}/mem", os.O_RDWR | os.O_CLOEXEC)
    try:
        os.pwrite(fd, data, address)
    finally:
        os.close(fd)


def _transfer(name: str, pid: int, address: int, data: ctypes.Array[ctypes.c_char], count: int) -> None:
    local = _IoVec(ctypes.cast(data, ctypes.c_void_p), count)
    other = _IoVec(address, count)
    call = getattr(_libc, name)
    call.restype = ctypes.c_ssize_t
    done = call(pid, ctypes.byref(local), 1, ctypes.byref(other), 1, 0)
    if done < 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")
