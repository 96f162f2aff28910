"""The border to /proc: an OSError of the kernel becomes an error of cowscope here and nowhere else.

A process that has ended and one that may not be looked at are different news. The kernel says the first with
ENOENT (its directory is gone) or ESRCH (the directory was still open), the second with EACCES or EPERM. EIO
is what /proc/PID/mem and its like answer when the address space is torn down while being read: ended, too.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from cowscope.errors import AccessDenied, NoSuchProcess

_GONE = frozenset({errno.ENOENT, errno.ESRCH, errno.EIO})
_FORBIDDEN = frozenset({errno.EACCES, errno.EPERM})


@contextmanager
def asking_about(pid: int, path: str) -> Iterator[None]:
    """Translate an `OSError` raised inside: what was asked of the kernel is `path`, of process `pid`.

    Raises `NoSuchProcess` or `AccessDenied`; any other `OSError` passes unchanged, for it is no news about
    the process (too many open files, for example). Source: proc(5).
    """
    try:
        yield
    except OSError as error:
        if error.errno in _GONE:
            raise NoSuchProcess(pid) from error
        if error.errno in _FORBIDDEN:
            raise AccessDenied(pid, path) from error
        raise


def read_proc(pid: int, name: str) -> bytes:
    """The whole of `/proc/PID/name`, unparsed. Raises `NoSuchProcess` or `AccessDenied`.

    >>> import os
    >>> read_proc(os.getpid(), "stat").startswith(str(os.getpid()).encode())
    True
    """
    path = f"/proc/{pid}/{name}"
    with asking_about(pid, path), open(path, "rb", buffering=0) as file:
        return file.readall()


def read_setting(path: str) -> str | None:
    """The text of a one-line kernel setting without white space around it; None if absent or not readable.

    >>> read_setting("/proc/sys/kernel/no-such-setting") is None
    True
    """
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall().decode("ascii", "replace").strip()
    except OSError:
        return None
