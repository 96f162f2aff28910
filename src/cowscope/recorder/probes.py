"""The open events and rings of a recording: open for a task, drain, close."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from cowscope.linux.perf import Event, Ring
from cowscope.linux.perf_abi import READ_LOST
from cowscope.recorder.channels import Channel, Plan, Spec


@dataclass
class Line:
    """One channel on one CPU: the event that owns the ring, the ring, and the raw file it flows to."""

    channel: Channel
    cpu: int
    owner: Event
    ring: Ring
    fd: int
    n_bytes: int = 0
    guests: list[int] = field(default_factory=list)
    """Descriptors of the other events that write into the ring; each can ring its bell."""


class Probes:
    """All events of a recording. `open_for` adds a task; `drain` moves what waits into the raw files."""

    def __init__(self, plan: Plan, rings: Mapping[Channel, int], directory: Path) -> None:
        """Nothing is opened yet; raw files will be made in `directory`."""
        self._plan, self._ring_bytes, self._directory = plan, rings, directory
        self._lines: dict[tuple[Channel, int], Line] = {}
        self._events: list[tuple[Channel, Event]] = []
        self._bells: dict[int, Line] = {}
        self._read_format = READ_LOST
        self.cpus = online_cpus() or sorted(os.sched_getaffinity(0))

    def open_for(self, tid: int) -> None:
        """Observe thread `tid` and all that it will fork.

        Raises `NoSuchProcess`, `MissingRight`, `OSError`.
        """
        for channel, specs in self._plan.items():
            for cpu in self.cpus:
                for spec in specs:
                    self._open(channel, spec, tid, cpu)

    def poll_fds(self) -> list[int]:
        """File descriptors that become readable when a ring wants draining."""
        self._bells = {line.owner.fd: line for line in self._lines.values()}
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
        while line.ring.pending():
            pieces = line.ring.slices()
            n = os.writev(line.fd, pieces)
            if line.channel is Channel.TASK:
                taken += b"".join(pieces)[:n]
            line.ring.take(n)
            line.n_bytes += n
        return bytes(taken)

    def watches(self, channel: Channel) -> bool:
        """Whether the plan has events for this channel."""
        return channel in self._plan

    def n_bytes(self, channel: Channel) -> int:
        """Bytes that a channel has brought so far."""
        return sum(line.n_bytes for line in self._lines.values() if line.channel is channel)

    def lost(self) -> dict[str, int]:
        """Records lost so far by channel, as the events themselves count them (nothing before Linux 6.0)."""
        total: dict[str, int] = {}
        for channel, event in self._events:
            count = event.lost()
            if count:
                total[channel.value] = total.get(channel.value, 0) + count
        return total

    def disable(self) -> None:
        """No more events; what waits in the rings stays."""
        for _, event in self._events:
            event.disable()

    def close(self) -> None:
        """Give everything back to the kernel; the observed program does not notice."""
        for line in self._lines.values():
            line.ring.close()
            os.close(line.fd)
        for _, event in self._events:
            event.close()
        self._lines.clear()
        self._events.clear()

    def _open(self, channel: Channel, spec: Spec, tid: int, cpu: int) -> None:
        event = self._event(spec, tid, cpu)
        self._events.append((channel, event))
        if spec.filter is not None:
            event.set_filter(spec.filter)
        line = self._lines.get((channel, cpu))
        if line is not None:
            event.output_to(line.owner)
            line.guests.append(event.fd)
            return
        ring = Ring(event, self._ring_bytes[channel])
        path = self._directory / f"{channel.value}.{cpu}"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._lines[channel, cpu] = Line(channel, cpu, event, ring, fd)

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
