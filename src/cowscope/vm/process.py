"""Processes: what a program can ask of the system, by bytes, with the kernel's own refusals.

| call | address space | afterwards |
|---|---|---|
| fork | a copy (`cowscope.vm.processes`) | both run |
| vfork | the parent's own | the parent is suspended until the child execs or exits |
| thread (CLONE_VM, CLONE_THREAD) | the process's own | ends with the process |
| exec | a new one; the old goes when nobody else has it | threads are gone |
| exit | goes when nobody else has it | a zombie until its parent waits; its children have no parent |
| wait | | the zombie is gone |

A call that is refused raises `CallRefused` and changes nothing, but where the kernel itself leaves things half done
(see `cowscope.vm.calls`, `advice`). Every call of a process that is not running raises `NotRunning`.

Source: `kernel_clone`, `copy_mm`, `begin_new_exec`, `do_exit`, `do_wait`.
Not modelled: signals (the caller gets the exception), init, process groups, CLONE_VM without CLONE_THREAD but vfork.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cowscope.errors import InvalidArgument, NoChild, NotRunning
from cowscope.vm import advice, calls, kernel_access, remap
from cowscope.vm.advice import Advice
from cowscope.vm.arguments import checked, number, octets
from cowscope.vm.calls import Backing, check_range
from cowscope.vm.files import File
from cowscope.vm.kernel_access import Hold
from cowscope.vm.mappings import MappingRecord
from cowscope.vm.rules import PROTECTION_BITS, MappingFlag, Protection
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.states import PageStates

if TYPE_CHECKING:
    from cowscope.vm.machine import Machine

_STACK_PAGES = 33


@dataclass(frozen=True, slots=True)
class Mapping:
    """One mapping as it was when asked for: bytes `start` to before `end`, as a line of /proc/PID/maps."""

    start: int
    end: int
    protection: Protection
    shared: bool
    file: int
    """The number of the file or shared object behind it; 0 for private anonymous memory."""
    offset: int
    """Where in the file it starts, in bytes."""
    flags: MappingFlag
    n_pages: int


class Process:
    """A process of a machine; `Machine.start` makes the first ones, `fork` the others.

    >>> from cowscope.vm import Machine
    >>> parent = Machine().start()
    >>> at = parent.mmap(8192, Protection.READ | Protection.WRITE)
    >>> parent.store(at, b"both see this")
    >>> child = parent.fork()
    >>> child.store(at, b"only")
    >>> parent.load(at, 13), child.load(at, 13)
    (b'both see this', b'only see this')
    >>> child.exit(3)
    >>> parent.wait() == (child.pid, 3)
    True
    """

    def __init__(self, machine: Machine, pid: int, space: AddressSpace, parent: Process | None) -> None:
        """Take a place in the machine; not for callers."""
        self.machine = machine
        self.pid = pid
        self.parent = parent
        self.children: list[Process] = []
        self.threads: list[Thread] = []
        self.exit_status: int | None = None
        self._space: AddressSpace | None = space
        self._waits_for: Process | None = None

    def __repr__(self) -> str:
        """Show pid and state."""
        return f"<Process {self.pid} {'running' if self.is_running else 'suspended' if self._space else 'zombie'}>"

    @property
    def is_running(self) -> bool:
        """Whether it may make calls: neither ended nor suspended by vfork."""
        return self._space is not None and self._waits_for is None

    @property
    def space(self) -> AddressSpace:
        """Its address space; `NotRunning` when it has none any more or is suspended."""
        if self._space is None:
            raise NotRunning(f"process {self.pid} has ended")
        if self._waits_for is not None:
            raise NotRunning(f"process {self.pid} waits until its vfork child {self._waits_for.pid} is done")
        return self._space

    def lives_in(self, space: AddressSpace) -> bool:
        """Whether `space` is this process's, running or suspended."""
        return self._space is space

    # --- memory ---

    @checked
    def mmap(
        self,
        length: int,
        protection: Protection | int,
        *,
        shared: bool = False,
        file: File | None = None,
        offset: int = 0,
        opened_for_writing: bool = True,
        address: int = 0,
        fixed: bool = False,
        replace: bool = True,
        populate: bool = False,
        locked: bool = False,
        reserve: bool = True,
        huge: int = 1,
    ) -> int:
        """Map `length` bytes and return the address, in bytes.

        `address` is a hint, or with `fixed` the place (MAP_FIXED; without `replace` MAP_FIXED_NOREPLACE).
        `populate`, `locked`: fault everything in at once, as far as that can be. Not `reserve`: MAP_NORESERVE.
        `huge`: base pages in a hugetlb page, `hugetlb.HUGE` or `hugetlb.GIGANTIC`, from a pool of the machine's.

        Raises `InvalidArgument` (EINVAL), `NoMemory` (no gap), `AlreadyMapped`, `Forbidden` (shared, writable, but
        the file was not opened for writing).
        """
        if file is not None and not file.is_of(self.machine.memory):
            raise InvalidArgument("mmap: the file is another machine's")
        backing = None if file is None else Backing(file.number, offset, opened_for_writing)
        return calls.mmap(
            self.space,
            length,
            protection=protection,
            shared=shared,
            address=address,
            fixed=fixed,
            replace=replace,
            file=backing,
            populated=populate,
            locked=locked,
            huge=huge,
            extra=0 if reserve else int(MappingFlag.NO_RESERVE),
        )

    def map_stack(self) -> int:
        """Give the process a stack that grows by itself, and return its top, in bytes (what exec does)."""
        top = self.space.layout.stack_top
        size = _STACK_PAGES * self.space.layout.page_size
        rw, grows = Protection.READ | Protection.WRITE, int(MappingFlag.GROWS_DOWN)
        calls.mmap(self.space, size, protection=rw, address=top - size, fixed=True, extra=grows)
        return top

    @checked
    def munmap(self, address: int, length: int) -> None:
        """Take away what is mapped in the range; `InvalidArgument` unless `address` is a page's."""
        calls.munmap(self.space, address, length)

    @checked
    def mprotect(self, address: int, length: int, protection: Protection | int) -> None:
        """Change what the range allows.

        Raises `InvalidArgument`, `Forbidden` (see `mmap`), `NoMemory` at a gap: what lies before it is changed.
        """
        calls.mprotect(self.space, address, length, protection)

    @checked
    def mremap(
        self,
        address: int,
        old_length: int,
        new_length: int,
        *,
        may_move: bool = True,
        new_address: int | None = None,
        keep_old: bool = False,
    ) -> int:
        """Grow, shrink or move memory, and return where it is; `keep_old` is MREMAP_DONTUNMAP.

        Raises `InvalidArgument`, `BadAddress` (no single mapping there), `NoMemory` (no room).
        """
        return remap.mremap(
            self.space,
            address,
            old_length,
            new_length,
            may_move=may_move,
            new_address=new_address,
            dont_unmap=keep_old,
        )

    @checked
    def madvise(self, address: int, length: int, what: Advice | int) -> None:
        """Advise the kernel; see `cowscope.vm.advice`.

        Raises `InvalidArgument`, `NoMemory` (a gap; the rest is done), `BadAddress` (nothing can be populated),
        `Forbidden` (REMOVE).
        """
        advice.madvise(self.space, address, length, what)

    @checked
    def brk(self, address: int = 0) -> int:
        """Move the end of the heap and return it; an address below the heap only asks. `NoMemory` if no room."""
        return calls.brk(self.space, address)

    @checked
    def mlock(self, address: int, length: int) -> None:
        """Mark the range locked and fault it in.

        `NoMemory` at a gap (what lies before it is locked) and where a page cannot be had (all of it is locked).
        """
        calls.mlock(self.space, address, length)

    @checked
    def munlock(self, address: int, length: int) -> None:
        """Take the mark of `mlock` away; `NoMemory` at a gap."""
        calls.mlock(self.space, address, length, locked=False)

    def load(self, address: int, count: int = 1) -> bytes:
        """The `count` bytes at `address`; raises `SegmentationFault`, `BusError`, `OutOfMemory`.

        What it did before it failed is undone (`cowscope.vm.undo`).
        """
        if type(address) is not int or type(count) is not int:
            address, count = number("load: address", address), number("load: count", count)
        self._check_access(address, count)
        return self.space.load(address, count)

    def store(self, address: int, data: bytes) -> None:
        """Write `data` at `address`, all of it or not a byte; raises as `load` does, and leaves as little behind."""
        if type(address) is not int or type(data) is not bytes:
            address, data = number("store: address", address), octets("store: data", data)
        self._check_access(address, len(data))
        self.space.store(address, data)

    def _check_access(self, address: int, count: int) -> None:
        if address < 0 or count < 0 or address + count > 1 << 64:
            raise InvalidArgument(f"{count} bytes at {address}: no addresses")

    @checked
    def pin(self, address: int, length: int, *, write: bool = True) -> Hold:
        """Let a device refer to the range until `release`: fork copies these pages at once.

        Raises `BadAddress` where the pages cannot be had, and holds none then; pages before it stay faulted in.
        """
        start, n_pages = check_range(self.space, address, length)
        return kernel_access.hold(self.space, start, n_pages, pin=True, write=write)

    @checked
    def splice(self, address: int, length: int) -> Hold:
        """Let a pipe refer to the range (vmsplice) until `release`: a write that traps on them copies.

        It takes the pages before the first that cannot be had, and raises `BadAddress` where that is the first.
        """
        start, n_pages = check_range(self.space, address, length)
        return kernel_access.hold(self.space, start, n_pages, pin=False, write=False)

    def mappings(self) -> list[Mapping]:
        """All mappings, by ascending address."""
        table = self.space.mappings
        shift = self.space.layout.page_shift
        return [_mapping(record, shift) for record in table.records(slice(0, len(table)))]

    @checked
    def pages(self, address: int, length: int) -> PageStates:
        """The states of the pages of a range, as arrays side by side."""
        start, n_pages = check_range(self.space, address, length)
        return self.space.page_states(np.arange(start, start + n_pages))

    # --- processes ---

    def fork(self) -> Process:
        """A child with a copy of this address space: pages shared, and copied when either side writes."""
        return self.machine.adopt(self, self.machine.fork(self.space.id))

    def vfork(self) -> Process:
        """A child in this very address space; this process is suspended until the child execs or exits."""
        child = self.machine.adopt(self, self.space)
        self._waits_for = child
        return child

    def thread(self) -> Thread:
        """Another thread of this process."""
        self.space  # noqa: B018 - only a running process can
        started = Thread(self, self.machine.new_pid())
        self.space.cpus.add(started.tid % self.machine.n_cpus)
        self.threads.append(started)
        return started

    def exec(self) -> None:
        """Begin anew with an empty address space."""
        old = self.space
        self._space = self.machine.spawn()
        self._leave(old)

    @checked
    def exit(self, status: int = 0) -> None:
        """End; memory goes at once, the exit status waits for the parent."""
        if not 0 <= status <= 255:
            raise InvalidArgument(f"exit status {status}")
        old, self._space, self.exit_status = self.space, None, status
        self._leave(old)
        for child in self.children:
            child.parent = None
            if child.exit_status is not None:
                self.machine.bury(child)
        self.children = []
        if self.parent is None:
            self.machine.bury(self)

    def _leave(self, space: AddressSpace) -> None:
        self.threads = []
        if self.parent is not None and self.parent._waits_for is self:
            self.parent._waits_for = None
        self.machine.leave(space)

    @checked
    def wait(self, pid: int | None = None) -> tuple[int, int] | None:
        """Pid and exit status of a child that has ended (of child `pid`), which is then gone; None if none has yet.

        Raises `NoChild` when there is none (or no such) to wait for.
        """
        self.space  # noqa: B018 - only a running process can wait
        candidates = [child for child in self.children if pid in (None, child.pid)]
        if not candidates:
            raise NoChild(f"process {self.pid} has no child {'' if pid is None else pid}".rstrip())
        for child in candidates:
            if child.exit_status is not None:
                self.children.remove(child)
                self.machine.bury(child)
                return child.pid, child.exit_status
        return None


@dataclass(eq=False, slots=True)
class Thread:
    """A further thread of a process: the same memory, another flow of control.

    >>> from cowscope.vm import Machine
    >>> process = Machine().start()
    >>> at = process.mmap(4096, Protection.READ | Protection.WRITE)
    >>> process.thread().store(at, b"x")
    >>> process.load(at)
    b'x'
    """

    process: Process
    tid: int

    def load(self, address: int, count: int = 1) -> bytes:
        """As `Process.load`."""
        self._check()
        return self.process.load(address, count)

    def store(self, address: int, data: bytes) -> None:
        """As `Process.store`."""
        self._check()
        self.process.store(address, data)

    def exit(self) -> None:
        """End this thread alone."""
        self._check()
        self.process.threads.remove(self)

    def _check(self) -> None:
        if self not in self.process.threads:
            raise NotRunning(f"thread {self.tid} has ended")


def _mapping(record: MappingRecord, shift: int) -> Mapping:
    return Mapping(
        start=record.start << shift,
        end=record.end << shift,
        protection=Protection(record.flags & PROTECTION_BITS),
        shared=bool(record.flags & MappingFlag.SHARED),
        file=record.object,
        offset=record.offset << shift if record.object else 0,
        flags=MappingFlag(record.flags),
        n_pages=record.end - record.start,
    )
