"""Tracepoints: their numbers and the layout of their records, read from tracefs.

tracefs is often not mounted, and mounting it for everybody is not ours to do. Whoever may mount gets a
*detached* mount instead (fsopen, fsmount; Linux 5.2): a file system that hangs in no mount table, is reached
through a file descriptor only, and is gone when that is closed. Source: Documentation/trace/ftrace.rst,
Documentation/trace/events.rst, fsopen(2), fsmount(2).
"""

from __future__ import annotations

import ctypes
import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import NamedTuple

from cowscope.errors import MissingRight
from cowscope.linux.border import read_setting

MOUNT_POINTS = ("/sys/kernel/tracing", "/sys/kernel/debug/tracing")
"""Where tracefs usually is."""

_SYS_FSOPEN, _SYS_FSCONFIG, _SYS_FSMOUNT = 430, 431, 432  # the same on every architecture
_CLOEXEC, _FSCONFIG_CMD_CREATE = 1, 6
_FIELD = re.compile(rb"^\tfield:([^;\n]+);\toffset:(\d{1,9});\tsize:(\d{1,9});\tsigned:([01]);", re.MULTILINE)
_ID = re.compile(rb"^ID: (\d{1,9})$", re.MULTILINE)


class Unreadable(MissingRight):
    """A tracefs is mounted, and closed to this user."""


class TraceField(NamedTuple):
    """Where a field lies in a raw record: bytes from its start, bytes long, two's complement or not."""

    offset: int
    size: int
    signed: bool


@dataclass(frozen=True)
class TraceEvent:
    """A tracepoint of the running kernel; `id` is the `config` of a perf event of type
    PERF_TYPE_TRACEPOINT."""

    system: str
    name: str
    id: int
    fields: dict[str, TraceField]


def event(system: str, name: str) -> TraceEvent | None:
    """The tracepoint `system:name`, or None if this kernel has none of that name.

    Raises `MissingRight` if tracefs cannot be read: not mounted and not allowed to mount, mounted for
    others, or locked down.
    """
    try:
        with open_tracefs() as root:
            data = _read_at(root, f"events/{system}/{name}/format")
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise _missing_right() from error
    event_id, fields = parse_format(data)
    return TraceEvent(system, name, event_id, fields)


def parse_format(data: bytes) -> tuple[int, dict[str, TraceField]]:
    r"""The number and the fields in the text of a tracepoint's `format` file. Raises `ValueError` without a
    number.

    >>> parse_format(b"name: x\nID: 7\nformat:\n\tfield:unsigned long ip;\toffset:16;\tsize:8;\tsigned:0;\n")
    (7, {'ip': TraceField(offset=16, size=8, signed=False)})
    """
    number = _ID.search(data)
    if number is None:
        raise ValueError("not the format file of a tracepoint: it has no ID")
    return int(number[1]), {
        _field_name(declaration): TraceField(int(offset), int(size), signed == b"1")
        for declaration, offset, size, signed in _FIELD.findall(data)
    }


def _field_name(declaration: bytes) -> str:
    name = declaration.rsplit(None, 1)[-1] if declaration.strip() else b""
    return name.partition(b"[")[0].lstrip(b"*").decode("ascii", "replace")


def parse_mounts(data: bytes) -> list[str]:
    r"""The places in the text of a `mounts` file where a tracefs is mounted.

    >>> parse_mounts(b"proc /proc proc rw 0 0\nnone /a\\040b tracefs rw 0 0\n")
    ['/a b']
    """
    lines = (line.split(b" ") for line in data.split(b"\n"))
    return [os.fsdecode(_unescape(line[1])) for line in lines if len(line) > 2 and line[2] == b"tracefs"]


def _unescape(path: bytes) -> bytes:
    return re.sub(rb"\\([0-3][0-7]{2})", lambda match: bytes([int(match[1], 8)]), path)


def read_mounts() -> bytes:
    """`/proc/self/mounts`, unparsed."""
    with open("/proc/self/mounts", "rb", buffering=0) as file:
        return file.readall()


@contextmanager
def open_tracefs() -> Iterator[int]:
    """A descriptor to open paths of a tracefs from (`dir_fd`): a mounted one if it may be read, else our own.

    Raises `MissingRight` if there is neither.
    """
    root = _open_mounted()
    if root is None:
        root = _mount_detached()
    try:
        yield root
    finally:
        os.close(root)


def _open_mounted() -> int | None:
    for path in (*MOUNT_POINTS, *parse_mounts(read_mounts())):
        try:
            root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            os.stat("events", dir_fd=root)
        except OSError:  # the bare mount point
            os.close(root)
            continue
        return root
    return None


def _mount_detached() -> int:
    try:
        context = _syscall(_SYS_FSOPEN, b"tracefs", _CLOEXEC)
        try:
            _syscall(_SYS_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0)
            return _syscall(_SYS_FSMOUNT, context, _CLOEXEC, 0)
        finally:
            os.close(context)
    except OSError as error:
        raise _missing_right(error.errno) from error


def _syscall(number: int, *arguments: bytes | int | None) -> int:
    libc = ctypes.CDLL(None, use_errno=True)
    words = (ctypes.c_long(a) if isinstance(a, int) else ctypes.c_char_p(a) for a in arguments)
    result = int(libc.syscall(ctypes.c_long(number), *words))
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def _read_at(root: int, path: str) -> bytes:
    with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC, dir_fd=root), "rb", buffering=0) as file:
        return file.readall()


def _missing_right(code: int | None = errno.EPERM) -> MissingRight:
    if "[confidentiality]" in (read_setting("/sys/kernel/security/lockdown") or ""):
        return MissingRight("tracepoints are locked down", "boot without lockdown=confidentiality")
    if code == errno.ENODEV:
        return MissingRight("this kernel has no tracefs", "boot a kernel built with CONFIG_FTRACE")
    for path in MOUNT_POINTS:
        if os.path.ismount(path):
            # Not by a mode for all: the files that describe an event are closed to others whatever the mode says.
            remedy = f'sudo mount -o remount,mode=750,gid="$(id -g)" {path}'
            return Unreadable("tracefs may not be read by this user", remedy)
    remedy = f'sudo mount -t tracefs -o mode=750,gid="$(id -g)" nodev {MOUNT_POINTS[0]}'
    return MissingRight("tracefs is not mounted", remedy)
