"""The open events and rings of a recording: open for a task, drain, close.

Perf events ring a bell when their ring is half full. BPF programs have no bell: their rings are looked at
every `patience_s`.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cowscope.linux.perf import Event, Ring
from cowscope.linux.perf_abi import READ_LOST
from cowscope.linux.perf_records import lost_record
from cowscope.recorder.channels import Channel, Plan, Spec
from cowscope.recorder.programs import LOST_AT, FaultPrograms

TICK_S = 0.1
"""The longest time without a look at the rings."""
PROGRAMS_TICK_S, BUSY_TICK_S = 0.05, 0.01
"""The same where BPF programs fill rings, and after a look that found one filled by more than a BUSY_SHAREth part.

A CPU that does nothing but the cheapest faults fills a ring in 100 ms."""
BUSY_SHARE = 16


@dataclass
class Line:
    """One channel on one CPU: the event that owns the ring, the ring, and the raw file it flows to."""

    channel: Channel
    cpu: int
    owner: Event | None
    """None for the ring of a BPF program."""
    ring: Ring
    fd: int
    n_bytes: int = 0
    n_lost: int = 0
    """Records of a BPF program that found the ring full, as far as the raw file tells it."""
    guests: list[int] = field(default_factory=list)
    """Descriptors of the other events that write into the ring; each can ring its bell."""


class Probes:
    """All events of a recording. `open_for` adds a task; `drain` moves what waits into the raw files."""

    def __init__(
        self,
        plan: Plan,
        rings: Mapping[Channel, int],
        directory: Path,
        *,
        programs: FaultPrograms | None = None,
        record_bytes: Mapping[Channel, int],
    ) -> None:
        """No event is opened yet; raw files will be made in `directory`, `programs` be closed with the events."""
        self._plan, self._ring_bytes, self._directory = plan, rings, directory
        self._programs, self._record_bytes = programs, record_bytes
        self._busy = False
        self._lines: dict[tuple[Channel, int], Line] = {}
        self._events: list[tuple[Channel, Event]] = []
        self._bells: dict[int, Line] = {}
        self._read_format = READ_LOST
        self.cpus = online_cpus() or sorted(os.sched_getaffinity(0))
        for (channel, cpu), ring in (programs.rings() if programs else {}).items():
            self._lines[channel, cpu] = Line(channel, cpu, None, ring, self._raw_file(channel, cpu))

    def open_for(self, tid: int, *, at_exec: bool = False) -> None:
        """Observe thread `tid` and all that it will fork; `at_exec`: as soon as it becomes another program.

        Raises `NoSuchProcess`, `MissingRight`, `OSError`.
        """
        # Programs first: whoever shows as born in the task ring is then watched by them, too.
        if self._programs and at_exec:
            self._programs.watch_at_exec(tid)
        elif self._programs:
            self._programs.watch(tid)
        for channel, specs in self._plan.items():
            for cpu in self.cpus:
                for spec in specs:
                    self._open(channel, spec, tid, cpu)

    def poll_fds(self) -> list[int]:
        """File descriptors that become readable when a ring wants draining."""
        self._bells = {line.owner.fd: line for line in self._lines.values() if line.owner is not None}
        return list(self._bells)

    def heir(self, fd: int) -> int | None:
        """Another event to poll for the ring that `fd` stood for, since the thread of `fd` has ended."""
        line = self._bells.pop(fd, None)
        if line is None or not line.guests:
            return None
        heir = line.guests.pop()
        self._bells[heir] = line
        return heir

    def lines(self) -> Iterator[Line]:
        """Every ring, urgent ones first."""
        return iter(sorted(self._lines.values(), key=lambda line: line.channel is not Channel.TASK))

    def drain(self, line: Line) -> bytes:
        """Move what waits in a ring to its file; returns the bytes of TASK rings, else nothing.

        Raises `OSError` when the file takes no more; what was written is then whole up to that point.
        """
        taken = bytearray()
        if line.owner is None:
            self._busy = self._busy or line.ring.pending() > line.ring.n_bytes // BUSY_SHARE
            self._tell_lost(line)
        while line.ring.pending():
            pieces = line.ring.slices()
            try:
                n = os.writev(line.fd, pieces)
                if line.channel is Channel.TASK:
                    taken += b"".join(pieces)[:n]
            finally:
                # An error keeps this frame, and with it the pieces, which would keep the ring from being closed.
                for piece in pieces:
                    piece.release()
            line.ring.take(n)
            line.n_bytes += n
        return bytes(taken)

    def patience_s(self) -> float:
        """How long the rings may be left alone: less while those without a bell fill."""
        if self._programs is None:
            return TICK_S
        busy, self._busy = self._busy, False
        return BUSY_TICK_S if busy else PROGRAMS_TICK_S

    def watches(self, channel: Channel) -> bool:
        """Whether anything brings records of this channel."""
        return any(watched is channel for watched, _ in self._lines)

    def n_records(self, channel: Channel) -> int:
        """Records of the channels of faults and pages so far, lost and odd ones aside."""
        return self.n_bytes(channel) // self._record_bytes[channel]

    def n_bytes(self, channel: Channel) -> int:
        """Bytes that a channel has brought so far."""
        return sum(line.n_bytes for line in self._lines.values() if line.channel is channel)

    def lost(self) -> dict[str, int]:
        """Records lost so far by channel, as their sources count them (perf events: not before Linux 6.0)."""
        counts = self._programs.lost() if self._programs else {}
        total = {channel.value: count for channel, count in counts.items() if count}
        for channel, event in self._events:
            count = event.lost()
            if count:
                total[channel.value] = total.get(channel.value, 0) + count
        return total

    def disable(self) -> None:
        """No more events; what waits in the rings stays."""
        if self._programs:
            self._programs.stop()
        for _, event in self._events:
            event.disable()

    def close(self) -> None:
        """Give everything back to the kernel; the observed program does not notice."""
        for line in self._lines.values():
            if line.owner is not None:
                line.ring.close()
            os.close(line.fd)
        for _, event in self._events:
            event.close()
        if self._programs:
            self._programs.close()
        self._lines.clear()
        self._events.clear()

    def _open(self, channel: Channel, spec: Spec, tid: int, cpu: int) -> None:
        event = self._event(spec, tid, cpu)
        self._events.append((channel, event))
        if spec.filter is not None:
            event.set_filter(spec.filter)
        line = self._lines.get((channel, cpu))
        if line is not None and line.owner is not None:
            event.output_to(line.owner)
            line.guests.append(event.fd)
            return
        ring = Ring(event.fd, self._ring_bytes[channel])
        self._lines[channel, cpu] = Line(channel, cpu, event, ring, self._raw_file(channel, cpu))

    def _raw_file(self, channel: Channel, cpu: int) -> int:
        path = self._directory / f"{channel.value}.{cpu}"
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def _tell_lost(self, line: Line) -> None:
        """Write into the file what perf writes into a ring by itself, lest a dead recorder keeps it secret."""
        lost = line.ring.number(LOST_AT)
        if lost > line.n_lost:
            record = lost_record(time.monotonic_ns(), lost - line.n_lost)
            line.n_bytes += os.write(line.fd, record)
            line.n_lost = lost

    def _event(self, spec: Spec, tid: int, cpu: int) -> Event:
        try:
            return Event(replace(spec.attributes, read_format=self._read_format), pid=tid, cpu=cpu)
        except OSError as error:
            # Kernels before 6.0 do not know READ_LOST; LOST records in the ring remain.
            if error.errno != errno.EINVAL or not self._read_format:
                raise
            self._read_format = 0
            return Event(spec.attributes, pid=tid, cpu=cpu)


def online_cpus() -> list[int]:
    """CPU numbers that are online; a task may run on any of them."""
    try:
        text = Path("/sys/devices/system/cpu/online").read_text()
    except OSError:
        return []
    return parse_cpu_list(text)


def parse_cpu_list(text: str) -> list[int]:
    """The kernel's list notation as numbers.

    >>> parse_cpu_list("0-2,5")
    [0, 1, 2, 5]
    """
    cpus: list[int] = []
    for part in text.strip().split(","):
        first, _, last = part.partition("-")
        cpus.extend(range(int(first), int(last or first) + 1))
    return cpus
