"""Pages, bytes and times: the only place where one unit becomes another."""

from __future__ import annotations

PAGE_SHIFT = 12
"""log2 of the base page size on x86-64: 4 KiB."""

PAGE_SIZE = 1 << PAGE_SHIFT
"""Bytes in a base page, the unit in which the kernel copies (x86-64)."""

NS_PER_S = 1_000_000_000
"""Nanoseconds in a second; every time in a recording is in nanoseconds of CLOCK_MONOTONIC."""
NS_PER_US = 1_000

_MULTIPLES = ("B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")
_SUFFIXES = {"": 0, "b": 0, "k": 1, "kb": 1, "kib": 1, "m": 2, "mb": 2, "mib": 2, "g": 3, "gb": 3, "gib": 3}


def pages_to_bytes(n_pages: int, *, page_size: int = PAGE_SIZE) -> int:
    """Bytes in `n_pages` whole pages.

    >>> pages_to_bytes(3)
    12288
    """
    return n_pages * page_size


def pages_to_mib(n_pages: int, *, page_size: int = PAGE_SIZE) -> float:
    """MiB in `n_pages` whole pages.

    >>> pages_to_mib(256)
    1.0
    """
    return n_pages * page_size / (1 << 20)


def format_bytes(n_bytes: int) -> str:
    """`n_bytes` with a binary unit, three significant places at most.

    >>> format_bytes(0), format_bytes(4096), format_bytes(1_600_000), format_bytes(-2048)
    ('0 B', '4.0 KiB', '1.5 MiB', '-2.0 KiB')
    """
    value, exponent = float(n_bytes), 0
    while abs(value) >= 1024 and exponent < len(_MULTIPLES) - 1:
        value /= 1024
        exponent += 1
    return f"{n_bytes} B" if exponent == 0 else f"{value:,.1f} {_MULTIPLES[exponent]}"


def parse_bytes(text: str) -> int:
    """The number of bytes that a person means by `text`; units are powers of 1024.

    Raises `ValueError` for anything else than a positive number with one of the units B, K, M, G
    (KB, KiB and so on mean the same).

    >>> parse_bytes("64M"), parse_bytes("1.5 GiB"), parse_bytes("4096")
    (67108864, 1610612736, 4096)
    """
    text = text.strip()
    digits = text.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ ")
    unit = text[len(digits) :].strip().lower()
    if unit not in _SUFFIXES:
        raise ValueError(f"{text!r} is not a size: use a number with B, K, M or G, such as 64M")
    try:
        n_bytes = int(float(digits) * 1024 ** _SUFFIXES[unit])
    except (ValueError, OverflowError):
        raise ValueError(f"{text!r} is not a size: use a number with B, K, M or G, such as 64M") from None
    if n_bytes <= 0:
        raise ValueError(f"{text!r} is not a size: it must be more than nothing")
    return n_bytes


def ns_to_s(time_ns: int) -> float:
    """Seconds in `time_ns` nanoseconds.

    >>> ns_to_s(1_500_000_000)
    1.5
    """
    return time_ns / NS_PER_S
