"""The binary interface of perf_event_open(2): what goes in, as bytes.

Pure: nothing here asks the kernel. Numbers and layout as in `linux/perf_event.h`; only the fields that
cowscope sets are named.

    byte 0        8        16       24       32       40       48         52        92
         type size config   period   sample_  read_    flag     wakeup_    …         clockid
         u32  u32  u64      u64      type u64 format   bits u64 watermark            s32
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag

ATTR_SIZE = 112
"""Bytes of the attribute structure that we hand over (the kernel's size "VER5", Linux 4.1 and later)."""

CLOCK_MONOTONIC = 1
"""The clock of every recorded time; it may be read in any context, and it is Python's `time.monotonic_ns`."""


class EventType(IntEnum):
    """The `type` field: who defines what `config` means."""

    SOFTWARE = 1
    TRACEPOINT = 2


class SoftwareEvent(IntEnum):
    """`config` of software events."""

    PAGE_FAULTS = 2
    DUMMY = 9


class Sample(IntFlag):
    """The fields that a sample carries, in the order in which a record lays them out."""

    IP = 1 << 0
    TID = 1 << 1
    TIME = 1 << 2
    ADDR = 1 << 3
    RAW = 1 << 10


class Flag(IntFlag):
    """The bit field at byte 40."""

    DISABLED = 1 << 0
    INHERIT = 1 << 1
    EXCLUDE_KERNEL = 1 << 5
    EXCLUDE_HV = 1 << 6
    MMAP = 1 << 8
    COMM = 1 << 9
    ENABLE_ON_EXEC = 1 << 12
    TASK = 1 << 13
    WATERMARK = 1 << 14
    MMAP_DATA = 1 << 17
    SAMPLE_ID_ALL = 1 << 18
    MMAP2 = 1 << 23
    COMM_EXEC = 1 << 24
    USE_CLOCKID = 1 << 25


class RecordType(IntEnum):
    """The `type` of a record in a ring."""

    LOST = 2
    COMM = 3
    EXIT = 4
    FORK = 7
    SAMPLE = 9
    MMAP2 = 10


COMM_EXEC_MISC = 1 << 13
"""In the `misc` field of a COMM record: the name changed because of an exec."""


class Ioctl(IntEnum):
    """Requests on an event's file descriptor."""

    ENABLE = 0x2400
    DISABLE = 0x2401
    SET_OUTPUT = 0x2405
    SET_FILTER = 0x40082406
    SET_BPF = 0x40042408


SYSCALL_NUMBER = {"x86_64": 298, "aarch64": 241}
"""perf_event_open by machine name, as `os.uname` spells it."""

FLAG_FD_CLOEXEC = 1 << 3

READ_LOST = 1 << 4
"""`read_format`: a read of the event tells the samples lost so far (Linux 6.0 and later)."""


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What to observe and what each sample carries; `pack` gives the kernel's structure.

    >>> len(Attributes(type=EventType.SOFTWARE, config=SoftwareEvent.DUMMY, sample=Sample.TID).pack())
    112
    """

    type: EventType
    config: int
    sample: Sample
    flags: Flag = Flag(0)
    period: int = 1
    wakeup_bytes: int = 1
    read_format: int = 0

    def pack(self) -> bytes:
        """The attribute structure of `ATTR_SIZE` bytes."""
        flags = self.flags | Flag.WATERMARK | Flag.SAMPLE_ID_ALL | Flag.USE_CLOCKID
        head = struct.pack(
            "=IIQQQQQI",
            self.type,
            ATTR_SIZE,
            self.config,
            self.period,
            self.sample,
            self.read_format,
            flags,
            self.wakeup_bytes,
        )
        body = head.ljust(92, b"\0") + struct.pack("=i", CLOCK_MONOTONIC)
        return body.ljust(ATTR_SIZE, b"\0")
