"""The live kernel's view of puppets: pagemap, kpageflags, kpagecount, maps, and the bytes themselves.

One read of pagemap over all watched pages a process, then one read of each run of frame numbers. Bytes are
read by the puppet itself with plain loads, and only of pages that are present and readable: any other way
(process_vm_readv, /proc/PID/mem) would change what is observed, by un-sharing pages or by putting them into
a batch that holds references.

| `State` | root | plain user |
|---|---|---|
| PRESENT, FILE, GUARD, SWAPPED | pagemap bits 63, 61, 58, 62 | the same |
| ONCE | kpagecount 1 | pagemap bit 56 |
| EXCLUSIVE | kpageflags bit 34 on an anonymous page (bit 12) | not known |
| ZERO, KSM, HUGE | kpageflags bits 24, 21, and 22 or 17 | not known |
"""

from __future__ import annotations

import os
from collections.abc import Sequence

import numpy as np

from cowscope.lab.puppet import Puppet
from cowscope.lab.scenario import END_PAGE, FIRST_PAGE
from cowscope.lab.view import EVERYTHING, Border, Ints, Labels, Sight, State, States, View, readable_pages
from cowscope.linux.pagemap import FRAME_MASK, Entry, zero_frame
from cowscope.units import PAGE_SHIFT

_KPF_ANON, _KPF_HUGE, _KPF_KSM, _KPF_THP, _KPF_ZERO, _KPF_EXCLUSIVE = 12, 17, 21, 22, 24, 34
_MARKER = int(Entry.GUARD | Entry.UFFD_WP)


class Observer:
    """Looks at puppets. As root it sees all; else `sight` says what is missing."""

    def __init__(self) -> None:
        """Find out what this user may see."""
        self.zero = zero_frame()
        self._flags, self._counts = _open_frames() if self.zero else (-1, -1)
        self.full = self._flags >= 0
        plain = State.PRESENT | State.FILE | State.GUARD | State.SWAPPED | State.ONCE | State.READABLE
        self.sight = EVERYTHING if self.full else Sight(plain, False, False, True)

    def close(self) -> None:
        """Close what is open."""
        for fd in (self._flags, self._counts):
            if fd >= 0:
                os.close(fd)
        self._flags = self._counts = -1

    def look(
        self, puppets: Sequence[Puppet], maps: Sequence[tuple[Border, ...]], fds: Sequence[int], pages: Ints
    ) -> list[View]:
        """The views of `puppets`, whose mappings are `maps` and whose open pagemaps are `fds`."""
        if not puppets:
            return []
        if not len(pages):
            nothing = np.zeros(0, np.int64)
            empty = View(nothing.astype(np.uint16), nothing, nothing, nothing.astype(np.uint64), ())
            return [empty] * len(puppets)
        entries = [_entries(fd, pages) for fd in fds]
        frames, flags, counts = self._frames(np.concatenate(entries))
        views = []
        for index, puppet in enumerate(puppets):
            part = slice(index * len(pages), (index + 1) * len(pages))
            state = _states(entries[index], flags[part], counts[part], self.full)
            readable = readable_pages(maps[index], pages) & ((state & int(State.PRESENT)) != 0)
            state[readable] |= int(State.READABLE)
            label = _labels(puppet, pages, readable)
            views.append(View(state, frames[part], counts[part], label, maps[index]))
        return views

    def _frames(self, entries: Ints) -> tuple[Ints, Ints, Ints]:
        """Frame number (0: none or the zero page), kpageflags and kpagecount behind each entry."""
        if not self.full:
            nothing = np.zeros(len(entries), np.int64)
            return nothing, nothing, nothing
        present = entries < 0  # bit 63 is the sign
        numbers = np.where(present, entries & FRAME_MASK, 0)
        distinct, where = np.unique(numbers, return_inverse=True)
        flags, counts = np.zeros(len(distinct), np.int64), np.zeros(len(distinct), np.int64)
        starts = np.flatnonzero(np.diff(distinct, prepend=-2) > 1).tolist()
        for start, stop in zip(starts, [*starts[1:], len(distinct)], strict=True):
            first, n_bytes = int(distinct[start]) * 8, (stop - start) * 8
            flags[start:stop] = np.frombuffer(os.pread(self._flags, n_bytes, first), np.int64)
            counts[start:stop] = np.frombuffer(os.pread(self._counts, n_bytes, first), np.int64)
        if distinct[0] == 0:
            flags[0] = counts[0] = 0
        zero = (flags >> _KPF_ZERO & 1) != 0
        distinct[zero] = 0
        return distinct[where], flags[where], counts[where]


def _open_frames() -> tuple[int, int]:
    try:
        flags = os.open("/proc/kpageflags", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return -1, -1
    try:
        return flags, os.open("/proc/kpagecount", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        os.close(flags)
        return -1, -1


def _entries(fd: int, pages: Ints) -> Ints:
    first, last = int(pages[0]), int(pages[-1])
    data = np.frombuffer(os.pread(fd, (last - first + 1) * 8, first * 8), np.int64)
    return data if len(data) == len(pages) else data[pages - first]


def _states(entries: Ints, flags: Ints, counts: Ints, full: bool) -> States:
    def bit(values: Ints, number: int, state: State) -> Ints:
        return (values >> number & 1) * int(state)

    state = bit(entries, 61, State.FILE) | bit(entries, 58, State.GUARD)
    state |= bit(entries, 62, State.SWAPPED)
    state[(entries & _MARKER) != 0] &= ~int(State.SWAPPED)
    present = entries < 0
    state[present] |= int(State.PRESENT)
    if full:
        anon = flags >> _KPF_ANON & 1
        state |= anon * int(State.ANON) | (flags >> _KPF_EXCLUSIVE & anon) * int(State.EXCLUSIVE)
        state |= bit(flags, _KPF_ZERO, State.ZERO) | bit(flags, _KPF_KSM, State.KSM)
        # pagemap takes the huge zero page for a file's.
        state[(flags >> _KPF_ZERO & 1) != 0] &= ~int(State.FILE)
        huge = (flags >> _KPF_THP | flags >> _KPF_HUGE) & ~(flags >> _KPF_ZERO) & 1
        state |= huge * int(State.HUGE)
        state |= (counts == 1) * int(State.ONCE)
    else:
        state |= bit(entries, 56, State.ONCE)
    return state.astype(np.uint16)


def _labels(puppet: Puppet, pages: Ints, readable: np.typing.NDArray[np.bool_]) -> Labels:
    label = np.zeros(len(pages), np.uint64)
    addresses = (pages[readable] << PAGE_SHIFT).tolist()
    if addresses:
        label[readable] = np.frombuffer(puppet.gather(addresses), np.uint64)
    return label


def read_borders(pid: int) -> tuple[Border, ...]:
    """The mappings of a puppet that a scenario owns. Raises `OSError`."""
    with open(f"/proc/{pid}/maps", "rb", buffering=0) as file:
        return parse_borders(file.readall() or b"")


def parse_borders(data: bytes) -> tuple[Border, ...]:
    r"""The mappings in the text of a `maps` file that lie where scenarios map.

    >>> parse_borders(b"00400000-00401000 r-xp 0 0 0\n1000000000-1000002000 rw-p 0 0 0\n")
    (Border(start=16777216, end=16777218, protection=3, shared=False),)
    """
    found = []
    for line in data.splitlines():
        span, flags, _ = line.split(b" ", 2)
        start, end = (int(part, 16) >> PAGE_SHIFT for part in span.split(b"-"))
        if start >= END_PAGE:
            break
        if start >= FIRST_PAGE:
            protection = (flags[0:1] == b"r") | (flags[1:2] == b"w") << 1 | (flags[2:3] == b"x") << 2
            found.append(Border(start, end, int(protection), flags[3:4] == b"s"))
    return tuple(found)
