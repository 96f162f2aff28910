"""BPF by system call: arrays that we can map, programs, and where they run.

Everything is a file descriptor: closed, by us or by our death, it is gone from the kernel, a program from its
tracepoint too. Source: bpf(2), Documentation/bpf/, perf_event_open(2) (PERF_EVENT_IOC_SET_BPF).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import sys
from enum import IntEnum

from cowscope.errors import MissingRight
from cowscope.linux.bpf_code import Code, Register

_SYSCALL_NUMBER = {"x86_64": 321, "aarch64": 280}
_MAP_CREATE, _PROG_LOAD, _OBJECT_INFO, _RAW_TRACEPOINT_OPEN = 0, 5, 15, 17
_ARRAY, _MAPPABLE = 2, 1 << 10
_ATTR_BYTES = 128
_LICENSE = ctypes.create_string_buffer(b"Apache-2.0")
_LOG_BYTES = 1 << 16
_MISSES_AT, _INFO_BYTES = 208, 216


FIRST_PID_NAMESPACE = 0xEFFFFFFC
"""Inode of /proc/self/ns/pid where thread ids are those that programs see (PROC_PID_INIT_INO, include/linux/proc_ns.h)."""


class ProgramType(IntEnum):
    """How a program is called: with the tracepoint's record, or with its bare arguments as u64."""

    TRACEPOINT = 5
    RAW_TRACEPOINT = 17


def create_array(value_bytes: int, entries: int = 1) -> int:
    """An array of zeroes, of which `mmap` of the descriptor sees all values in a row.

    `value_bytes` is a multiple of 8. Raises `MissingRight`, `OSError` (E2BIG before Linux 5.18: values above 4 MiB).
    """
    return _bpf(_MAP_CREATE, struct.pack("=IIIII", _ARRAY, 4, value_bytes, entries, _MAPPABLE))


def load_program(kind: ProgramType, code: bytes) -> int:
    """Have the kernel check and translate a program. Raises `MissingRight`, `OSError` with its reason."""
    text = ctypes.create_string_buffer(code, len(code))

    def attributes(log: ctypes.Array[ctypes.c_char] | None) -> bytes:
        level, size, place = (1, _LOG_BYTES, ctypes.addressof(log)) if log is not None else (0, 0, 0)
        addresses = ctypes.addressof(text), ctypes.addressof(_LICENSE)
        return struct.pack("=IIQQIIQ", kind, len(code) // 8, *addresses, level, size, place)

    try:
        return _bpf(_PROG_LOAD, attributes(None))
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EACCES):
            raise
        log = ctypes.create_string_buffer(_LOG_BYTES)
        try:
            return _bpf(_PROG_LOAD, attributes(log))
        except OSError:
            reason = log.value.decode("ascii", "replace").strip().splitlines()[-2:-1]
            raise OSError(error.errno, f"BPF program refused: {' '.join(reason)}") from error


def attach_raw(tracepoint: str, program: int) -> int:
    """Run a RAW_TRACEPOINT program at each hit of `tracepoint`, by whatever task, until the result is closed."""
    name = ctypes.create_string_buffer(tracepoint.encode())
    return _bpf(_RAW_TRACEPOINT_OPEN, struct.pack("=QI", ctypes.addressof(name), program))


def refusal() -> str:
    """Why programs of ours can tell nothing here, as tried; empty if they can. Nothing is left loaded."""
    if os.stat("/proc/self/ns/pid").st_ino != FIRST_PID_NAMESPACE:
        return "programs would see other thread ids than this pid namespace has"
    code = Code()
    code.set(Register.R0, 1)
    code.exit()
    try:
        os.close(create_array(8))
        os.close(load_program(ProgramType.TRACEPOINT, code.build()))
    except MissingRight as error:
        return error.what
    except OSError as error:
        return error.strerror or str(error)
    return ""


def missed(program: int) -> int:
    """Hits at which the kernel passed a TRACEPOINT program over, since another program ran there; 0 before Linux 5.12."""
    info = ctypes.create_string_buffer(_INFO_BYTES)
    _bpf(_OBJECT_INFO, struct.pack("=IIQ", program, _INFO_BYTES, ctypes.addressof(info)))
    return int.from_bytes(info.raw[_MISSES_AT:], sys.byteorder)


def _bpf(command: int, attributes: bytes) -> int:
    machine = os.uname().machine
    if machine not in _SYSCALL_NUMBER:
        raise MissingRight(f"no BPF programs on {machine}", "use x86-64 or arm64")
    libc = ctypes.CDLL(None, use_errno=True)
    buffer = ctypes.create_string_buffer(attributes, _ATTR_BYTES)
    fd = int(libc.syscall(_SYSCALL_NUMBER[machine], command, buffer, _ATTR_BYTES))
    if fd >= 0:
        return fd
    number = ctypes.get_errno()
    if number in (errno.EPERM, errno.ENOSYS):
        raise MissingRight(f"BPF: {os.strerror(number)}", "run as root or with CAP_BPF and CAP_PERFMON")
    raise OSError(number, f"BPF: {os.strerror(number)}")
