"""The page states of a process: /proc/PID/pagemap, and the census made with it.

A pagemap entry is one 64-bit word per page:

    63      62      61            60 59  58    57      56          55     54 ... 0
    present swapped file or        -  -  guard uffd-wp mapped once unused frame number, or where in swap
                    shared memory

A frame number reads as zero without CAP_SYS_ADMIN; the other bits need no more than the right to look at the
process. Bit 56 says that one page table entry in the system points at the page. It is not the kernel's own
mark of an exclusive page: after the last other sharer has gone, the page is mapped once, yet the next write
still faults. Source: Documentation/admin-guide/mm/pagemap.rst; in the kernel fs/proc/task_mmu.c.
"""

from __future__ import annotations

import mmap
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntFlag

import numpy as np
import numpy.typing as npt

from cowscope.errors import AccessDenied, MissingRight, NoSuchProcess
from cowscope.linux.border import asking_about
from cowscope.linux.page_runs import NO_FRAME, PageRuns, Pages, PageState, expand, join, mark_foreign
from cowscope.linux.pagemap_scan import Category, address_space_end, scan, supported
from cowscope.linux.proc import Maps, parse_maps, read_maps

Entries = npt.NDArray[np.uint64]

CHUNK_PAGES = 1 << 16
"""Pages looked at in one go: 256 MiB of memory, entries that fit a cache (512 KiB), some 3 ms."""

WIDE_BYTES = 4 << 30
"""Mappings longer than this are scanned piece by piece: one page in each 2 MiB of so much takes some 10 ms."""

PIECE_S = 0.0005
"""How long a piece shall take: meanwhile the process can neither map nor unmap, nor end by itself."""

FRAME_MASK = (1 << 55) - 1
"""The bits of an entry that hold the frame number."""

_PAGE_SIZE = os.sysconf("SC_PAGE_SIZE")
_ZERO_MARK = 1 << 60  # ours, in a bit that the kernel leaves at 0
_GAP_PAGES = 32  # reading so many entries in vain costs less than one more system call


class Entry(IntFlag):
    """The flags of a pagemap entry."""

    MAPPED_ONCE = 1 << 56
    UFFD_WP = 1 << 57
    GUARD = 1 << 58
    FILE_OR_SHARED = 1 << 61
    SWAPPED = 1 << 62
    PRESENT = 1 << 63


@contextmanager
def open_pagemap(pid: int) -> Iterator[int]:
    """A file descriptor of the process's pagemap. Raises `NoSuchProcess`, `AccessDenied`, inside the block
    too."""
    path = f"/proc/{pid}/pagemap"
    with asking_about(pid, path):
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)


def read_pagemap(fd: int, start_page: int, n_pages: int) -> Entries:
    """The entries of `n_pages` pages from `start_page` on; zero where the address space has no such page.

    `fd` is an open pagemap file, as from `open_pagemap`. Raises `OSError` as the kernel does.
    """
    entries = np.empty(n_pages, np.uint64)
    for at in range(0, n_pages, CHUNK_PAGES):
        _read_into(entries[at : at + CHUNK_PAGES], fd, start_page + at)
    return entries


def _read_into(entries: Entries, fd: int, start_page: int) -> None:
    raw = entries.data.cast("B")
    done = os.preadv(fd, [raw], start_page * 8)
    while 0 < done < len(raw):
        n_bytes = os.preadv(fd, [raw[done:]], start_page * 8 + done)
        if n_bytes == 0:
            break
        done += n_bytes
    entries[done // 8 :] = 0


def is_alive(fd: int) -> bool:
    """Whether the address space behind an open pagemap is still in use: not after exit, nor after exec."""
    return len(os.pread(fd, 8, 0)) == 8


def zero_frame() -> int:
    """Frame number of the page of zeros, learnt from a page of our own that is read and never written.

    0 if this user may not see frame numbers (or not even our own pagemap: after setuid it is root's).
    """
    page = np.frombuffer(mmap.mmap(-1, _PAGE_SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), np.uint8)
    assert page[0] == 0  # the read that maps it
    try:
        with open_pagemap(os.getpid()) as fd:
            return int(read_pagemap(fd, page.ctypes.data // _PAGE_SIZE, 1)[0]) & FRAME_MASK
    except AccessDenied:
        return 0


def _state_of_top_byte(top: int) -> int:
    entry = top << 56
    if entry & Entry.GUARD:  # the kernel shows a marker as swapped, too
        return PageState.GUARD
    pairs = (
        (Entry.PRESENT, PageState.PRESENT),
        (Entry.SWAPPED, PageState.SWAPPED),
        (Entry.FILE_OR_SHARED, PageState.FILE),
        (_ZERO_MARK, PageState.ZERO),
        (Entry.MAPPED_ONCE, PageState.EXCLUSIVE),
    )
    state = sum(int(state) for flag, state in pairs if entry & flag)
    return state & ~PageState.EXCLUSIVE if state & PageState.FILE else state


_STATE_OF_TOP_BYTE = np.array([_state_of_top_byte(top) for top in range(256)], np.uint8)


def entries_as_runs(entries: Entries, ranges: PageRuns, *, frames: bool = False) -> PageRuns:
    """The runs in `entries`, which are those of the pages of `ranges`, one range after the other.

    States come from the entries (which are newer), but for `HUGE`, which comes from the ranges. Pages
    without an entry are in no run.

    >>> ranges = PageRuns(np.array([5]), np.array([3]), np.array([PageState.PRESENT], np.uint8))
    >>> runs = entries_as_runs(np.array([1 << 63 | 1 << 56 | 7, 1 << 63 | 1 << 56 | 3, 0], np.uint64), ranges)
    >>> runs.start_page.tolist(), runs.n_pages.tolist(), runs.state.tolist()
    ([5], [2], [65])
    """
    offset = np.cumsum(ranges.n_pages) - ranges.n_pages
    top = (entries >> np.uint64(56)).astype(np.uint8)
    opens = np.ones(len(entries), np.bool_)
    opens[1:] = top[1:] != top[:-1]
    if frames:
        opens[1:] |= (top[1:] & _NOT_TOLD == _TOLD) & (np.diff(entries) != 1)
    opens[offset] = True
    at = np.flatnonzero(opens)
    state = _STATE_OF_TOP_BYTE[top[at]]
    of = np.searchsorted(offset, at, "right") - 1
    runs = PageRuns(
        start_page=ranges.start_page[of] + at - offset[of],
        n_pages=np.diff(at, append=len(entries)),
        state=state | (ranges.state[of] & np.uint8(PageState.HUGE)),
        frame=_frames_told(entries[at]) if frames else None,
    )
    return runs.select(state != 0)


_TOLD = np.uint8(Entry.PRESENT >> 56)
_NOT_TOLD = np.uint8(
    (Entry.PRESENT | Entry.SWAPPED | Entry.FILE_OR_SHARED | _ZERO_MARK | Entry.GUARD | Entry.MAPPED_ONCE)
    >> 56
)


def _frames_told(entries: Entries) -> Pages:
    told = (entries >> np.uint64(56)).astype(np.uint8) & _NOT_TOLD == _TOLD
    return np.where(told, (entries & np.uint64(FRAME_MASK)).astype(np.int64), NO_FRAME)


def page_states(pid: int, *, frames: bool = False, between: Callable[[], None] | None = None) -> PageRuns:
    """A census: the state of every page of the process, as runs.

    `frames` asks for physical frame numbers of anonymous pages that are not exclusive (`PageRuns.frame`).
    `between` is called after every `CHUNK_PAGES` pages or less, so that the caller can tend to other work.
    The process goes on meanwhile: the census is exact for a stopped process, and for a running one a picture
    with a long exposure. Raises `NoSuchProcess` (also when it replaces its address space by exec),
    `AccessDenied`, and `MissingRight` if frame numbers are asked for and may not be seen.
    """
    zero = zero_frame()
    if frames and not zero:
        raise MissingRight("frame numbers of pages", "run as root, or with CAP_SYS_ADMIN")
    maps = parse_maps(read_maps(pid))
    by_scan = bool(supported())
    parts = []
    with open_pagemap(pid) as fd:
        census = _by_scan(fd, maps, frames) if by_scan else _by_walk(fd, maps, frames, zero)
        for part in census:
            parts.append(part)
            if between:
                between()
        if not is_alive(fd):
            raise NoSuchProcess(pid)
    return join(parts, zero_known=by_scan or bool(zero))


def _by_scan(fd: int, maps: Maps, frames: bool) -> Iterator[PageRuns]:
    """Ranges from PAGEMAP_SCAN, then the entries of present pages other than zero pages.

    Ranges lack the bit of a page mapped once. Whether a page is of a file they could say, but then the
    kernel has to fetch each page's descriptor twice, which is most of the cost.
    """
    any_of = supported() & (Category.PRESENT | Category.SWAPPED | Category.GUARD)
    tell = any_of | Category.PFNZERO | Category.HUGE
    foreign = _foreign_pages(maps)
    for start, end, stride in sections(maps, address_space_end()):
        at = start
        while at < end:
            begun = time.perf_counter()
            regions, at = scan(fd, at, min(at + stride, end), any_of=any_of, tell=tell, max_pages=CHUNK_PAGES)
            stride = next_stride(stride, time.perf_counter() - begun)
            if not len(regions):
                continue
            ranges = _regions_as_runs(regions)
            unclear = (ranges.state & (PageState.PRESENT | PageState.ZERO)) == PageState.PRESENT
            plain = ranges.select(unclear)
            looked_at = entries_as_runs(_entries_of(fd, plain), plain, frames=frames)
            yield join([ranges.select(~unclear), mark_foreign(looked_at, foreign)])


def sections(maps: Maps, end: int) -> list[tuple[int, int, int]]:
    r"""The address space below `end` cut at wide mappings: start, end and the first stride of each section.

    What is not mapped costs a scan nothing, so all between two wide mappings is one stride.

    >>> text = b"1000-2000 rw-p 0 00:00 0\n10000000000-30000000000 rw-p 0 00:00 0\n"
    >>> [tuple(n >> 30 for n in section) for section in sections(parse_maps(text), 1 << 47)]
    [(0, 1024, 1024), (1024, 3072, 4), (3072, 131072, 128000)]
    """
    found, at = [], 0
    wide = (maps.end - maps.start > np.uint64(WIDE_BYTES)) & (maps.end <= np.uint64(end))
    for first, last in zip(maps.start[wide].tolist(), maps.end[wide].tolist(), strict=True):
        if at < first:
            found.append((at, first, first - at))
        found.append((first, last, WIDE_BYTES))
        at = last
    return [*found, (at, end, end - at)]


def next_stride(stride: int, took_s: float) -> int:
    """Bytes to scan next after `stride` bytes took so long: half as many, twice as many, or the same.

    >>> next_stride(1 << 32, 2 * PIECE_S) >> 20, next_stride(1 << 32, PIECE_S / 3) >> 20
    (2048, 8192)
    >>> next_stride(2 << 20, 1.0) >> 20
    2
    """
    if took_s > PIECE_S:
        return max(stride // 2, 2 << 20)
    return stride * 2 if took_s < PIECE_S / 2 else stride


def _regions_as_runs(regions: npt.NDArray[np.void]) -> PageRuns:
    start = (regions["start"] // np.uint64(_PAGE_SIZE)).astype(np.int64)
    end = (regions["end"] // np.uint64(_PAGE_SIZE)).astype(np.int64)
    return PageRuns(start, end - start, _STATE_OF_CATEGORIES[regions["categories"].astype(np.int64)])


def _state_of_categories(categories: int) -> int:
    if categories & Category.GUARD:
        return PageState.GUARD
    pairs = (
        (Category.PRESENT, PageState.PRESENT),
        (Category.SWAPPED, PageState.SWAPPED),
        (Category.FILE, PageState.FILE),
        (Category.PFNZERO, PageState.ZERO),
        (Category.HUGE, PageState.HUGE),
    )
    return sum(int(state) for category, state in pairs if categories & category)


_STATE_OF_CATEGORIES = np.array([_state_of_categories(c) for c in range(2 * Category.GUARD)], np.uint8)


def _entries_of(fd: int, ranges: PageRuns) -> Entries:
    """The entries of all pages in `ranges`, read in spans that bridge small gaps."""
    if len(ranges) == 0:
        return np.empty(0, np.uint64)
    start, end = ranges.start_page, ranges.start_page + ranges.n_pages
    opens = np.concatenate([[True], start[1:] - end[:-1] > _GAP_PAGES])
    first = np.flatnonzero(opens)
    span_start, span_end = start[first], end[np.append(first[1:], len(start)) - 1]
    span_length = span_end - span_start
    span_at = np.cumsum(span_length) - span_length
    entries = np.empty(int(span_length.sum()), np.uint64)
    for page, n_pages, at in zip(span_start.tolist(), span_length.tolist(), span_at.tolist(), strict=True):
        _read_into(entries[at : at + n_pages], fd, page)
    if len(entries) == ranges.n_pages.sum():
        return entries
    span = np.cumsum(opens) - 1
    return entries[expand(start - span_start[span] + span_at[span], ranges.n_pages)]


def _foreign_pages(maps: Maps) -> tuple[Pages, Pages]:
    """Page ranges where nothing is anonymous though its entries look so: frames without a page of memory.

    Such are vvar, and device memory in shared mappings (VM_PFNMAP).
    """
    foreign = maps.shared | np.array([name.startswith("[vvar") for name in maps.names], np.bool_)
    size = np.uint64(_PAGE_SIZE)
    return (maps.start[foreign] // size).astype(np.int64), (maps.end[foreign] // size).astype(np.int64)


def _by_walk(fd: int, maps: Maps, frames: bool, zero: int) -> Iterator[PageRuns]:
    """Without PAGEMAP_SCAN: every entry of every mapping. Huge zero pages are not told from shared ones."""
    foreign = _foreign_pages(maps)
    below = maps.end <= np.uint64(address_space_end())
    for start, end in zip(maps.start[below].tolist(), maps.end[below].tolist(), strict=True):
        for at in range(start // _PAGE_SIZE, end // _PAGE_SIZE, CHUNK_PAGES):
            entries = read_pagemap(fd, at, min(CHUNK_PAGES, end // _PAGE_SIZE - at))
            yield mark_foreign(_walked(entries, at, frames, zero), foreign)


def _walked(entries: Entries, start_page: int, frames: bool, zero: int) -> PageRuns:
    present = entries >= np.uint64(Entry.PRESENT)
    if zero:
        entries[present & ((entries & np.uint64(FRAME_MASK)) == np.uint64(zero))] |= np.uint64(_ZERO_MARK)
    whole = PageRuns(np.array([start_page]), np.array([len(entries)]), np.zeros(1, np.uint8))
    return entries_as_runs(entries, whole, frames=frames)
