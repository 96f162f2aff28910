"""Files: what processes map, as something to read, write, truncate and flush.

| kind | first write to a page of a shared mapping |
|---|---|
| tmpfs, memfd (`tracked=False`) | no fault once the page is mapped: nobody wants to know |
| a file system with writeback (`tracked=True`) | a fault, again after each `flush` |

Source: `generic_perform_write`, `vma_wants_writenotify`, `shmem_setattr`, `file_update_time`, fsync(2).
Not modelled: names, directories, permissions, several opens of one file.
"""

from __future__ import annotations

import numpy as np

from cowscope.errors import InvalidArgument, NoMemory
from cowscope.vm import reverse
from cowscope.vm.arguments import checked
from cowscope.vm.cache import KnownObject
from cowscope.vm.memory import Memory
from cowscope.vm.trap import by_page

_LONGEST = (1 << 63) - 1


class File:
    """One file of a machine; `Machine.file` makes it.

    >>> file = File(Memory(), 10)
    >>> file.write(8190, b"cow")
    >>> file.size, file.read(8188, 9), file.cached_pages
    (8193, b'\\x00\\x00cow', [1, 2])
    """

    def __init__(self, memory: Memory, n_bytes: int, *, tracked: bool = False) -> None:
        """Make an empty file of `n_bytes` bytes, all holes."""
        _check_size(n_bytes)
        self._memory, self._page_size = memory, memory.frames.page_size
        self.number = memory.cache.new_file(KnownObject(n_bytes, tracked, self._page_size))

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return self._memory.cache.known[self.number].n_bytes

    @property
    def cached_pages(self) -> list[int]:
        """The pages that the page cache holds, ascending."""
        return self._memory.cache.cached_pages(self.number)

    def is_of(self, memory: Memory) -> bool:
        """Whether it is a file of the machine that has `memory`."""
        return self._memory is memory

    @checked
    def write(self, offset: int, data: bytes) -> None:
        """Write `data` at byte `offset`, as write(2) does: to the page cache; all or nothing.

        Raises `InvalidArgument` for an offset below 0, and `NoMemory` when too few frames are left.
        """
        _check_size(offset + len(data), offset)
        parts = list(by_page(offset, len(data), self._page_size))
        if not parts:
            return
        cache, frames = self._memory.cache, self._memory.frames
        offsets = np.array([at // self._page_size for at, _ in parts])
        objects = np.full(len(parts), self.number)
        needed = int(np.count_nonzero(cache.peek(objects, offsets) == 0))
        if frames.room(needed) < needed:
            raise NoMemory(f"no frames are left for {needed} pages of a file")
        known = cache.known[self.number]
        known.n_bytes = max(known.n_bytes, offset + len(data))
        done = 0
        for frame, (at, size) in zip(cache.fetch(objects, offsets).tolist(), parts, strict=True):
            frames.write(frame, at % self._page_size, data[done : done + size])
            done += size

    @checked
    def read(self, offset: int, count: int) -> bytes:
        """Up to `count` bytes from byte `offset` on, fewer at the end; holes read as zeros."""
        if offset < 0 or count < 0:
            raise InvalidArgument(f"{count} bytes at offset {offset}")
        found = b""
        for at, size in by_page(offset, max(0, min(count, self.size - offset)), self._page_size):
            page = np.array([at // self._page_size])
            frame = int(self._memory.cache.peek(np.array([self.number]), page)[0])
            found += self._memory.frames.read(frame, at % self._page_size, size) if frame else bytes(size)
        return found

    @checked
    def truncate(self, n_bytes: int) -> None:
        """Let the file be `n_bytes` long; mapped pages beyond are gone, private copies of them too."""
        _check_size(n_bytes)
        reverse.truncate(self._memory, self.number, n_bytes)

    def flush(self) -> None:
        """Write back: of a tracked file, the next write to each page faults again."""
        if self._memory.cache.known[self.number].tracked:
            reverse.write_back(self._memory, self.number)


def _check_size(n_bytes: int, offset: int = 0) -> None:
    if n_bytes < 0 or offset < 0 or n_bytes > _LONGEST:
        raise InvalidArgument(f"a file of {n_bytes} bytes" if not offset else f"offset {offset}")
