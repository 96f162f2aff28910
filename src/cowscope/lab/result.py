"""What came of a step, in words that both sides use.

| word | the access |
|---|---|
| no-fault | did not trap |
| zero-filled | trapped; got a fresh page of zeros |
| copied | trapped; got a fresh page with the contents of an anonymous one |
| from-file | trapped; got a fresh page with the contents of the page cache |
| reused | trapped; the page it had became writable |
| mapped | trapped; a page that was there before (zero page, page cache) was mapped |
| swapped-in | trapped; the page was on swap and came back, or another's copy of it did |
| tracked | trapped; a shared page became writable, and somebody noted the write |
| SEGV_MAPERR, SEGV_ACCERR, BUS_ADRERR | trapped, and a signal with this code came of it |

Other steps come to "ok", or to the name of the error that the system call returned, like ENOMEM. A kernel
write (read(2)) that fails comes to EFAULT.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Word(StrEnum):
    """What comes of an access, or of another step that succeeds."""

    OK = "ok"
    NO_FAULT = "no-fault"
    ZERO_FILLED = "zero-filled"
    COPIED = "copied"
    FROM_FILE = "from-file"
    REUSED = "reused"
    MAPPED = "mapped"
    SWAPPED_IN = "swapped-in"
    TRACKED = "tracked"
    SEGV_MAPERR = "SEGV_MAPERR"
    SEGV_ACCERR = "SEGV_ACCERR"
    BUS_ADRERR = "BUS_ADRERR"


class NotChecked(Exception):
    """A step that one side cannot do; the message says what it lacks. Nothing of the step was done."""


ERRORS = ("EFAULT", "EIO", "ENOMEM", "EINVAL", "EPERM", "EACCES", "EAGAIN", "EBUSY")
OUTCOMES = (*Word, *ERRORS)


@dataclass(frozen=True, slots=True)
class Result:
    """What came of a step: a word or an error's name, the faults' error codes, the bytes loaded.

    `codes` are x86's error bits without the user bit, one for each fault in the step's pages; None where this
    side cannot tell.
    """

    outcome: str
    codes: tuple[int, ...] | None = ()
    data: bytes | None = None
