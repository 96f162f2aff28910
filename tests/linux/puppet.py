"""A process with pages in known states, for live tests; stdlib alone, so that it forks with one thread.

It prints one JSON object (the pid of its forked child, the address of each area) and lives until its stdin
closes. Every area has 8 pages; what is done to which is written beside it. Forking goes by pipes: nobody
sleeps.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import sys

PAGE = mmap.PAGESIZE
N_PAGES = 8
ANONYMOUS = mmap.MAP_ANONYMOUS | mmap.MAP_PRIVATE
MADV_GUARD_INSTALL = 102

libc = ctypes.CDLL(None, use_errno=True)
libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


def address(area: mmap.mmap) -> int:
    """Where the area lies."""
    return ctypes.addressof(ctypes.c_char.from_buffer(area))


def alone(area: mmap.mmap) -> mmap.mmap:
    """Keep the kernel from joining it with a neighbour: fork copies all of a mapping with one written
    page."""
    area.madvise(mmap.MADV_DONTDUMP)
    return area


def touch(area: mmap.mmap, *, write: bool) -> mmap.mmap:
    """Read or write the first half of the area; the rest stays untouched."""
    for page in range(N_PAGES // 2):
        if write:
            area[page * PAGE] = 1
        else:
            assert area[page * PAGE] == 0
    return area


def main() -> None:
    """Make the areas, fork, change what the child is to change, report, and wait."""
    size = N_PAGES * PAGE
    file = os.memfd_create("puppet")
    os.ftruncate(file, size)
    areas = {
        "untouched": mmap.mmap(-1, size, ANONYMOUS),
        "zero": touch(alone(mmap.mmap(-1, size, ANONYMOUS)), write=False),
        "inherited": touch(mmap.mmap(-1, size, ANONYMOUS), write=True),
        "rewritten": touch(mmap.mmap(-1, size, ANONYMOUS), write=True),
        "shared": touch(mmap.mmap(-1, size, mmap.MAP_ANONYMOUS | mmap.MAP_SHARED), write=True),
        "file": touch(mmap.mmap(file, size, mmap.MAP_SHARED), write=True),
        "private_file": mmap.mmap(file, size, mmap.MAP_PRIVATE),
        "no_access": touch(mmap.mmap(-1, size, ANONYMOUS), write=True),
        "guard": touch(mmap.mmap(-1, size, ANONYMOUS), write=True),
        "private": mmap.mmap(-1, size, ANONYMOUS),
    }
    where = {name: address(area) for name, area in areas.items()}
    assert libc.mprotect(where["no_access"], size, 0) == 0
    has_guards = libc.madvise(where["guard"] + size // 2, size // 2, MADV_GUARD_INSTALL) == 0
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for name in ("rewritten", "private", "private_file"):
            touch(areas[name], write=True)
        os.write(tell, b"x")
        sys.stdin.buffer.read()
        os._exit(0)
    os.read(ready, 1)
    print(json.dumps({"child": child, "guards": has_guards, "at": where}), flush=True)
    sys.stdin.buffer.read()
    os.waitpid(child, 0)


if __name__ == "__main__":
    main()
