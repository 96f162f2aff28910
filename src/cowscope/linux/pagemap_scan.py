"""PAGEMAP_SCAN: page ranges of a process by category, empty parts of the address space skipped by the kernel.

The argument is twelve 64-bit words, in the byte order of the machine:

    word 0  size of this argument in bytes (96)     word 6   room in the result, in regions
         1  flags (0: only look)                         7   stop after this many matching pages (0: never)
         2  first address                                8   categories whose sense is inverted
         3  address after the last                       9   categories that a page must all have
         4  out: where the walk stopped                 10   categories of which it must have one
         5  address of the result                       11   categories that the result tells

A result region is three words: first address, address after the last, categories. Source:
Documentation/admin-guide/mm/pagemap.rst; in the kernel fs/proc/task_mmu.c (do_pagemap_scan), since 6.7; the
guard category since 6.15.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from enum import IntFlag
from functools import cache

import numpy as np
import numpy.typing as npt

REGION = np.dtype([("start", np.uint64), ("end", np.uint64), ("categories", np.uint64)])
"""Record type of a region; addresses in bytes, `end` exclusive."""

LOWER_HALF_END = (1 << 47) - 4096
"""Where the addresses of an x86-64 process end with four levels of page tables."""

LOWER_HALF_END_5_LEVELS = (1 << 56) - 4096
"""The same with five levels, which the kernel uses for addresses above 2**47 that a program asked for."""

_PAGEMAP_SCAN = 0xC0606610  # _IOWR('f', 16, 96 bytes)
_ARGUMENT = struct.Struct("=12Q")
_WALK_END_OFFSET = 4 * 8


class Category(IntFlag):
    """What the kernel can say of a page (include/uapi/linux/fs.h, PAGE_IS_*)."""

    WPALLOWED = 1
    WRITTEN = 2
    FILE = 4
    PRESENT = 8
    SWAPPED = 16
    PFNZERO = 32
    HUGE = 64
    SOFT_DIRTY = 128
    GUARD = 256


_ALWAYS = Category.PRESENT | Category.SWAPPED | Category.FILE | Category.PFNZERO | Category.HUGE


def scan(
    fd: int, start: int, end: int, *, any_of: Category, tell: Category, max_pages: int, room: int = 65_536
) -> tuple[npt.NDArray[np.void], int]:
    """Regions of `REGION` in `[start, end)` whose pages have one of `any_of`, and the address where the walk
    stopped.

    `fd` is an open pagemap file. The walk stops at `end`, after `max_pages` matching pages, or when `room`
    regions are full; call again from where it stopped. Raises `OSError` as the kernel does.
    """
    regions = np.empty(room, REGION)
    argument = bytearray(
        _ARGUMENT.pack(
            _ARGUMENT.size, 0, start, end, 0, regions.ctypes.data, room, max_pages, 0, 0, any_of, tell
        )
    )
    n_regions = fcntl.ioctl(fd, _PAGEMAP_SCAN, argument)
    (walk_end,) = struct.unpack_from("=Q", argument, _WALK_END_OFFSET)
    return regions[:n_regions].copy(), walk_end


@cache
def supported() -> Category:
    """The categories that this kernel tells, found by asking about nothing; `Category(0)` without
    PAGEMAP_SCAN."""
    for categories in (_ALWAYS | Category.GUARD, _ALWAYS):
        if _accepts(categories, 4096):
            return categories
    return Category(0)


@cache
def address_space_end() -> int:
    """The highest address at which a scan may end, found by trying."""
    five_levels = _accepts(Category.PRESENT, LOWER_HALF_END_5_LEVELS, LOWER_HALF_END_5_LEVELS - 4096)
    return LOWER_HALF_END_5_LEVELS if five_levels else LOWER_HALF_END


def _accepts(categories: Category, end: int, start: int = 0) -> bool:
    try:
        fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:  # after setuid, until the next exec, it belongs to root; or there is no pagemap
        return False
    try:
        scan(fd, start, end, any_of=categories, tell=categories, max_pages=1, room=1)
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.ENOTTY, errno.EFAULT):
            return False
        raise
    finally:
        os.close(fd)
    return True
