"""What we hand to perf_event_open(2), byte by byte."""

from __future__ import annotations

import struct

from cowscope.linux.perf_abi import ATTR_SIZE, Attributes, EventType, Flag, Ioctl, Sample, SoftwareEvent


def test_the_structure_byte_by_byte() -> None:
    """Each field where linux/perf_event.h has it, zeroes elsewhere."""
    packed = Attributes(
        type=EventType.TRACEPOINT,
        config=0x1234,
        sample=Sample.TID | Sample.TIME | Sample.RAW,
        flags=Flag.INHERIT | Flag.COMM_EXEC,
        period=5,
        wakeup_bytes=4096,
        read_format=16,
    ).pack()
    always = 1 << 14 | 1 << 18 | 1 << 25  # watermark, sample_id_all, use_clockid
    expected = bytearray(ATTR_SIZE)
    struct.pack_into("=II", expected, 0, 2, 112)
    struct.pack_into("=QQQQ", expected, 8, 0x1234, 5, 0x406, 16)
    struct.pack_into("=Q", expected, 40, 1 << 1 | 1 << 24 | always)
    struct.pack_into("=I", expected, 48, 4096)
    struct.pack_into("=i", expected, 92, 1)  # CLOCK_MONOTONIC
    assert packed == bytes(expected)


def test_defaults_wake_at_once_and_count_every_event() -> None:
    """Period 1, one byte."""
    packed = Attributes(type=EventType.SOFTWARE, config=SoftwareEvent.PAGE_FAULTS, sample=Sample.IP).pack()
    assert struct.unpack_from("=IIQQ", packed) == (1, 112, 2, 1)
    assert struct.unpack_from("=I", packed, 48) == (1,)


def test_requests_are_the_kernels() -> None:
    """_IO('$', n), _IOW for a pointer on 64 bits, and _IOW for a u32."""
    assert [int(request) for request in Ioctl] == [0x2400, 0x2401, 0x2405, 0x40082406, 0x40042408]
