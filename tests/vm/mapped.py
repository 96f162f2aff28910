"""Mappings at known places, and what can be asked about them."""

from __future__ import annotations

import pytest

from cowscope.vm import BusError, Process, Protection, SegmentationFault

R, RW, NONE = Protection.READ, Protection.READ | Protection.WRITE, Protection.NONE
PAGE = 4096
AT = 0x10000000


def put(process: Process, first: int, n: int, protection: Protection = RW, **more: object) -> int:
    """Map `n` pages, `first` pages after AT."""
    return process.mmap(n * PAGE, protection, address=AT + first * PAGE, fixed=True, **more)  # type: ignore[arg-type]


def borders(process: Process) -> list[tuple[int, int]]:
    """Mappings as page ranges after AT."""
    return [((m.start - AT) // PAGE, (m.end - AT) // PAGE) for m in process.mappings()]


def codes(process: Process, page: int) -> tuple[int, int, int, int]:
    """Error code and signal code of a load and of a store that fail."""
    found = []
    for access in (lambda: process.load(AT + page * PAGE), lambda: process.store(AT + page * PAGE, b"x")):
        with pytest.raises((SegmentationFault, BusError)) as caught:
            access()
        found += [caught.value.error_code, caught.value.signal_code]
    return found[0], found[1], found[2], found[3]
