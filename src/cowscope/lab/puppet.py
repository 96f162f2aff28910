"""Puppets: real processes that do one thing at a time, each told by a pipe of its own.

All puppets descend from one template, a fresh process of a few pages (`stub`), and share one CPU with the
controller: whoever frees or allocates a page does so on that CPU, so no page waits in another CPU's batch
with a reference that turns a reuse into a copy.

| who | pipes |
|---|---|
| controller | write end of each slot's commands, read end of each slot's replies, a pidfd of each puppet |
| puppet | the other ends of all slots, made before the template started |

A puppet that ends without being told is noticed by its pidfd, never by a wait that lasts for ever. When the
controller ends, in whatever way, every command pipe ends, and with it every puppet.

Not here: what a command means for a scenario (`kernel`), and what there is to see (`observe`).
"""

from __future__ import annotations

import fcntl
import os
import select
import signal
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from types import TracebackType

from cowscope.errors import CowscopeError
from cowscope.lab import stub

_COMMAND = struct.Struct("<8Q")
_REPLY = struct.Struct("<QQqQ")
_N_SLOTS = 24
_PATIENCE_MS = 10_000
_WORD = (1 << 64) - 1

_SA_FLAGS = 0x4 | 0x40000000 | 0x04000000  # SA_SIGINFO, SA_NODEFER, SA_RESTORER
_PR_SET_THP_DISABLE = 41


class Call:
    """Numbers of the system calls that puppets make, on x86-64."""

    READ, OPEN, CLOSE, MMAP, MPROTECT, MUNMAP, SIGACTION, PREAD64 = 0, 2, 3, 9, 10, 11, 13, 17
    PWRITE64, MREMAP, MADVISE, NANOSLEEP, CLONE, VFORK, EXECVE = 18, 25, 28, 35, 56, 58, 59
    FTRUNCATE, MLOCK, MUNLOCK, PRCTL, EXIT_GROUP = 77, 149, 150, 157, 231
    SPLICE, VMSPLICE, PIPE2, IO_URING_SETUP, IO_URING_REGISTER = 275, 278, 293, 425, 427


class PuppetDied(CowscopeError):
    """A puppet ended though nobody told it to."""

    def __init__(self, name: str, pid: int, doing: str) -> None:
        """Keep who it was, and what it was doing."""
        super().__init__(f"the puppet {name} (pid {pid}) ended unexpectedly while doing: {doing}")
        self.pid = pid


@dataclass(frozen=True, slots=True)
class Reply:
    """What came of a command: a value, or the signal that ended it with its code and address.

    Without a signal, `address` holds the ticks of the processor's clock that it took (`Troupe.tick_ns` each).
    """

    value: int
    signal: int = 0
    code: int = 0
    address: int = 0

    @property
    def error(self) -> int:
        """The error number of a system call that failed, else 0.

        >>> Reply((1 << 64) - 12).error, Reply(12).error
        (12, 0)
        """
        return (1 << 64) - self.value if self.value > _WORD - 4096 else 0


class Puppet:
    """One process under control; made by `Troupe.start` and `fork`."""

    def __init__(self, troupe: Troupe, name: str, slot: int, pid: int) -> None:
        """Take over the process `pid`, which waits at the pipe of `slot`."""
        self.troupe, self.name, self.slot, self.pid = troupe, name, slot, pid
        self._in, self._out = troupe.ends(slot)
        self._pidfd = os.pidfd_open(pid)
        self.ticks: int | None = None
        """Of the processor's clock, that the last command took in the puppet; None where a signal ended it."""
        self._poll = select.poll()
        self._poll.register(self._out, select.POLLIN)
        self._poll.register(self._pidfd, select.POLLIN)

    def do(self, number: int, *arguments: int, child: int = 0, tail: bytes = b"") -> Reply:
        """Have it carry out one command (see `stub`) and wait for the reply.

        `tail` goes into the command's own bytes, from argument 5 on: at `tail_address`.
        """
        words = [argument & _WORD for argument in arguments]
        command = _COMMAND.pack(number, *words, *[0] * (6 - len(words)), child)
        if tail:
            command = command[:40] + tail.ljust(24, b"\0")
        os.write(self._in, command)
        reply = Reply(*_REPLY.unpack(self._receive(32, f"command {number:#x}")))
        self.ticks = None if reply.signal else reply.address
        return reply

    def put(self, data: bytes) -> int:
        """Write up to 2,048 bytes into its buffer, where no command touches them; their address."""
        address = stub.buffer_address(self.slot) + 2048
        os.write(self._in, _COMMAND.pack(Call.READ, self._commands, address, len(data), 0, 0, 0, 0))
        os.write(self._in, data)
        self._receive(32, "put")
        return address

    @property
    def tail_address(self) -> int:
        """Where `tail` lies in the puppet's memory while it carries the command out."""
        return stub.buffer_address(self.slot) + 40

    def gather(self, addresses: list[int]) -> bytes:
        """The 8 bytes at each of `addresses`, one after the other, by plain loads; they must not fault."""
        found = b""
        for at in range(0, len(addresses), stub.MOST_GATHERED):
            part = addresses[at : at + stub.MOST_GATHERED]
            os.write(self._in, _COMMAND.pack(stub.GATHER, len(part), 0, 0, 0, 0, 0, 0))
            os.write(self._in, struct.pack(f"<{len(part)}Q", *part))
            found += self._receive(8 * len(part), "gather")
        return found

    def fork(self, name: str, number: int = Call.CLONE, flags: int = signal.SIGCHLD) -> Puppet:
        """A child, which has answered already that it is there. Raises `OSError` if the kernel refuses."""
        slot = self.troupe.free_slot()
        reply = self.do(number, flags, child=slot)
        if reply.error:
            raise OSError(reply.error, os.strerror(reply.error))
        return self.troupe.enter(name, slot, reply.value)

    def exit(self) -> None:
        """Have it exit, and wait until its memory is gone."""
        os.write(self._in, _COMMAND.pack(Call.EXIT_GROUP, 0, 0, 0, 0, 0, 0, 0))
        self._gone(_PATIENCE_MS)
        self.close()

    def exec(self) -> None:
        """Have it run its own program anew; its number of arguments tells it its slot."""
        path = stub.buffer_address(self.slot) + 2048
        data = b"/proc/self/exe".ljust(16, b"\0") + struct.pack("<Q", path) * self.slot + bytes(8)
        arguments = self.put(data) + 16
        null = path + len(data) - 8
        os.write(self._in, _COMMAND.pack(Call.EXECVE, path, arguments, null, 0, 0, 0, 0))
        self.ready()

    @property
    def _commands(self) -> int:
        return stub.FIRST_PIPE + 2 * self.slot

    def kill(self) -> None:
        """End it by force; for the end of a scenario, and after trouble."""
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            self._gone(_PATIENCE_MS)
        except ProcessLookupError:
            pass
        self.close()

    def close(self) -> None:
        """Give its slot back; the process has ended."""
        os.close(self._pidfd)
        self.troupe.leave(self)

    def answered(self) -> None:
        """Take the first reply of a fresh child."""
        self._receive(32, "fork")

    def ready(self) -> None:
        """Set up what a new program lacks: its handlers, and that children need no wait."""
        for number in (signal.SIGSEGV, signal.SIGBUS):
            tail = struct.pack("<QQQ", stub.HANDLER, _SA_FLAGS, 0)
            self._set_up(Call.SIGACTION, number, self.tail_address, 0, 8, tail=tail)
        ignore = struct.pack("<QQQ", signal.SIG_IGN, 0, 0)
        self._set_up(Call.SIGACTION, signal.SIGCHLD, self.tail_address, 0, 8, tail=ignore)
        if self.troupe.small_pages:
            self._set_up(Call.PRCTL, _PR_SET_THP_DISABLE, 1, 0, 0, 0)

    def _set_up(self, number: int, *arguments: int, tail: bytes = b"") -> None:
        reply = self.do(number, *arguments, tail=tail)
        if reply.error:
            raise OSError(reply.error, f"setting up a puppet: {os.strerror(reply.error)}")

    def _receive(self, n_bytes: int, doing: str) -> bytes:
        ready = self._poll.poll(_PATIENCE_MS)
        if not any(fd == self._out for fd, _ in ready):
            raise PuppetDied(self.name, self.pid, doing if ready else f"{doing}, without an answer")
        return os.read(self._out, n_bytes)

    def _gone(self, patience_ms: int) -> None:
        waiting = select.poll()
        waiting.register(self._pidfd, select.POLLIN)
        if not waiting.poll(patience_ms):
            raise PuppetDied(self.name, self.pid, "exit, without an end")


class Troupe:
    """A template and the puppets that descend from it; a context manager that leaves no process behind."""

    def __init__(self, cpu: int | None = None, *, small_pages: bool = True) -> None:
        """Start the template on `cpu` (the last one allowed, if not given), and stay there, too.

        With `small_pages` the kernel gives the puppets no huge pages, whatever its settings say.
        """
        self.small_pages = small_pages
        self._allowed = os.sched_getaffinity(0)
        self.cpu = max(self._allowed) if cpu is None else cpu
        os.sched_setaffinity(0, {self.cpu})
        self.puppets: list[Puppet] = []
        self._pipes = [_pipe_pair() for _ in range(_N_SLOTS + 1)]
        self._free = list(range(_N_SLOTS, 1, -1))
        self._tick_ns = 0.0
        self.program = _program()
        try:
            self._template = Puppet(self, "template", 1, self._spawn())
            self._template.ready()
        except BaseException:
            self._close_files()
            raise

    def __enter__(self) -> Troupe:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all puppets and the template."""
        self.close()

    def close(self) -> None:
        """End all puppets and the template, and let this process run where it was allowed to."""
        self.disband()
        if self._template.pid:
            self._template.kill()
            os.waitpid(self._template.pid, 0)
        self._close_files()

    def disband(self) -> None:
        """End all puppets but the template."""
        for puppet in list(self.puppets):
            puppet.kill()

    def start(self, name: str) -> Puppet:
        """A puppet that shares nothing of interest with any other: a child of the template."""
        return self._template.fork(name)

    def tick_ns(self) -> float:
        """Nanoseconds of a tick, measured once, by a sleep of a puppet; right to a hundredth."""
        if not self._tick_ns:
            asleep = struct.pack("<QQ", 0, 10_000_000)
            began = time.perf_counter_ns()
            self._template.do(Call.NANOSLEEP, self._template.tail_address, 0, tail=asleep)
            self._tick_ns = (time.perf_counter_ns() - began) / (self._template.ticks or 1)
        return self._tick_ns

    def free_slot(self) -> int:
        """A slot that no puppet has. Raises `CowscopeError` if there are too many puppets."""
        if not self._free:
            raise CowscopeError(f"the lab plays with at most {_N_SLOTS - 1} processes at a time")
        return self._free[-1]

    def enter(self, name: str, slot: int, pid: int) -> Puppet:
        """Take a fresh child in."""
        self._free.remove(slot)
        puppet = Puppet(self, name, slot, pid)
        self.puppets.append(puppet)
        puppet.answered()
        return puppet

    def leave(self, puppet: Puppet) -> None:
        """Give up a puppet that has ended."""
        if puppet in self.puppets:
            self.puppets.remove(puppet)
            self._drain(puppet.slot)
            self._free.append(puppet.slot)

    def ends(self, slot: int) -> tuple[int, int]:
        """The controller's descriptors: where commands of `slot` go in, where its replies come out."""
        (_, commands), (replies, _) = self._pipes[slot]
        return commands, replies

    def _drain(self, slot: int) -> None:
        """What a puppet that was killed has not read or what nobody took must not reach the next one."""
        for fd in (self._pipes[slot][0][0], self._pipes[slot][1][0]):
            waiting = select.poll()
            waiting.register(fd, select.POLLIN)
            while any(event & select.POLLIN for _, event in waiting.poll(0)):
                os.read(fd, 65536)

    def _spawn(self) -> int:
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        actions: list[tuple[int, int, int]] = [(os.POSIX_SPAWN_DUP2, null, fd) for fd in range(3)]
        for slot, ((commands, _), (_, replies)) in enumerate(self._pipes):
            target = stub.FIRST_PIPE + 2 * slot
            actions += [(os.POSIX_SPAWN_DUP2, commands, target), (os.POSIX_SPAWN_DUP2, replies, target + 1)]
        try:
            # A process group of its own: Ctrl-C at a terminal is for the controller, which then ends the puppets.
            return os.posix_spawn(
                f"/proc/self/fd/{self.program}", ["p"], {}, file_actions=actions, setpgroup=0
            )
        finally:
            os.close(null)

    def _close_files(self) -> None:
        for fd in self._descriptors():
            os.close(fd)
        self._pipes = []
        os.sched_setaffinity(0, self._allowed)

    def _descriptors(self) -> Iterator[int]:
        for one, other in self._pipes:
            yield from (*one, *other)
        if self._pipes:
            yield self.program


def _program() -> int:
    image = stub.image()
    fd = os.memfd_create("cowscope-puppet")
    os.write(fd, image)
    return _above_the_puppets(fd)


def _pipe_pair() -> tuple[tuple[int, int], tuple[int, int]]:
    one, other = os.pipe(), os.pipe()
    return (
        (_above_the_puppets(one[0]), _above_the_puppets(one[1])),
        (_above_the_puppets(other[0]), _above_the_puppets(other[1])),
    )


def _above_the_puppets(fd: int) -> int:
    """Move a descriptor out of the way of those that a puppet gets."""
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, stub.FIRST_PIPE + 2 * (_N_SLOTS + 2))
    os.close(fd)
    return moved
