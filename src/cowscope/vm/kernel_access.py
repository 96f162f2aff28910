"""Accesses to a process's memory by the kernel: for the process itself, for a debugger, for devices.

| who | faults | shared page | refused |
|---|---|---|---|
| read(2) and the like: `copy_to_user` | as the process's own, error codes without the user bit | copied | as its own |
| write(2) and the like: `copy_from_user` | likewise | stays shared | likewise |
| process_vm_writev: `write_pinned` | untraced | copied | where the mapping is not writable |
| process_vm_readv, O_DIRECT: `read_pinned` | untraced | unshared, stays read-only | where not readable |
| /proc/PID/mem, ptrace: `write_forced` | untraced | copied, W as the mapping has it | shared and read-only |
| /proc/PID/mem, ptrace: `read_forced` | untraced | stays shared | guard markers |
| io_uring, O_DIRECT, vmsplice: `hold` | untraced | copied, unshared, stays shared | as those above |

A forced write may go to private memory that the process itself may not write. Unsharing: a reference of
long standing must not be left behind by a later copy, so the page becomes exclusive first, by a copy if need be.

Source: `copy_to_user`, `access_remote_vm`, `check_vma_flags`, `can_follow_write_pte`, `gup_must_unshare`.
Not modelled: activation of pages that are looked at twice.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from cowscope.errors import BadAddress, CallRefused, InputOutputError, InvalidArgument
from cowscope.vm import faults, huge, trap
from cowscope.vm.arguments import checked
from cowscope.vm.columns import Ints
from cowscope.vm.entry import FRAME_BITS, FRAME_SHIFT, PRESENT, USER, WRITABLE, without
from cowscope.vm.hugetlb import unit_of
from cowscope.vm.rules import PROTECTION_BITS, FrameFlag, MappingFlag, Outcome
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import LEAF_MASK, LEAF_SHIFT, LEAF_SIZE

_WRITE, _READ = int(MappingFlag.WRITE), int(MappingFlag.READ)
_SHARED = int(MappingFlag.SHARED)
_ANON, _EXCLUSIVE = int(FrameFlag.ANON), int(FrameFlag.EXCLUSIVE)

_Refusal = TypeVar("_Refusal", bound=CallRefused)


class Hold:
    """Frames that somebody outside refers to, until `release`; `read` is what is in them now."""

    def __init__(self, space: AddressSpace, frames: list[int], *, pin: bool) -> None:
        """Take a reference to each frame; a pin makes fork copy the page."""
        self._kept, self._folios = space.memory.frames, space.memory.folios
        self._numbers, self._pin = np.array(frames, np.int64), pin
        self._kept.hold(self._numbers, pin=pin)

    @checked
    def read(self, offset: int, count: int) -> bytes:
        """`count` bytes from byte `offset` of the first page on, all within one page; `InvalidArgument` for others."""
        n_bytes = len(self._numbers) * self._kept.page_size
        if (
            not 0 <= offset < n_bytes
            or not 0 <= count <= self._kept.page_size - offset % self._kept.page_size
        ):
            raise InvalidArgument(f"{count} bytes at offset {offset} of {n_bytes} that are held")
        return self._kept.read(
            int(self._numbers[offset // self._kept.page_size]), offset % self._kept.page_size, count
        )

    def release(self) -> None:
        """Let go; frames that nobody else has are freed."""
        self._kept.release(self._numbers, pin=self._pin)
        self._folios.released(self._numbers)
        self._numbers = self._numbers[:0]


def hold(space: AddressSpace, start: int, n_pages: int, *, pin: bool, write: bool) -> Hold:
    """Refer to the frames of pages, faulted in first; `BadAddress` (and nothing held) where that cannot be.

    A pin for writing (io_uring, O_DIRECT reads) faults as a write does, one for reading unshares; what is no pin
    (vmsplice) leaves shared pages shared, and is content with the pages before the first that cannot be had.
    """
    frames = []
    for page in range(start, start + n_pages):
        if write:
            frame = _frame_to_write(space, page, forced=False)
        else:
            frame = _frame_to_read(space, page, forced=False, unshare=pin, by_entry=True)
        if frame is not None:
            frames.append(frame)
        elif pin or not frames:
            raise BadAddress(f"the page at {page << space.layout.page_shift:#x} cannot be held")
        else:
            break
    return Hold(space, frames, pin=pin)


def copy_to_user(space: AddressSpace, address: int, data: bytes) -> int:
    """Write `data` on behalf of the process and say how many bytes went; `BadAddress` if none could."""
    done = 0
    for at, size in trap.by_page(address, len(data), space.layout.page_size):
        try:
            trap.store(space, at, data[done : done + size], user=False)
        except trap.AccessFault as fault:
            if not done:
                raise BadAddress(str(fault)) from fault
            break
        done += size
    return done


def copy_from_user(space: AddressSpace, address: int, count: int) -> bytes:
    """Read up to `count` bytes on behalf of the process; `BadAddress` if not one could be read."""
    read = b""
    for at, size in trap.by_page(address, count, space.layout.page_size):
        try:
            read += trap.load(space, at, size, user=False)
        except trap.AccessFault as fault:
            if not read:
                raise BadAddress(str(fault)) from fault
            break
    return read


def write_pinned(space: AddressSpace, address: int, data: bytes) -> int:
    """process_vm_writev: write `data` and say how many bytes went; `BadAddress` if none could."""
    return _write(space, address, data, BadAddress, forced=False)


def write_forced(space: AddressSpace, address: int, data: bytes) -> int:
    """Write through /proc/PID/mem and say how many bytes went; `InputOutputError` if none could."""
    return _write(space, address, data, InputOutputError, forced=True)


def read_pinned(space: AddressSpace, address: int, count: int) -> bytes:
    """process_vm_readv: up to `count` bytes, their pages unshared; `BadAddress` if not one could be read."""
    return _read(space, address, count, BadAddress, forced=False)


def read_forced(space: AddressSpace, address: int, count: int) -> bytes:
    """Read through /proc/PID/mem; `InputOutputError` if not one byte could be read."""
    return _read(space, address, count, InputOutputError, forced=True)


def _write(space: AddressSpace, address: int, data: bytes, refusal: type[_Refusal], *, forced: bool) -> int:
    done = 0
    for at, size in trap.by_page(address, len(data), space.layout.page_size):
        frame = _frame_to_write(space, at >> space.layout.page_shift, forced=forced)
        if frame is None:
            if not done:
                raise refusal(f"the page at {at:#x} cannot be written")
            break
        space.memory.frames.write(frame, at % space.layout.page_size, data[done : done + size])
        done += size
    return done


def _read(space: AddressSpace, address: int, count: int, refusal: type[_Refusal], *, forced: bool) -> bytes:
    read = b""
    for at, size in trap.by_page(address, count, space.layout.page_size):
        page = at >> space.layout.page_shift
        frame = _frame_to_read(space, page, forced=forced, unshare=not forced, by_entry=False)
        if frame is None:
            if not read:
                raise refusal(f"the page at {at:#x} cannot be read")
            break
        read += space.memory.frames.read(frame, at % space.layout.page_size, size)
    return read


def _frame_to_write(space: AddressSpace, page: int, *, forced: bool) -> int | None:
    flags = int(space.mappings.flags_at(np.array([page]))[0])
    if not flags & _WRITE and (not forced or flags & _SHARED or not _is_mapped(space, page)):
        return None
    space.table.own([page >> LEAF_SHIFT])
    entry = _entry(space, page)
    if (
        not entry & WRITABLE
        and (flags & _WRITE or not _owns(space, page))
        and not _fault(space, page, _WRITE)
    ):
        return None
    return _frame(space, page)


def _frame_to_read(
    space: AddressSpace, page: int, *, forced: bool, unshare: bool, by_entry: bool
) -> int | None:
    """The frame, or None where it may not be had.

    `by_entry`: an entry that the hardware can use is enough, whatever its mapping says (`gup_fast_pte_range`: a
    page that was written first, in memory that may only be written).
    """
    flags = int(space.mappings.flags_at(np.array([page]))[0])
    usable = by_entry and _entry(space, page) & PRESENT and _entry(space, page) & USER and _frame(space, page)
    if not _is_mapped(space, page) or not (flags & _READ or forced or usable):
        return None
    if not _entry(space, page) & PRESENT and not _fault(space, page, _READ):
        return None
    space.table.own([page >> LEAF_SHIFT] if unshare else [])
    if unshare and _is_shared_anonymous(space, page) and not _fault(space, page, _WRITE, unshare=True):
        return None
    return _frame(space, page)


def _fault(space: AddressSpace, page: int, access: int, *, unshare: bool = False) -> bool:
    """Resolve a fault as if the mapping allowed the access; the entry is as writable afterwards as it may be."""
    row = int(space.mappings.lookup(np.array([page]))[0])
    held = int(space.mappings.flags[row])
    space.mappings.flags[row] |= access
    resolve = faults.write_faults if access == _WRITE else faults.read_faults
    outcome = resolve(space.memory, {space.id: space}, space.ids, np.array([page]))[0]
    lent = access * (not held & access)
    space.mappings.flags[row] &= ~lent
    # Where the page itself cannot be had, fault-around may have mapped others.
    forbidden = WRITABLE * (unshare or not held & _WRITE) | USER * (not held & PROTECTION_BITS)
    if forbidden:
        unit = unit_of(held)
        if unit > 1:
            slots = space.table.slots(np.arange(page - page % unit, page - page % unit + unit))
        elif unshare:
            slots = np.array([space.table.slot(page)])
        else:
            slots = _with_neighbours(space, page, row)
        huge.before_change(space, slots)
        space.memory.tables.entries[slots] = without(space.memory.tables.entries[slots], forbidden)
    return bool(outcome < Outcome.SEGMENTATION_FAULT)


def _with_neighbours(space: AddressSpace, page: int, row: int) -> Ints:
    """The slots of present pages that the fault may have filled along with `page`: those of a large folio."""
    first = page & ~LEAF_MASK
    low, high = (
        max(first, int(space.mappings.start[row])),
        min(first + LEAF_SIZE, int(space.mappings.end[row])),
    )
    _, slots = space.table.occupied(low, high)
    present: Ints = slots[(space.memory.tables.entries[slots] & PRESENT) != 0]
    return present


def _entry(space: AddressSpace, page: int) -> int:
    return int(space.memory.tables.entries[space.table.slot(page)])


def _frame(space: AddressSpace, page: int) -> int:
    return (_entry(space, page) & FRAME_BITS) >> FRAME_SHIFT


def _is_mapped(space: AddressSpace, page: int) -> bool:
    return int(space.mappings.lookup(np.array([page]))[0]) >= 0


def _owns(space: AddressSpace, page: int) -> bool:
    flags = int(space.memory.frames.flags[_frame(space, page)])
    return bool(_entry(space, page) & PRESENT) and flags & _EXCLUSIVE != 0


def _is_shared_anonymous(space: AddressSpace, page: int) -> bool:
    flags = int(space.memory.frames.flags[_frame(space, page)])
    return flags & (_ANON | _EXCLUSIVE) == _ANON
