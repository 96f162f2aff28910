"""A recording while it runs: drain rings, follow forks, take censuses, know when to stop.

The loop copies bytes and does nothing else per event. Only the task ring is looked into, to meet a new
child: it gets a census right away and further ones at growing ages (so a long life costs little).
Whatever ends the recording, what has been drained is on disk already.
"""

from __future__ import annotations

import errno
import heapq
import resource
import select
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cowscope.errors import AccessDenied, NoSuchProcess
from cowscope.linux.perf_records import Comm, Exit, Fork, RawSample, records
from cowscope.recorder import census
from cowscope.recorder.channels import Channel
from cowscope.recorder.probes import TICK_S, Probes
from cowscope.recording.journal import JournalWriter, Note
from cowscope.units import NS_PER_S

CENSUS_AGES_S = (1.0, 4.0, 16.0, 64.0, 256.0, 1024.0)
"""Ages of a process at which it is looked at again."""

CENSUS_SHARE = 0.02
"""The part of the time that censuses of known processes may take, at most."""

CLONE_VM = 0x100


@dataclass(frozen=True)
class Progress:
    """What can be said while recording. Pages are counted by allocation, an estimate; None: not watched."""

    elapsed_s: float
    processes: int
    faults: int
    copied_pages: int | None
    lost: int


@dataclass(frozen=True, kw_only=True)
class Limits:
    """When to stop by itself; sizes in bytes of raw data, None for no limit."""

    duration_s: float | None = None
    max_bytes: int | None = None


@dataclass
class Session:
    """The state of a running recording; `run` goes on until something ends it.

    `ended` then says what: "command", "duration", "size", "disk", "signal", "processes".
    """

    directory: Path
    probes: Probes
    journal: JournalWriter
    limits: Limits
    new_task_event: tuple[int, int] | None = None
    """Id of task:task_newtask and the offset of its `clone_flags`."""
    on_progress: Callable[[Progress], None] | None = None
    ends_with_processes: bool = False
    ended: str = ""
    started_ns: int = field(default_factory=time.monotonic_ns)
    alive: set[int] = field(default_factory=set)
    n_processes: int = 0
    missed_census: int = 0
    _census_s: float = 0.0
    _due: list[tuple[float, int, int]] = field(default_factory=list)
    _queue: list[tuple[int, int]] = field(default_factory=list)
    _last_parent_look: dict[int, tuple[float, float]] = field(default_factory=dict)
    _write_error: OSError | None = None
    _reported_at: float = 0.0
    _born: set[int] = field(default_factory=set)
    _last_child: dict[int, int] = field(default_factory=dict)

    def run(self, watched: dict[int, Callable[[], None]]) -> None:
        """Drain until `stop`ped; `watched` are further file descriptors and what to do when one is ready."""
        poll = select.poll()
        for fd in (*self.probes.poll_fds(), *watched):
            poll.register(fd, select.POLLIN)
        while not self.ended:
            ready = self._wait(poll)
            self.drain()
            self._meet_children()
            self._look_again()
            for fd in ready & watched.keys():
                watched[fd]()
            self._check_limits()
            self._report()

    def _wait(self, poll: select.poll) -> set[int]:
        """Descriptors that have something; an event whose thread has ended hands its ring's bell on."""
        ready = set()
        for fd, what in poll.poll(self.probes.patience_s() * 1000):
            ready.add(fd)
            if what & select.POLLHUP:
                poll.unregister(fd)
                heir = self.probes.heir(fd)
                if heir is not None:
                    poll.register(heir, select.POLLIN)
        return ready

    def stop(self, why: str) -> None:
        """End the recording at the next turn of the loop; the first reason stays."""
        self.ended = self.ended or why

    def adopt(self, pid: int) -> None:
        """Count `pid` in and put it on the list of those to look at again."""
        self.alive.add(pid)
        self.n_processes += 1
        heapq.heappush(self._due, (time.monotonic() + CENSUS_AGES_S[0], 0, pid))

    def born(self) -> set[int]:
        """Ids of the threads and processes that observed ones have made so far: they inherited the events."""
        self.drain()
        return self._born

    def drain(self) -> None:
        """Move what waits in every ring to disk, and queue the children met on the way."""
        if self._write_error:
            return
        try:
            for line in self.probes.lines():
                task_bytes = self.probes.drain(line)
                if task_bytes:
                    self._follow(task_bytes)
        except OSError as error:
            self._failed(error)

    def finish(self, note: Note) -> None:
        """Last censuses (when the recording ends before the processes do), last drain, last note."""
        self.drain()
        self._meet_children()
        for pid in sorted(self.alive):
            self._look(pid, "end")
        self.probes.disable()
        self.drain()
        note |= {
            "kind": "end",
            "time": time.monotonic_ns(),
            "ended": self.ended,
            "lost": self.probes.lost(),
            "missed_census": self.missed_census,
            "recorder_cpu_s": _cpu_seconds(),
        }
        with self._writing():
            self.journal.append(note)

    def progress(self) -> Progress:
        """How far we are."""
        return Progress(
            elapsed_s=(time.monotonic_ns() - self.started_ns) / NS_PER_S,
            processes=self.n_processes,
            faults=self.probes.n_records(Channel.FAULT),
            copied_pages=self._allocated_pages(),
            lost=sum(self.probes.lost().values()),
        )

    def _allocated_pages(self) -> int | None:
        if not self.probes.watches(Channel.PAGE):
            return None
        return self.probes.n_records(Channel.PAGE)

    def _follow(self, data: bytes) -> None:
        """Learn of forks, exits and execs from the bytes of a task ring."""
        vforked = set()
        for record in records(np.frombuffer(data, np.uint8)):
            if isinstance(record, Fork):
                self._born.add(record.tid)
            if isinstance(record, Fork) and record.pid != record.parent_pid:
                self._queue.append((record.pid, record.parent_pid))
                self._last_child[record.parent_tid] = record.pid
            elif isinstance(record, RawSample):
                vforked |= self._shares_memory(record)
            elif isinstance(record, Comm) and record.by_exec:
                with self._writing():
                    census.identify(self.journal, record.pid)
            elif isinstance(record, Exit) and record.pid == record.tid:
                self.alive.discard(record.pid)
        self._queue = [(child, parent) for child, parent in self._queue if child not in vforked]

    def _shares_memory(self, record: RawSample) -> set[int]:
        """The child of a clone with CLONE_VM: the event follows its fork; its `pid` is not of our namespace."""
        if self.new_task_event is None or record.event_id != self.new_task_event[0]:
            return set()
        flags_at = self.new_task_event[1]
        flags = int.from_bytes(record.raw[flags_at : flags_at + 8], "little")
        child = self._last_child.pop(record.tid, None)
        return {child} if child is not None and flags & CLONE_VM else set()

    def _meet_children(self) -> None:
        while self._queue:
            child, parent = self._queue.pop(0)
            self.adopt(child)
            sparse = census.is_sparse(child)
            with self._writing():
                census.identify(self.journal, child)
            if sparse or not self._look(child, "fork"):
                self.missed_census += 1
                self._look_at_parent(parent)

    def _look_at_parent(self, parent: int) -> None:
        """Where the child was gone before we came, its parent still tells most; not more often than cheap."""
        last, cost = self._last_parent_look.get(parent, (0.0, 0.0))
        now = time.monotonic()
        if now - last < max(0.05, cost / CENSUS_SHARE):
            return
        self._look(parent, "parent")
        self._last_parent_look[parent] = (now, time.monotonic() - now)

    def _look_again(self) -> None:
        now = time.monotonic()
        while self._due and self._due[0][0] <= now:
            _, age, pid = heapq.heappop(self._due)
            if pid not in self.alive:
                continue
            elapsed = (time.monotonic_ns() - self.started_ns) / NS_PER_S
            if self._census_s < CENSUS_SHARE * elapsed:
                self._look(pid, "age")
            if age + 1 < len(CENSUS_AGES_S):
                again = now + CENSUS_AGES_S[age + 1] - CENSUS_AGES_S[age]
                heapq.heappush(self._due, (again, age + 1, pid))

    def _look(self, pid: int, purpose: str) -> bool:
        begin = time.monotonic()
        try:
            look = census.look_at(pid, between=self.drain)
        except NoSuchProcess:
            self.alive.discard(pid)
            return False
        except AccessDenied:
            return False
        with self._writing():
            census.write(self.journal, look, purpose=purpose)
        if purpose == "age":
            self._census_s += time.monotonic() - begin
        return True

    def _check_limits(self) -> None:
        if self.ends_with_processes and not self.alive and not self._queue:
            self.stop("processes")
        elapsed_s = (time.monotonic_ns() - self.started_ns) / NS_PER_S
        if self.limits.duration_s is not None and elapsed_s >= self.limits.duration_s:
            self.stop("duration")
        if self.limits.max_bytes is not None and self.raw_bytes() >= self.limits.max_bytes:
            self.stop("size")

    def raw_bytes(self) -> int:
        """Bytes written so far."""
        return self.journal.n_bytes + sum(self.probes.n_bytes(channel) for channel in Channel)

    def _report(self) -> None:
        now = time.monotonic()
        if self.on_progress is not None and now - self._reported_at >= TICK_S:
            self._reported_at = now
            self.on_progress(self.progress())

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self._failed(error)

    def _failed(self, error: OSError) -> None:
        """The disk takes no more: end cleanly; everything that the rings still bring is given up."""
        self._write_error = error
        self.stop("disk" if error.errno in (errno.ENOSPC, errno.EDQUOT) else f"write error: {error.strerror}")


def _cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
