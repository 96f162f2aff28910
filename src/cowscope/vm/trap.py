"""Loads and stores, with the trap as hardware and kernel play it.

translate → (entry missing or forbids it) page fault → handler → translate again → … → bytes move

| the handler says | the access |
|---|---|
| resolved | starts again, from translation |
| SEGMENTATION_FAULT, BUS_ERROR, OUT_OF_MEMORY | raises; no byte was moved, and what it did before is undone |

An access over several pages translates all of them before it moves a byte (`cowscope.vm.undo` says what an access
that fails leaves behind). The present bit of the error code
is the hardware's: entries under PROT_NONE, guard markers and none look alike. A successful translation marks
the entry accessed, and dirty at a store.

| signal | code | why |
|---|---|---|
| SegmentationFault | 1 SEGV_MAPERR | no mapping, or a guard marker in one that would allow the access |
| SegmentationFault | 2 SEGV_ACCERR | the mapping forbids the access |
| BusError | 2 BUS_ADRERR | beyond the end of the file |

Source: `exc_page_fault`, `do_user_addr_fault`, `access_error`; error bits as in the
processor manual (1 present, 2 write, 4 user; 16, instruction fetch, is not modelled).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from cowscope.errors import CowscopeError
from cowscope.vm import faults, undo
from cowscope.vm.entry import ACCESSED, DIRTY, FRAME_BITS, FRAME_SHIFT, PRESENT, USER, WRITABLE
from cowscope.vm.events import Allocated, Classified, Copied, Event, Flushed, Mapped, Resumed, Trapped
from cowscope.vm.rules import PROTECTION_BITS, MappingFlag, Outcome
from cowscope.vm.tables import LEAF_SHIFT

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

_LOAD = PRESENT | USER
_STORE = PRESENT | USER | WRITABLE
_MARKS = {_LOAD: ACCESSED, _STORE: ACCESSED | DIRTY}
_PROTECTION = {_LOAD: PROTECTION_BITS, _STORE: int(MappingFlag.WRITE)}
_ERROR_WRITE = 2
_ERROR_USER = 4
_MAPERR, _ACCERR, _ADRERR = 1, 2, 2

_Piece: TypeAlias = tuple[int, int, int]
"""A part of one frame: the frame, and offset and size in bytes."""


class PageFault(Exception):
    """The hardware's: translation found no entry that allows the access."""

    def __init__(self, page: int, error_code: int) -> None:
        """Keep the page, and x86's error bits."""
        self.page = page
        self.error_code = error_code


class AccessFault(CowscopeError):
    """An access that ends the process, or that memory does not suffice for."""

    def __init__(self, address: int, error_code: int, signal_code: int = 0) -> None:
        """Keep the address that could not be reached, x86's error bits, and the signal's code (`si_code`)."""
        access = "write to" if error_code & _ERROR_WRITE else "read from"
        super().__init__(f"{access} {address:#x} (error code {error_code:#x})")
        self.address = address
        self.error_code = error_code
        self.signal_code = signal_code


class SegmentationFault(AccessFault):
    """No mapping holds the address, or it forbids the access."""


class BusError(AccessFault):
    """The mapping has nothing behind the address."""


class OutOfMemory(AccessFault):
    """The access needs a frame, and none is left; nothing was changed."""


_RAISED = {
    Outcome.SEGMENTATION_FAULT: SegmentationFault,
    Outcome.BUS_ERROR: BusError,
    Outcome.OUT_OF_MEMORY: OutOfMemory,
}


def load(space: AddressSpace, address: int, count: int, *, user: bool = True) -> bytes:
    """Read `count` bytes; see `AddressSpace.load`. `user` is False where the kernel reads for the process."""
    read = space.memory.frames.read
    pieces = _faulted_in(space, address, count, _LOAD, _ERROR_USER * user)
    return b"".join([read(frame, offset, size) for frame, offset, size in pieces])


def store(space: AddressSpace, address: int, data: bytes, *, user: bool = True) -> None:
    """Write `data`; see `AddressSpace.store`. `user` is False where the kernel writes for the process."""
    frames, done = space.memory.frames, 0
    for frame, offset, size in _faulted_in(space, address, len(data), _STORE, _ERROR_USER * user):
        frames.write(frame, offset, data[done : done + size])
        done += size


def by_page(address: int, count: int, page_size: int) -> Iterator[tuple[int, int]]:
    """Address and size of each page's part of a range of bytes.

    >>> list(by_page(4095, 3, 4096))
    [(4095, 1), (4096, 2)]
    """
    end = address + count
    while address < end:
        size = min(page_size - address % page_size, end - address)
        yield address, size
        address += size


def _faulted_in(space: AddressSpace, address: int, count: int, needed: int, by: int) -> list[_Piece]:
    """The pieces of memory that an access moves; see `cowscope.vm.undo` for what is left where one cannot be had."""
    frames = space.memory.frames
    size, offset = frames.page_size, address % frames.page_size
    is_lone = 0 < count <= size - offset
    if frames.limit is not None or not is_lone:
        pages = range(address // size, -(-(address + count) // size))
        if undo.may_fail(space, pages, needed, _PROTECTION[needed]):
            return _all_or_nothing(space, address, count, needed, by)
    return (
        [(_frame(space, address, needed, by), offset, count)]
        if is_lone
        else _pieces(space, address, count, needed, by)
    )


def _pieces(space: AddressSpace, address: int, count: int, needed: int, by: int) -> list[_Piece]:
    size = space.memory.frames.page_size
    return [(_frame(space, at, needed, by), at % size, part) for at, part in by_page(address, count, size)]


def _all_or_nothing(space: AddressSpace, address: int, count: int, needed: int, by: int) -> list[_Piece]:
    memory = space.memory
    told: list[Event] = []
    listeners, memory.listeners = memory.listeners, [told.append] if memory.listeners else []
    checkpoint = undo.Checkpoint(memory)
    try:
        return _pieces(space, address, count, needed, by)
    except AccessFault as fault:
        if isinstance(fault, OutOfMemory) or fault.address != address:
            checkpoint.restore()
            del told[:-2]
        raise
    finally:
        memory.listeners = listeners
        for event in told:
            memory.tell(event)


def _frame(space: AddressSpace, address: int, needed: int, by: int) -> int:
    """The frame behind `address`, as often as it takes: translate, trap, handle."""
    while True:
        try:
            return _translate(space, address >> space.layout.page_shift, needed, by)
        except PageFault as fault:
            _handle(space, address, fault)


def _translate(space: AddressSpace, page: int, needed: int, by: int) -> int:
    slot = space.table.slot(page)
    entry = int(space.memory.tables.entries[slot])
    shared = needed == _STORE and slot >> LEAF_SHIFT in space.memory.tables.sharers
    if entry & needed != needed or shared:
        present = PRESENT if entry & _LOAD == _LOAD else 0
        raise PageFault(page, present | by | (_ERROR_WRITE if needed == _STORE else 0))
    marks = _MARKS[needed]
    if entry & marks != marks:
        space.memory.tables.entries[slot] = entry | marks
    return (entry & FRAME_BITS) >> FRAME_SHIFT


def _handle(space: AddressSpace, address: int, fault: PageFault) -> None:
    memory = space.memory
    before = _entry(space, fault.page) if memory.listeners else 0
    resolve = faults.write_faults if fault.error_code & _ERROR_WRITE else faults.read_faults
    number = int(resolve(memory, {space.id: space}, space.ids, np.array([fault.page]))[0])
    if not memory.listeners and number not in _RAISED:
        return
    outcome = Outcome(number)
    if memory.listeners:
        _tell(space, address, fault, outcome, before)
    if outcome in _RAISED:
        raise _RAISED[outcome](address, fault.error_code, _signal_code(space, fault, outcome))


def _signal_code(space: AddressSpace, fault: PageFault, outcome: Outcome) -> int:
    """The signal's `si_code`; 0 where there is no signal."""
    if outcome is Outcome.SEGMENTATION_FAULT:
        flags = int(space.mappings.flags_at(np.array([fault.page]))[0])
        needed = MappingFlag.WRITE if fault.error_code & _ERROR_WRITE else PROTECTION_BITS
        held = int(space.mappings.lookup(np.array([fault.page]))[0]) >= 0
        return _ACCERR if held and not flags & needed else _MAPERR
    return _ADRERR if outcome is Outcome.BUS_ERROR else 0


def _entry(space: AddressSpace, page: int) -> int:
    return int(space.memory.tables.entries[space.table.slot(page)])


def _tell(space: AddressSpace, address: int, fault: PageFault, outcome: Outcome, before: int) -> None:
    tell = space.memory.tell
    tell(Trapped(space.id, address, fault.error_code))
    tell(Classified(outcome))
    if outcome in _RAISED:
        return
    after = _entry(space, fault.page)
    old, new = (before & FRAME_BITS) >> FRAME_SHIFT, (after & FRAME_BITS) >> FRAME_SHIFT
    if outcome in (Outcome.COPIED, Outcome.ZERO_FILLED, Outcome.COPIED_FROM_FILE):
        tell(Allocated(new))
    if outcome in (Outcome.COPIED, Outcome.COPIED_FROM_FILE):
        tell(Copied(old, new))
    tell(Mapped(fault.page, new, bool(after & WRITABLE)))
    if before & PRESENT and old != new:
        tell(Flushed(fault.page, len(space.cpus) - 1))
    tell(Resumed(space.id, address))
