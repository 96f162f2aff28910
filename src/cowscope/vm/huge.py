"""Transparent huge pages: how they come, how they are written, and how they fall apart.

A huge page that one entry of the last but one level maps is kept here as a leaf row of 512 entries with a mark
("huge row"): the kernel too keeps a leaf table in reserve for it.

| event | effect |
|---|---|
| write, nothing there, mapping marked HUGEPAGE, the aligned 2 MiB inside it and empty | a huge row, all pages exclusive |
| read, likewise | a huge row of the zero page; the mapping gets its `anon_vma` |
| write, else | the largest allowed order whose aligned range lies inside and is empty, mapped by its pages |
| write to a huge row of the zero page | a new huge page; without frames the row falls apart |
| write to a read-only huge row, nobody else maps or holds the folio | all of it writable and exclusive, one fault |
| likewise, but exclusive | all of it writable |
| else | the row falls apart: 512 entries; then the one page goes the way of any page of a folio |
| unmap, protect, discard, move of a part, a mapping's border in it | the row falls apart; entries stay as they are |
| MADV_FREE of a part, nobody else maps any of it | the folio falls apart: small pages, zero pages for empty ones |
| fork | the child gets a huge row |

Source: `do_huge_pmd_anonymous_page`, `do_huge_pmd_wp_page`, `__split_huge_pmd`, `alloc_anon_folio`, `copy_huge_pmd`.
Not modelled: khugepaged, huge pages of files, fragmentation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from cowscope.vm.columns import Bools, Ints
from cowscope.vm.entry import OWNED, READ, WRITABLE, entries_for, frames_of
from cowscope.vm.folios import Folio
from cowscope.vm.rules import FrameFlag, MappingFlag, Outcome
from cowscope.vm.tables import LEAF_MASK, LEAF_SHIFT, LEAF_SIZE

if TYPE_CHECKING:
    from cowscope.vm.memory import Memory
    from cowscope.vm.spaces import AddressSpace

HUGE_ORDER = LEAF_SHIFT

_BACKED = int(MappingFlag.SHARED | MappingFlag.FILE)
_HUGE_PAGE, _NO_HUGE_PAGE = int(MappingFlag.HUGE_PAGE), int(MappingFlag.NO_HUGE_PAGE)
_EXCLUSIVE = int(FrameFlag.EXCLUSIVE)


def before_write(space: AddressSpace, page: int, flags: int) -> Outcome | None:
    """What huge pages make of a write fault; None if it goes on as a fault on a single page."""
    tables = space.memory.tables
    row = space.table.leaves.get(page >> LEAF_SHIFT, 0)
    if row in tables.huge:
        return _write_huge(space, page, row)
    if flags & _BACKED or tables.entries[space.table.slot(page)]:
        return None
    return _fill(space, page, flags)


def before_read(space: AddressSpace, page: int, flags: int) -> Outcome | None:
    """What huge pages make of a read fault; None if it goes on as a fault on a single page."""
    first = page & ~LEAF_MASK
    if flags & _BACKED or HUGE_ORDER not in _orders(space, flags) or not _is_empty(space, first, LEAF_SIZE):
        return None
    row = _row(space, page)
    space.memory.tables.rows[row] = READ
    space.memory.tables.huge.add(row)
    space.mappings.note_anon_vma(np.array([page]))
    return Outcome.MAPPED


def _row(space: AddressSpace, page: int) -> int:
    return int(space.table.slots(np.array([page]), create=True)[0]) >> LEAF_SHIFT


def _orders(space: AddressSpace, flags: int) -> list[int]:
    """Orders that a fault may use, largest first."""
    if flags & _NO_HUGE_PAGE:
        return []
    memory = space.memory
    marked = (HUGE_ORDER,) * memory.huge_pages + tuple(memory.advised_orders) if flags & _HUGE_PAGE else ()
    return sorted({*marked, *memory.folio_orders}, reverse=True)


def _is_empty(space: AddressSpace, first: int, count: int) -> bool:
    """Whether one mapping holds all of the pages and none has an entry."""
    low, high = space.mappings.lookup(np.array([first, first + count - 1])).tolist()
    pages, _ = space.table.occupied(first, first + count, look=True)
    return low == high >= 0 and not pages.size


def _fill(space: AddressSpace, page: int, flags: int) -> Outcome | None:
    for order in _orders(space, flags):
        first, count = page & ~((1 << order) - 1), 1 << order
        if _is_empty(space, first, count) and space.memory.frames.room(count) == count:
            _map_folio(space, first, order)
            return Outcome.ZERO_FILLED
    return None


def _map_folio(space: AddressSpace, first: int, order: int) -> None:
    memory, count = space.memory, 1 << order
    huge = order == HUGE_ORDER
    slots = space.table.slots(np.arange(first, first + count), create=True)
    frames = memory.folios.allocate(order, space=space.id, count=1 if huge else count)
    memory.tables.entries[slots] = entries_for(frames, OWNED)
    if huge:
        memory.tables.huge.add(int(slots[0]) >> LEAF_SHIFT)
    space.mappings.note_anon_vma(np.array([first]))


def _write_huge(space: AddressSpace, page: int, row: int) -> Outcome | None:
    memory = space.memory
    entries = memory.tables.rows[row]
    if int(entries[0]) & WRITABLE:
        return None
    frames = frames_of(entries)
    folio = memory.folios.of(int(frames[0]))
    if folio is None:
        memory.tables.huge.discard(row)
        if memory.frames.room(LEAF_SIZE) < LEAF_SIZE:
            return None
        memory.tables.rows[row] = 0
        _map_folio(space, page & ~LEAF_MASK, HUGE_ORDER)
        return Outcome.ZERO_FILLED
    alone = folio.large_map_count == 1 and not memory.folios.is_held(folio)
    if not alone and not int(memory.frames.flags[frames[0]]) & _EXCLUSIVE:
        split(space, row)
        return None
    memory.frames.mark(frames, _EXCLUSIVE)
    memory.tables.rows[row] = entries_for(frames, OWNED)
    return Outcome.REUSED


def split(space: AddressSpace, row: int) -> None:
    """Let a huge row be 512 ordinary entries from now on (`__split_huge_pmd`)."""
    memory = space.memory
    memory.tables.huge.discard(row)
    folio = memory.folios.of(int(frames_of(memory.tables.rows[row][:1])[0]))
    if folio is not None:
        folio.add(space.id, LEAF_SIZE - 1)


def break_up(space: AddressSpace, folio: Folio) -> None:
    """Let the pages of a folio that `space` alone maps be small ones (`split_folio`).

    Pages that nobody maps are freed; pages that hold nothing but zeros become the zero page.
    """
    memory = space.memory
    slots = space.table.occupied()[1]
    here = np.isin(frames_of(memory.tables.entries[slots]), folio.frames)
    slots = slots[here]
    for row in memory.tables.huge.intersection(np.unique(slots >> LEAF_SHIFT).tolist()):
        split(space, row)
    memory.folios.forget(folio)
    frames = frames_of(memory.tables.entries[slots])
    empty = np.array([not any(memory.frames.contents.get(frame, b"")) for frame in frames.tolist()])
    memory.tables.entries[slots[empty]] = READ
    memory.frames.unmap(frames[empty])


def before_change(space: AddressSpace, slots: Ints) -> None:
    """Split the huge rows that a change of the entries in `slots` (no repeats) hits in part."""
    huge = space.memory.tables.huge
    if huge:
        rows, counts = np.unique(slots >> LEAF_SHIFT, return_counts=True)
        for row, count in zip(rows.tolist(), counts.tolist(), strict=True):
            if row in huge and count < LEAF_SIZE:
                split(space, row)


def split_at(space: AddressSpace, page: int) -> None:
    """Split the huge row that a new border of a mapping cuts in two (`vma_adjust_trans_huge`)."""
    row = space.table.leaves.get(page >> LEAF_SHIFT, 0)
    if page & LEAF_MASK and row in space.memory.tables.huge:
        split(space, row)


def taken(space: AddressSpace, slots: Ints) -> tuple[int, ...]:
    """The numbers of the leaf tables among those of `slots` that are huge rows; they are none any more."""
    huge = space.memory.tables.huge
    if not huge:
        return ()
    rows = huge.intersection(np.unique(slots >> LEAF_SHIFT).tolist())
    huge -= rows
    return tuple(number for number, row in space.table.leaves.items() if row in rows)


def given(space: AddressSpace, leaves: tuple[int, ...], shift: int) -> None:
    """Huge rows were moved by `shift` pages: they stay huge if that is a multiple of theirs (`move_huge_pmd`)."""
    memory = space.memory
    for number in leaves:
        page = (number << LEAF_SHIFT) + shift
        row = space.table.leaves[page >> LEAF_SHIFT]
        if not page & LEAF_MASK:
            memory.tables.huge.add(row)
        else:
            folio = memory.folios.of(int(frames_of(memory.tables.entries[[space.table.slot(page)]])[0]))
            if folio is not None:
                folio.add(space.id, LEAF_SIZE - 1)


def dropped(space: AddressSpace, slots: Ints, frames: Ints) -> None:
    """Tell the folios that `space` drops the entries in `slots`, which name `frames`; huge rows go whole."""
    memory = space.memory
    rows = slots >> LEAF_SHIFT
    for row in set(np.unique(rows).tolist()) & memory.tables.huge if memory.tables.huge else ():
        memory.tables.huge.discard(row)
        memory.folios.unmapped(space.id, frames[rows == row][:1])
        keep = rows != row
        frames, rows = frames[keep], rows[keep]
    memory.folios.unmapped(space.id, frames)


def shared_by_fork(
    parent: AddressSpace, child: AddressSpace, slots: Ints, targets: Ints, frames: Ints
) -> None:
    """Tell the folios what a child maps now; a huge row that was copied whole is one in the child."""
    memory = parent.memory
    rows, theirs = slots >> LEAF_SHIFT, targets >> LEAF_SHIFT
    for row in set(np.unique(rows).tolist()) & memory.tables.huge if memory.tables.huge else ():
        of_row = rows == row
        memory.tables.huge.add(int(theirs[of_row][0]))
        memory.folios.mapped(child.id, frames[of_row][:1])
        keep = ~of_row
        frames, rows, theirs = frames[keep], rows[keep], theirs[keep]
    memory.folios.mapped(child.id, frames)


def is_large(memory: Memory, slots: Ints, frames: Ints) -> Bools:
    """True where the entry in a slot names a page of a large folio, or of the huge zero page."""
    if not memory.folios and not memory.tables.huge:
        return np.zeros(len(slots), np.bool_)
    large: Bools = np.isin(frames, memory.folios.members())
    large |= np.isin(slots >> LEAF_SHIFT, list(memory.tables.huge))
    return large
