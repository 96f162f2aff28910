"""What the kernel says of each access: its page faults, and the pages it allocated for them.

Two tracepoints on the puppets' CPU, in one ring so that their order is kept: page faults (of user code, and of
the kernel on its behalf) whose address the scenario owns, and allocations of pages that may belong to users.

| allocation found for the page | means |
|---|---|
| none | the page was there: reused, tracked, or mapped from the page cache |
| with __GFP_ZERO, or of several pages | zero-filled |
| without | copied |

An allocation is known by its frame number: it is the one that the page has afterwards, so no order is guessed.
A folio of several pages is cleared after it was allocated, and never a copy: Linux copies page by page.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from types import TracebackType

from cowscope.errors import MissingRight
from cowscope.linux import tracefs
from cowscope.linux.perf import Event, Ring
from cowscope.linux.perf_abi import Attributes, EventType, Flag, RecordType, Sample

_FAULTS = (("exceptions", "page_fault_user"), ("exceptions", "page_fault_kernel"))
_ALLOCATION = ("kmem", "mm_page_alloc")
_RING_BYTES = 1 << 20
_HEADER = struct.Struct("<IHH")
_IDENTITY = struct.Struct("<III")
_GFP_ZERO = 1 << 8
_OF_USERS = "gfp_flags & 8"
"""__GFP_MOVABLE: page tables and the kernel's own pages are not."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A page fault at `address`, with x86's error bits."""

    address: int
    error_code: int


@dataclass(frozen=True, slots=True)
class Seen:
    """What one process did between two looks: its faults, and each allocated frame with "zeroed"."""

    faults: list[Fault]
    allocated: list[tuple[int, int, bool]]
    """First frame, number of frames, whether zeroed."""

    def zeroed(self, frame: int) -> bool | None:
        """Whether `frame` was allocated with zeros; None if it was not allocated."""
        for first, count, zeroed in self.allocated:
            if first <= frame < first + count:
                return zeroed
        return None


class Trace:
    """The ring; a context manager. Raises `MissingRight` where the kernel refuses."""

    def __init__(self, cpu: int, first_address: int, end_address: int) -> None:
        """Watch faults from `first_address` to before `end_address` on `cpu`."""
        self._fields: dict[int, tuple[str, struct.Struct, tuple[int, ...]]] = {}
        self._events: list[Event] = []
        within = f"address >= {first_address} && address < {end_address}"
        try:
            for name in _FAULTS:
                self._open(name, ("address", "error_code"), within, cpu)
            self._open(_ALLOCATION, ("pfn", "gfp_flags", "order"), _OF_USERS, cpu)
            self._ring = Ring(self._events[0].fd, _RING_BYTES)
            for event in self._events[1:]:
                event.output_to(self._events[0])
            for event in self._events:
                event.enable()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Trace:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the events."""
        self.close()

    def close(self) -> None:
        """Give ring and events back."""
        if hasattr(self, "_ring"):
            self._ring.close()
        for event in self._events:
            event.close()
        self._events = []

    def _open(self, name: tuple[str, str], fields: tuple[str, ...], expression: str, cpu: int) -> None:
        event = tracefs.event(*name)
        if event is None:
            raise MissingRight(f"this kernel has no tracepoint {':'.join(name)}", "use x86-64 Linux")
        attributes = Attributes(
            type=EventType.TRACEPOINT,
            config=event.id,
            sample=Sample.TID | Sample.RAW,
            flags=Flag.DISABLED,
            wakeup_bytes=_RING_BYTES // 2,
        )
        opened = Event(attributes, pid=-1, cpu=cpu)
        self._events.append(opened)
        opened.set_filter(expression)
        self._fields[event.id] = (name[1], *_reader([event.fields[field] for field in fields]))

    def skip(self) -> None:
        """Forget everything up to now."""
        self._ring.take(self._ring.pending())

    def take(self, pid: int) -> Seen:
        """What process `pid` did since the last look."""
        seen = Seen([], [])
        data = b"".join(self._ring.slices())
        self._ring.take(len(data))
        at = 0
        while at + 8 <= len(data):
            kind, _, size = _HEADER.unpack_from(data, at)
            if kind == RecordType.LOST:
                raise MissingRight("the trace lost events", "keep the CPU for the lab")
            if kind == RecordType.SAMPLE and _IDENTITY.unpack_from(data, at + 8)[0] == pid:
                self._note(data, at + 20, seen)
            at += max(size, 8)
        return seen

    def _note(self, data: bytes, raw: int, seen: Seen) -> None:
        name, reader, order = self._fields[int.from_bytes(data[raw : raw + 2], "little")]
        values = reader.unpack_from(data, raw)
        told = [values[i] for i in order]
        if name == "mm_page_alloc":
            frame, flags, size = told
            seen.allocated.append((frame, 1 << size, bool(flags & _GFP_ZERO) or size > 0))
        else:
            seen.faults.append(Fault(*told))


def _reader(fields: list[tracefs.TraceField]) -> tuple[struct.Struct, tuple[int, ...]]:
    """A structure that reads the fields from a raw record, and their places in what it returns."""
    by_offset = sorted(range(len(fields)), key=lambda i: fields[i].offset)
    layout, at = "<", 0
    for index in by_offset:
        field = fields[index]
        layout += f"{field.offset - at}x{'Q' if field.size == 8 else 'I'}"
        at = field.offset + field.size
    return struct.Struct(layout), tuple(by_offset.index(i) for i in range(len(fields)))
