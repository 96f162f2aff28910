"""Text from elsewhere made harmless: what a process says about itself must not steer a terminal."""

from __future__ import annotations


def escaped(text: str) -> str:
    r"""`text` with everything that is not plainly visible written as an escape; a backslash is doubled.

    Distinct texts stay distinct.

    >>> escaped("\x1b[31mred\n")
    '\\x1b[31mred\\n'
    >>> escaped("naïve ✓")
    'naïve ✓'
    """
    if text.isprintable() and "\\" not in text:
        return text
    return "".join(_escape(character) for character in text)


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if character.isprintable():
        return character
    number = ord(character)
    if 0xDC80 <= number <= 0xDCFF:
        # A byte that was no UTF-8, as Python decodes it: \xNN above 7f stands for such bytes alone.
        return f"\\x{number & 0xFF:02x}"
    if 0x80 <= number <= 0xFF:
        return f"\\u{number:04x}"
    return character.encode("unicode_escape").decode()


def clipped(text: str, width: int) -> str:
    """At most `width` characters; the end goes.

    >>> clipped("reference count 90%, allocator 10%", 22)
    'reference count 90%, …'
    """
    return text if len(text) <= width else text[: width - 1] + "…"


def shortened(text: str, width: int) -> str:
    """At most `width` characters; the middle goes, since ends of paths tell most.

    >>> shortened("/usr/lib/x86_64-linux-gnu/libc.so.6", 20)
    '/usr/lib/…/libc.so.6'
    """
    if len(text) <= width:
        return text
    tail = (width - 1) * 11 // 20
    return text[: width - 1 - tail] + "…" + text[len(text) - tail :]
