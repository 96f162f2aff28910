"""The operations of a scenario, one class each; `str` gives the line that means it.

Pages are named, not numbered: `heap[3]` is the fourth page of the mapping `heap`, `heap[1..2]` the second and
third, `heap` all of it as it was mapped. Where a name lies is the business of `scenario`. Bytes are at most
eight, the size of one load; a shorter string is filled up with zeros.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeAlias

from cowscope import vm

LABEL_BYTES = 8
"""How much of a page a scenario writes and compares: its first bytes."""

_READ_WRITE = int(vm.Protection.READ | vm.Protection.WRITE)


class Advice(StrEnum):
    """The kinds of madvise(2), with the kernel's names."""

    DONTNEED = "dontneed"
    FREE = "free"
    REMOVE = "remove"
    DONTFORK = "dontfork"
    DOFORK = "dofork"
    WIPEONFORK = "wipeonfork"
    KEEPONFORK = "keeponfork"
    HUGEPAGE = "hugepage"
    NOHUGEPAGE = "nohugepage"
    MERGEABLE = "mergeable"
    UNMERGEABLE = "unmergeable"
    COLD = "cold"
    PAGEOUT = "pageout"
    POPULATE_READ = "populate_read"
    POPULATE_WRITE = "populate_write"
    GUARD_INSTALL = "guard_install"
    GUARD_REMOVE = "guard_remove"

    @property
    def number(self) -> int:
        """The value of MADV_… .

        >>> Advice("dontneed").number
        4
        """
        return int(vm.Advice[self.name])


@dataclass(frozen=True, slots=True)
class Range:
    """Pages `first` to before `first + count` of what is called `name`."""

    name: str
    first: int
    count: int = 1

    def __str__(self) -> str:
        """As a scenario has it.

        >>> str(Range("heap", 3)), str(Range("heap", 1, 2))
        ('heap[3]', 'heap[1..2]')
        """
        last = self.first + self.count - 1
        return f"{self.name}[{self.first}]" if self.count == 1 else f"{self.name}[{self.first}..{last}]"


def protection_text(protection: int) -> str:
    """`r`, `w` and `x` as far as set, else `none`.

    >>> protection_text(3), protection_text(0)
    ('rw', 'none')
    """
    text = "".join(letter for bit, letter in enumerate("rwx") if protection >> bit & 1)
    return text or "none"


def quoted(data: bytes) -> str:
    r"""Bytes as a scenario writes them, without the zeros that fill them up.

    >>> print(quoted(b"mine\0\0\0\0"), quoted(b'"\xff'))
    "mine" "\x22\xff"
    """
    shown = (chr(b) if 32 <= b < 127 and b not in b'"\\' else f"\\x{b:02x}" for b in data.rstrip(b"\0"))
    return '"' + "".join(shown) + '"'


@dataclass(frozen=True, slots=True)
class File:
    """A file of `pages` pages; page i holds the bytes `name.i`, unless it is `sparse` (all holes).

    `memfd` files live in memory, `disk` files on a file system that tracks writes to shared mappings.
    """

    name: str
    pages: int
    kind: str = "memfd"
    sparse: bool = False

    def __str__(self) -> str:
        """The line."""
        return f"{self.kind} {self.name} {self.pages}" + " sparse" * self.sparse

    def label(self, page: int) -> bytes:
        """What page `page` holds at first, as 8 bytes.

        >>> File("data", 4).label(2)
        b'data.2\\x00\\x00'
        """
        text = b"" if self.sparse else f"{self.name}.{page}".encode()
        return text[-LABEL_BYTES:].ljust(LABEL_BYTES, b"\0")


@dataclass(frozen=True, slots=True)
class Folios:
    """What follows needs a machine where memory marked HUGEPAGE gets folios of `pages` pages, too."""

    pages: int

    def __str__(self) -> str:
        """The line."""
        return f"folios {self.pages}"

    @property
    def order(self) -> int:
        """The power of two."""
        return self.pages.bit_length() - 1


@dataclass(frozen=True, slots=True)
class Merge:
    """The kernel's daemon (KSM) passes over all memory marked MERGEABLE until nothing more merges."""

    def __str__(self) -> str:
        """The line."""
        return "merge"


@dataclass(frozen=True, slots=True)
class Start:
    """A new process that shares nothing with any other."""

    process: str

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} start"


@dataclass(frozen=True, slots=True)
class Fork:
    """fork(2)."""

    process: str
    child: str

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} fork {self.child}"


@dataclass(frozen=True, slots=True)
class Exit:
    """exit(2): all its memory goes."""

    process: str

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} exit"


@dataclass(frozen=True, slots=True)
class Exec:
    """execve(2): all its memory goes, the process stays."""

    process: str

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} exec"


@dataclass(frozen=True, slots=True)
class Mmap:
    """mmap(2) of `pages` pages, known as `name` from then on.

    `file` is backed by that file from page `offset` on, else memory. `at` is a page of another name.
    """

    process: str
    name: str
    pages: int
    protection: int = _READ_WRITE
    shared: bool = False
    file: str | None = None
    offset: int = 0
    at: Range | None = None
    options: frozenset[str] = frozenset()

    def __str__(self) -> str:
        """The line."""
        words = [self.process, "mmap", self.name, str(self.pages), protection_text(self.protection)]
        words += ["shared" if self.shared else "private"]
        words += [f"{self.file}[{self.offset}]" if self.file else "anonymous"]
        words += ["at", str(self.at)] if self.at else []
        return " ".join([*words, *sorted(self.options)])


OPTIONS = {"populate": 0x8000, "noreserve": 0x4000, "hugetlb": 0x40000, "locked": 0x2000}
"""Options of `Mmap`, with the values of MAP_… ."""


@dataclass(frozen=True, slots=True)
class Munmap:
    """munmap(2)."""

    process: str
    range: Range

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} munmap {self.range}"


@dataclass(frozen=True, slots=True)
class Mprotect:
    """mprotect(2)."""

    process: str
    range: Range
    protection: int

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} mprotect {self.range} {protection_text(self.protection)}"


@dataclass(frozen=True, slots=True)
class Mremap:
    """mremap(2) to `pages` pages: in place, or `to` another place."""

    process: str
    range: Range
    pages: int
    to: Range | None = None

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} mremap {self.range} {self.pages}" + (f" to {self.to}" if self.to else "")


@dataclass(frozen=True, slots=True)
class Madvise:
    """madvise(2)."""

    process: str
    range: Range
    advice: Advice

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} madvise {self.range} {self.advice}"


@dataclass(frozen=True, slots=True)
class Load:
    """The processor loads the first bytes of a page; `data` is what they should be."""

    process: str
    at: Range
    data: bytes | None = None

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} load {self.at}" + (f" {quoted(self.data)}" if self.data is not None else "")


@dataclass(frozen=True, slots=True)
class Store:
    """The processor stores `data`, filled up to 8 bytes, at the start of a page."""

    process: str
    at: Range
    data: bytes

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} store {self.at} {quoted(self.data)}"


@dataclass(frozen=True, slots=True)
class Read:
    """The kernel writes `data` into a page on the process's behalf: read(2)."""

    process: str
    at: Range
    data: bytes

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} read {self.at} {quoted(self.data)}"


class Way(StrEnum):
    """How somebody else looks into a process's memory, or writes into it."""

    VM_READV = "vm_readv"
    VM_WRITEV = "vm_writev"
    MEM_READ = "mem_read"
    MEM_WRITE = "mem_write"


@dataclass(frozen=True, slots=True)
class Remote:
    """Another process reads a page's first bytes (`data` None) or writes `data` there.

    `way`: process_vm_readv(2), process_vm_writev(2), or a read or write of /proc/PID/mem. None of them shows as
    a page fault.
    """

    process: str
    at: Range
    way: Way
    data: bytes | None = None

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} {self.way} {self.at}" + (
            f" {quoted(self.data)}" if self.data is not None else ""
        )


class Holder(StrEnum):
    """Who refers to pages from outside: a device by a pin for writing, or a pipe by a plain reference."""

    PIN = "pin"
    SPLICE = "splice"


@dataclass(frozen=True, slots=True)
class Hold:
    """Somebody outside refers to pages of the process until `Release`: io_uring_register(2), vmsplice(2)."""

    process: str
    range: Range
    holder: Holder

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} {self.holder} {self.range}"


@dataclass(frozen=True, slots=True)
class Release:
    """The end of a `Hold`."""

    process: str
    range: Range
    holder: Holder

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} un{self.holder} {self.range}"


@dataclass(frozen=True, slots=True)
class Mlock:
    """mlock(2), or with `unlock` munlock(2)."""

    process: str
    range: Range
    unlock: bool = False

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} {'munlock' if self.unlock else 'mlock'} {self.range}"


@dataclass(frozen=True, slots=True)
class Write:
    """write(2) of `data`, filled up to 8 bytes, at the start of a file's page."""

    process: str
    at: Range
    data: bytes

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} write {self.at} {quoted(self.data)}"


@dataclass(frozen=True, slots=True)
class Truncate:
    """truncate(2): the file has `pages` pages from then on."""

    process: str
    file: str
    pages: int

    def __str__(self) -> str:
        """The line."""
        return f"{self.process} truncate {self.file} {self.pages}"


Access: TypeAlias = Load | Store | Read
"""Steps that touch one page and may fault."""

OfProcess: TypeAlias = (
    Start
    | Fork
    | Exit
    | Exec
    | Mmap
    | Munmap
    | Mprotect
    | Mremap
    | Madvise
    | Load
    | Store
    | Read
    | Remote
    | Hold
    | Release
    | Mlock
    | Write
    | Truncate
)
Step: TypeAlias = File | Folios | Merge | OfProcess
