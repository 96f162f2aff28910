"""The calls that change mappings: mmap, munmap, mprotect, brk, mlock, by bytes, with the kernel's own checks.

| call | mappings | entries |
|---|---|---|
| mmap | what lay there goes; merged with its neighbours | none; faulted in with MAP_POPULATE, MAP_LOCKED |
| munmap | split at the borders, gone inside | dropped |
| mprotect | those that differ: split, changed, merged; a gap ends the call there | see `AddressSpace.protect` |
| brk | the heap grows (joins the mapping before it) or shrinks | dropped |
| mlock, munlock | split, marked, merged | all faulted in (`cowscope.vm.populate`); all are marked though one cannot be |
| the same, hugetlb | never marked | likewise |

VM_ACCOUNT, which decides about merging: set by mmap and mprotect on private writable memory; mprotect takes it
off memory that was never written.

A call that is refused changes nothing, but where the kernel works through a range mapping by mapping (mprotect,
mlock): what lies before the refusal stays changed.
Source: `do_mmap`, `do_vmi_munmap`, `do_mprotect_pkey`, `mprotect_fixup`, `do_brk_flags`, `apply_vma_lock_flags`.
Not modelled: protection keys, limits of mappings and of locked memory, overcommit.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from cowscope.errors import AlreadyMapped, Forbidden, InvalidArgument, NoMemory
from cowscope.vm import huge as huge_pages
from cowscope.vm import hugetlb, layout
from cowscope.vm.cache import KnownObject
from cowscope.vm.mappings import MappingRecord
from cowscope.vm.merging import merge
from cowscope.vm.populate import populate, populate_locked
from cowscope.vm.rules import PROTECTION_BITS, MappingFlag, Protection
from cowscope.vm.spaces import AddressSpace

_READ, _WRITE = int(MappingFlag.READ), int(MappingFlag.WRITE)
_SHARED, _FILE = int(MappingFlag.SHARED), int(MappingFlag.FILE)
_ACCOUNT, _LOCKED = int(MappingFlag.ACCOUNT), int(MappingFlag.LOCKED)
_NO_RESERVE, _NEVER_WRITE = int(MappingFlag.NO_RESERVE), int(MappingFlag.NEVER_WRITE)
_UNTRACKED = int(MappingFlag.UNTRACKED)


class Gap(NoMemory):
    """A range reaches to where nothing is mapped."""


@dataclass(frozen=True, slots=True)
class Backing:
    """The file behind a mapping: its number in the page cache, the byte to begin at, what it was opened for."""

    number: int
    offset: int = 0
    writable: bool = True


def check_range(space: AddressSpace, address: int, length: int) -> tuple[int, int]:
    """First page and number of pages of a range; `InvalidArgument` unless it is one of user addresses."""
    if address % space.layout.page_size:
        raise InvalidArgument(f"address {address:#x} is not at a page's start")
    if not 0 <= address <= space.layout.end or not 0 <= length <= space.layout.end - address:
        raise InvalidArgument(f"{length:#x} bytes at {address:#x} lie outside of the address space")
    return address >> space.layout.page_shift, space.layout.pages(length)


def mmap(
    space: AddressSpace,
    length: int,
    *,
    protection: Protection | int,
    shared: bool = False,
    address: int = 0,
    fixed: bool = False,
    replace: bool = True,
    file: Backing | None = None,
    populated: bool = False,
    locked: bool = False,
    huge: int = 1,
    extra: int = 0,
) -> int:
    """Map `length` bytes and say where; see `Process.mmap`.

    `huge` is how many base pages a hugetlb page has; `extra` are further `MappingFlag` bits.
    """
    if huge not in (1, hugetlb.HUGE, hugetlb.GIGANTIC):
        raise InvalidArgument(f"no huge page has {huge} base pages")
    if huge > 1:
        if file is not None:
            raise InvalidArgument("a file of ordinary pages has no huge ones")
        extra |= hugetlb.flags_for(space, huge, shared=shared)
        length = -(-length // (huge * space.layout.page_size)) * huge * space.layout.page_size
    start, n_pages = _place(space, length, address, fixed, replace, file is None and not shared, huge)
    flags = check_protection(protection) | _SHARED * shared | _LOCKED * (locked and huge == 1) | extra
    if not shared and huge == 1 and flags & (_WRITE | _NO_RESERVE) == _WRITE:
        flags |= _ACCOUNT
    reserved = huge > 1 and not flags & _NO_RESERVE
    if reserved:
        hugetlb.check_room(space, n_pages // huge, huge)
    object_, offset = 0, start
    if file is not None:
        flags |= _file_flags(space, file, flags, n_pages)
        object_, offset = file.number, file.offset >> space.layout.page_shift
    elif shared:
        flags |= _UNTRACKED
        object_, offset = _new_object(space, n_pages, huge, reserved), 0
    space.unmap(start, n_pages)
    if reserved and not shared:
        hugetlb.reserve(space, start, start + n_pages, huge)
    space.insert(MappingRecord(start, start + n_pages, flags, 0, object_, offset))
    merge(space.mappings, start)
    if populated or locked:
        populate(space, start, start + n_pages)
    return start << space.layout.page_shift


def _new_object(space: AddressSpace, n_pages: int, huge: int, reserved: bool) -> int:
    """The number of what is behind a new shared mapping of no file."""
    size = space.layout.page_size
    if huge > 1:
        known = hugetlb.shared_object(space.memory, n_pages, huge, reserved=reserved)
    else:
        known = KnownObject(n_pages * size, page_size=size)
    return space.memory.cache.new_object(known)


def _place(
    space: AddressSpace, length: int, address: int, fixed: bool, replace: bool, anonymous: bool, huge: int
) -> tuple[int, int]:
    """First page and number of pages of a new mapping."""
    bounds = space.layout
    if length <= 0:
        raise InvalidArgument(f"a mapping of {length} bytes")
    if length > bounds.end or (fixed and address > bounds.end - length):
        raise NoMemory(f"{length:#x} bytes do not fit into the address space")
    n_pages = space.layout.pages(length)
    if fixed:
        start, _ = check_range(space, address, length)
        if start % huge:
            raise InvalidArgument(f"address {address:#x} is not at a huge page's start")
        hugetlb.check_borders(space, start, start + n_pages)
        if start < bounds.lowest >> space.layout.page_shift:
            raise InvalidArgument(f"nothing may be mapped below {bounds.lowest:#x}")
        if not replace and not layout.free_at(space.mappings, bounds, start, n_pages):
            raise AlreadyMapped(f"something lies in the {length:#x} bytes at {address:#x}")
        return start, n_pages
    if huge > 1:
        return -(-choose(space, 0, n_pages + huge, anonymous=False) // huge) * huge, n_pages
    return choose(space, address, n_pages, anonymous=anonymous), n_pages


def choose(space: AddressSpace, hint: int, n_pages: int, *, anonymous: bool) -> int:
    """The page where the kernel would put `n_pages` pages: at the hint (bytes; 0: none) if nothing lies there."""
    if hint:
        start = max(hint, space.layout.lowest) >> space.layout.page_shift
        if layout.free_at(space.mappings, space.layout, start, n_pages):
            return start
    aligned = anonymous and not hint and n_pages % 512 == 0
    found = layout.choose(space.mappings, space.layout, n_pages, aligned=aligned)
    if found is None:
        raise NoMemory(f"no gap of {n_pages} pages is left")
    return found


def check_protection(protection: Protection | int) -> int:
    """`protection` as bits; `InvalidArgument` if there are others than read, write and execute."""
    bits = int(protection)
    if bits & ~PROTECTION_BITS or bits < 0:
        raise InvalidArgument(f"protection {bits:#x} has unknown bits")
    return bits


def _file_flags(space: AddressSpace, file: Backing, flags: int, n_pages: int) -> int:
    if file.offset % space.layout.page_size or file.offset < 0:
        raise InvalidArgument(f"offset {file.offset:#x} is not at a page's start")
    if file.offset + (n_pages << space.layout.page_shift) > 1 << 63:
        raise InvalidArgument(f"no file is so long as to have {n_pages} pages at {file.offset:#x}")
    if file.number not in space.memory.cache.known:
        raise InvalidArgument(f"no file {file.number}")
    untracked = 0 if space.memory.cache.known[file.number].tracked else _UNTRACKED
    if not flags & _SHARED or file.writable:
        return _FILE | untracked
    if flags & _WRITE:
        raise Forbidden("a shared writable mapping of a file opened for reading")
    return _FILE | _NEVER_WRITE | untracked


def munmap(space: AddressSpace, address: int, length: int) -> None:
    """Take away whatever is mapped in the range; see `Process.munmap`."""
    start, n_pages = check_range(space, address, length)
    if not n_pages:
        raise InvalidArgument("a range of 0 bytes")
    hugetlb.check_borders(space, start, start + n_pages)
    space.unmap(start, n_pages)


def covering(space: AddressSpace, start: int, end: int) -> Iterator[MappingRecord]:
    """The parts of mappings between two pages, in order; `Gap` when one is reached.

    Each part is looked up when it is its turn, after what the caller did to the one before.
    """
    page = start
    while page < end:
        row = int(space.mappings.lookup(np.array([page]))[0])
        if row < 0:
            raise Gap(f"nothing is mapped at {page << space.layout.page_shift:#x}")
        stop = min(int(space.mappings.end[row]), end)
        (part,) = space.mappings.clipped(page, stop)
        yield part
        page = stop


def change(space: AddressSpace, part: MappingRecord, flags: int) -> None:
    """Give a part of a mapping other flags, and merge it with its neighbours; nothing if it has them."""
    if flags != part.flags:
        hugetlb.check_borders(space, part.start, part.end)
        for border in (part.start, part.end):
            huge_pages.split_at(space, border)
        space.mappings.update(part.start, part.end, clear=-1, add=flags)
        merge(space.mappings, part.start)


def mprotect(space: AddressSpace, address: int, length: int, protection: Protection | int) -> None:
    """Change what a range allows; see `Process.mprotect`."""
    if address % space.layout.page_size:
        raise InvalidArgument(f"address {address:#x} is not at a page's start")
    wanted = check_protection(protection)
    if not length:
        return
    if not 0 < length <= space.layout.end - address or address < 0:
        raise NoMemory(f"{length:#x} bytes at {address:#x} lie outside of the address space")
    start = address >> space.layout.page_shift
    for part in covering(space, start, start + space.layout.pages(length)):
        if wanted & _WRITE and part.flags & _NEVER_WRITE:
            raise Forbidden("a shared mapping of a file opened for reading cannot become writable")
        flags = _accounted(part, part.flags & ~PROTECTION_BITS | wanted)
        if (flags ^ part.flags) & PROTECTION_BITS:
            change(space, part, flags)
            space.reprotect(part.start, part.end, flags)
            if part.flags & _LOCKED and not part.flags & (_WRITE | _SHARED) and wanted & _WRITE:
                populate(space, part.start, part.end)


def _accounted(part: MappingRecord, flags: int) -> int:
    if flags & _WRITE:
        charged = not part.flags & (_ACCOUNT | _WRITE | _SHARED | _NO_RESERVE)
        return flags | _ACCOUNT * charged
    never_written = not part.anon_vma and not part.object
    return flags & ~_ACCOUNT if never_written else flags


def brk(space: AddressSpace, address: int) -> int:
    """Move the end of the heap to byte `address` and say where it is; see `Process.brk`."""
    lowest = space.layout.heap_start
    if address < lowest:
        return space.brk
    old, new = space.layout.pages(space.brk), space.layout.pages(address)
    if new < old:
        space.unmap(new, old - new)
    elif new > old:
        # The kernel wants one page more, so that heap and mapping never touch.
        if not layout.free_at(space.mappings, space.layout, old, new - old + 1):
            raise NoMemory(f"the heap cannot grow to {address:#x}")
        space.insert(MappingRecord(old, new, _READ | _WRITE | _ACCOUNT, 0, 0, old))
        merge(space.mappings, old, only_before=True)
    space.brk = address
    return address


def mlock(space: AddressSpace, address: int, length: int, *, locked: bool = True) -> None:
    """Fault a range in for good, or let go of it again; see `Process.mlock`."""
    start = address >> space.layout.page_shift
    end = space.layout.pages(address + length)
    if address < 0 or length < 0 or end << space.layout.page_shift > space.layout.end:
        raise InvalidArgument(f"{length:#x} bytes at {address:#x} lie outside of the address space")
    for part in covering(space, start, end):
        if not part.flags & int(MappingFlag.HUGETLB):
            change(space, part, part.flags & ~_LOCKED | _LOCKED * locked)
    if locked:
        populate_locked(space, start, end)
