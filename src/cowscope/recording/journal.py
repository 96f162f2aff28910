"""The raw side of a recording: what is written while the recorder runs, before there are tables.

`NAME.cow/raw/` holds one file per ring, `CHANNEL.CPU`, with the ring's bytes as they came, and `journal`, a
sequence of chunks for everything else (who a process is, a census):

    4 bytes "CWJ1" | u32 length of the note | u32 length of the payload | note (JSON) | payload

Files only grow, so after a crash all but a cut last chunk is good.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cowscope.errors import BadRecording

RAW_DIRECTORY = "raw"
_MAGIC = b"CWJ1"
_HEAD = struct.Struct("<4sII")

Note = dict[str, Any]
"""The JSON part of a chunk; `kind` says which."""


def raw_directory(recording: Path) -> Path:
    """Where the raw files of a recording lie."""
    return recording / RAW_DIRECTORY


@contextmanager
def held(raw: Path) -> Iterator[None]:
    """Nobody else writes or finishes this recording meanwhile. Raises `BadRecording` if somebody does now.

    A recorder holds its journal by a lock that ends with it, in whatever way. Without a journal nothing is held.
    """
    try:
        fd = os.open(raw / "journal", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        yield
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise BadRecording(
            f"{raw.parent} is still being recorded: end the recorder first, by Ctrl-C"
        ) from None
    finally:
        os.close(fd)


class JournalWriter:
    """Appends chunks; each is one `write`, so that what was noted survives the recorder."""

    def __init__(self, directory: Path) -> None:
        """Open `journal` in the raw directory, which must exist."""
        self._fd = os.open(
            directory / "journal", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600
        )
        fcntl.flock(self._fd, fcntl.LOCK_EX)
        self.n_bytes = 0

    def append(self, note: Note, payload: bytes = b"") -> None:
        """Write one chunk; raises `OSError`, on a full disk for one."""
        text = json.dumps(note).encode()
        data = memoryview(_HEAD.pack(_MAGIC, len(text), len(payload)) + text + payload)
        self.n_bytes += len(data)
        while data:
            data = data[os.write(self._fd, data) :]

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


def parse_journal(data: bytes) -> Iterator[tuple[Note, bytes]]:
    """The chunks in `data`, up to the first that is cut off or damaged.

    >>> head = _HEAD.pack(_MAGIC, 13, 2) + b'{"kind": "x"}' + b"ab"
    >>> list(parse_journal(head + head[:-1]))
    [({'kind': 'x'}, b'ab')]
    """
    position = 0
    while position + _HEAD.size <= len(data):
        magic, n_note, n_payload = _HEAD.unpack_from(data, position)
        middle = position + _HEAD.size + n_note
        end = middle + n_payload
        if magic != _MAGIC or end > len(data):
            return
        try:
            note = json.loads(data[position + _HEAD.size : middle])
        except ValueError:
            return
        if not isinstance(note, dict):
            return
        yield note, data[middle:end]
        position = end
