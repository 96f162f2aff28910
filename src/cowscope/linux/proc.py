"""What /proc says about a process: mappings, state, command, threads, children.

A reader takes a pid and returns bytes; the parser beside it takes bytes. Names, paths and command lines come
from the process itself and may hold anything: they are decoded with `surrogateescape` and never trusted.
Source: proc(5); in the kernel fs/proc/task_mmu.c (show_map_vma), fs/proc/array.c (do_task_stat).
"""

from __future__ import annotations

import os
import re
from collections import defaultdict, deque
from dataclasses import dataclass
from enum import IntFlag

import numpy as np
import numpy.typing as npt
import psutil

from cowscope.errors import AccessDenied, NoSuchProcess
from cowscope.linux.border import asking_about, read_proc

_MAP_LINE = re.compile(
    rb"^([0-9a-f]{1,16})-([0-9a-f]{1,16}) ([r-])([w-])([x-])([sp]) ([0-9a-f]{1,16})"
    rb" ([0-9a-f]{2,8}):([0-9a-f]{2,8}) ([0-9]{1,20})(?: +(.*))?$",
    re.MULTILINE,
)
_UINT64 = (1 << 64) - 1


class Protection(IntFlag):
    """What a mapping allows; the values of `Maps.protection` are sums of these."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


@dataclass(frozen=True)
class Maps:
    """The mappings of an address space as columns, in address order; row `i` of each is the same mapping."""

    start: npt.NDArray[np.uint64]
    """First byte address."""
    end: npt.NDArray[np.uint64]
    """Address after the last byte."""
    protection: npt.NDArray[np.uint8]
    """Sum of `Protection` flags; 0 is PROT_NONE."""
    shared: npt.NDArray[np.bool_]
    """MAP_SHARED, as opposed to private (copy-on-write)."""
    offset: npt.NDArray[np.uint64]
    """Byte offset into the file."""
    device: npt.NDArray[np.uint64]
    """Device of the file as `os.makedev` packs it; 0 for anonymous memory."""
    inode: npt.NDArray[np.uint64]
    """Inode of the file; 0 for anonymous memory."""
    names: list[str]
    """Path (with the kernel's " (deleted)"), bracketed name such as "[heap]", or "" for plain anonymous
    memory."""

    def __len__(self) -> int:
        """Number of mappings."""
        return len(self.names)


def read_maps(pid: int) -> bytes:
    """`/proc/PID/maps`, unparsed; empty for kernel threads and zombies. Raises `NoSuchProcess`,
    `AccessDenied`."""
    return read_proc(pid, "maps")


def parse_maps(data: bytes) -> Maps:
    r"""The mappings in the text of a `maps` file; lines that are not whole are left out.

    The kernel writes a newline in a path as `\012`; it is turned back.

    >>> m = parse_maps(b"1000-3000 rw-p 00000000 08:01 42                 /tmp/a (deleted)\n")
    >>> int(m.start[0]), int(m.end[0]), int(m.protection[0]), bool(m.shared[0]), int(m.inode[0]), m.names
    (4096, 12288, 3, False, 42, ['/tmp/a (deleted)'])
    """
    lines = _MAP_LINE.findall(data)
    return Maps(
        start=_hex_column([line[0] for line in lines]),
        end=_hex_column([line[1] for line in lines]),
        protection=np.array([_protection(*line[2:5]) for line in lines], np.uint8),
        shared=np.array([line[5] == b"s" for line in lines], np.bool_),
        offset=_hex_column([line[6] for line in lines]),
        device=np.array([os.makedev(int(line[7], 16), int(line[8], 16)) for line in lines], np.uint64),
        inode=np.array([int(line[9]) & _UINT64 for line in lines], np.uint64),
        names=[_decode(line[10].replace(rb"\012", b"\n")) for line in lines],
    )


def _hex_column(texts: list[bytes]) -> npt.NDArray[np.uint64]:
    return np.array([int(text, 16) for text in texts], np.uint64)


def _protection(read: bytes, write: bytes, execute: bytes) -> int:
    return (read == b"r") * 1 | (write == b"w") * 2 | (execute == b"x") * 4


def _decode(raw: bytes) -> str:
    return raw.decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class Stat:
    """The fields of `/proc/PID/stat` that cowscope uses."""

    pid: int
    comm: str
    """Name of the main thread; up to 15 bytes of anything but NUL."""
    state: str
    """One letter: R running, S sleeping, D waiting for I/O, T stopped, Z zombie, X dead …"""
    ppid: int
    pgrp: int
    num_threads: int
    starttime_ticks: int
    """Clock ticks (`sysconf(SC_CLK_TCK)` per second) from boot to its start; with the pid it names a
    process."""
    vsize: int
    """Virtual memory, bytes."""
    rss: int
    """Resident pages (a counter that the kernel sums up lazily: not exact)."""

    @property
    def has_ended(self) -> bool:
        """Whether the process is a zombie or dead: nothing is mapped any more."""
        return self.state in "ZXx"


def read_stat(pid: int) -> bytes:
    """`/proc/PID/stat`, unparsed. Raises `NoSuchProcess`."""
    return read_proc(pid, "stat")


def parse_stat(data: bytes) -> Stat:
    """The fields of a `stat` file. The name may hold spaces, brackets and newlines: it ends at the *last*
    bracket.

    Raises `ValueError` if `data` is not a whole stat line.

    >>> s = parse_stat(b"7 (a) b) S 1 7 7 0 -1 0 0 0 0 0 0 0 0 0 20 0 3 0 99 4096 2 0")
    >>> s.comm, s.state, s.ppid, s.num_threads, s.starttime_ticks, s.rss
    ('a) b', 'S', 1, 3, 99, 2)
    """
    opening, closing = data.find(b" ("), data.rfind(b") ")
    fields = data[closing + 2 :].split()
    if opening < 0 or closing < opening or len(fields) < 22:
        raise ValueError("not a whole line of /proc/PID/stat")
    numbers = [int(field) for field in fields[1:22]]
    return Stat(
        pid=int(data[:opening]),
        comm=_decode(data[opening + 2 : closing]),
        state=_decode(fields[0]),
        ppid=numbers[0],
        pgrp=numbers[1],
        num_threads=numbers[16],
        starttime_ticks=numbers[18],
        vsize=numbers[19],
        rss=numbers[20],
    )


@dataclass(frozen=True)
class PageTables:
    """How much of an address space is there to be walked through."""

    entries: int
    """Entries in its page tables, used or not."""
    anonymous_pages: int
    """Anonymous pages mapped by them (a counter that the kernel sums up lazily: not exact)."""


def parse_page_tables(status: bytes) -> PageTables:
    r"""The `VmPTE` and `RssAnon` lines of `/proc/PID/status`; zeroes for kernel threads and zombies.

    >>> parse_page_tables(b"Name:\tVmPTE: 9\nRssAnon:\t      40 kB\nVmPTE:\t      16 kB\n")
    PageTables(entries=2048, anonymous_pages=10)
    """
    kib = {}
    for line in status.split(b"\n"):
        key, _, value = line.partition(b":")
        number = value.removesuffix(b"kB").strip()
        if key in (b"VmPTE", b"RssAnon") and number.isdigit():
            kib[key] = int(number)
    size = os.sysconf("SC_PAGE_SIZE") // 1024
    return PageTables(kib.get(b"VmPTE", 0) * 1024 // 8, kib.get(b"RssAnon", 0) // size)


def read_status(pid: int) -> bytes:
    """`/proc/PID/status`, unparsed. Raises `NoSuchProcess`."""
    return read_proc(pid, "status")


def cmdline(pid: int) -> tuple[str, ...]:
    """The arguments of the process as it shows them; empty for kernel threads and zombies.

    A process that rewrites its title shows one string with spaces. Raises `NoSuchProcess`.

    >>> len(cmdline(os.getpid())) > 0
    True
    """
    raw = read_proc(pid, "cmdline").rstrip(b"\0")
    return tuple(_decode(part) for part in raw.split(b"\0")) if raw else ()


def exe(pid: int) -> str:
    """Path of the executable, with " (deleted)" if it was; "" for kernel threads and zombies.

    Raises `NoSuchProcess`, `AccessDenied`.
    """
    path = f"/proc/{pid}/exe"
    try:
        with asking_about(pid, path):
            return _decode(os.readlink(os.fsencode(path)))
    except NoSuchProcess:
        read_stat(pid)  # says whether it is the process that is missing, or only its executable
        return ""


def threads(pid: int) -> list[int]:
    """Thread ids of the process, in ascending order. Raises `NoSuchProcess`, `AccessDenied`.

    >>> os.getpid() in threads(os.getpid())
    True
    """
    path = f"/proc/{pid}/task"
    with asking_about(pid, path):
        return sorted(int(name) for name in os.listdir(path))


def children(pid: int) -> list[int]:
    """Pids of the direct children, in ascending order, zombies included. Raises `NoSuchProcess`.

    Each thread has its own list of the children that it forked (proc(5), `/proc/PID/task/TID/children`,
    Linux 3.5 with CONFIG_PROC_CHILDREN); where the kernel lacks it, all processes are asked for their
    parent.
    """
    found: set[int] = set()
    for tid in threads(pid):
        try:
            found.update(map(int, read_proc(pid, f"task/{tid}/children").split()))
        except NoSuchProcess:
            if os.path.exists(f"/proc/{pid}/task/{tid}"):
                return _parents().get(pid, [])
    return sorted(found)


def _parents() -> dict[int, list[int]]:
    by_parent = defaultdict(list)
    for pid in psutil.pids():
        try:
            by_parent[parse_stat(read_stat(pid)).ppid].append(pid)
        except (NoSuchProcess, AccessDenied):
            continue
    return by_parent


def tree(pid: int) -> list[int]:
    """`pid` and all its descendants, root first, each generation after the one before.

    Processes that end meanwhile are left out; a child whose parent died before the look has moved to init
    and is not found. Raises `NoSuchProcess` for the root alone.
    """
    found, waiting = [pid], deque(children(pid))
    while waiting:
        child = waiting.popleft()
        try:
            waiting.extend(children(child))
        except NoSuchProcess:
            continue
        found.append(child)
    return found
