"""Laws: what holds between any two operations. A broken law is a bug, hence an assertion with the values.

| law | |
|---|---|
| map counts | a frame's map count is the number of entries that name it |
| proportional shares | each entry's share of its frame (PSS) adds up to the frames that are mapped |
| conservation | frames ever fetched = free + in use; a frame is free iff nothing refers to it |
| isolation | a writable entry of a private mapping names an anonymous, exclusive frame, mapped once |
| exclusive | a frame marked exclusive has a map count of at most 1 |
| zero page | never writable, never counted |
| references | those that are not mappings are the page cache's, swap entries', holds from outside |
| swap | a frame on swap is mapped by nobody; a swap entry or a guard marker is never writable |
| folios | the large map count is the number of entries, a huge row counted once; a slot counts its space's |
| cached folios | the page cache keeps all of their pages, or none |
| promises | of a pool: as many as spaces and objects were made and have not used, and no more than it has pages |
| huge rows | all 512 entries name one folio, or the zero page, and are writable together or not |
| coverage | an entry lies in a mapping, and is writable only where the mapping is |

A frame that is DISPUTED is exempt from isolation. Checks cost the whole machine: for tests.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from cowscope.vm.columns import Bools, Entries, Ints
from cowscope.vm.entry import PRESENT, SWAP, WRITABLE, frames_of
from cowscope.vm.folios import Folio
from cowscope.vm.frames import ZERO_PAGE, Frames
from cowscope.vm.machine import Machine
from cowscope.vm.rules import FrameFlag, MappingFlag
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.tables import LEAF_SIZE


def check(machine: Machine) -> None:
    """Raise `AssertionError`, with the values, for the first law that does not hold.

    >>> check(Machine())
    """
    frames = machine.memory.frames
    rows: set[int] = set()
    named, swapped = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for space in machine.spaces.values():
        pages, slots = space.table.occupied(look=True)
        entries = machine.memory.tables.entries[slots]
        _check_space(space, pages, entries)
        seen_before = np.isin(slots // LEAF_SIZE, list(rows))
        rows.update(space.table.leaves.values())
        entries = entries[~seen_before]
        on_swap = (entries & SWAP) != 0
        named.append(frames_of(entries[~on_swap]))
        swapped.append(frames_of(entries[on_swap]))
    _check_map_counts(frames, np.concatenate(named))
    held = np.repeat(*(np.array(list(c), np.int64) for c in (frames.holds, frames.holds.values())))
    _check_conservation(
        frames,
        np.concatenate([machine.memory.cache.cached(), held, machine.memory.folios.members(), *swapped]),
    )
    _check_tables(machine)
    _check_folios(machine)
    _check_pools(machine)


def _require(holds: Bools, law: str, *values: Ints) -> None:
    if not holds.all():
        at = int(np.flatnonzero(~holds)[0])
        raise AssertionError(f"{law}: {[int(column[at]) for column in values]}")


def _check_space(space: AddressSpace, pages: Ints, entries: Entries) -> None:
    frames, numbers = space.memory.frames, frames_of(entries)
    mapping, flags = space.mappings.flags_at(pages), frames.flags[numbers].astype(np.int64)
    where = (np.full(len(pages), space.id), pages, numbers)
    writable = (entries & WRITABLE) != 0
    marker = (entries & PRESENT) == 0
    _require(~marker | ~writable, "writable, yet not present (space, page, frame)", *where)
    _require(
        space.mappings.lookup(pages) >= 0, "an entry outside of all mappings (space, page, frame)", *where
    )
    _require(~writable | ((mapping & MappingFlag.WRITE) != 0), "writable, mapping is not", *where)
    _require(~writable | (numbers != ZERO_PAGE), "writable zero page", *where)
    private = writable & ((mapping & MappingFlag.SHARED) == 0) & ((flags & FrameFlag.DISPUTED) == 0)
    owned = (flags & (FrameFlag.ANON | FrameFlag.EXCLUSIVE)) == FrameFlag.ANON | FrameFlag.EXCLUSIVE
    alone = frames.map_counts[numbers] == 1
    _require(~private | (owned & alone), "isolation (space, page, frame, flags)", *where, flags)


def _check_map_counts(frames: Frames, named: Ints) -> None:
    counted = np.bincount(named, minlength=len(frames.map_counts))
    counted[ZERO_PAGE] = 0
    held = frames.map_counts.astype(np.int64)
    numbers = np.arange(len(held))
    _require(counted == held, "map count (frame, entries, count)", numbers, counted, held)
    shares = float((1 / held[named[held[named] > 0]]).sum())
    n_mapped = int(np.count_nonzero(held))
    assert abs(shares - n_mapped) < 1e-6 * max(n_mapped, 1), (shares, n_mapped)
    exclusive = (frames.flags & FrameFlag.EXCLUSIVE) != 0
    _require(~exclusive | (held <= 1), "exclusive, yet shared (frame, count)", numbers, held)


def _check_conservation(frames: Frames, cached: Ints) -> None:
    numbers = np.arange(1, frames.allocated + 1)
    others = np.bincount(cached, minlength=len(frames.others))[1 : frames.allocated + 1]
    _require(frames.others[numbers] == others, "references that are not mappings (frame)", numbers)
    used = (frames.map_counts[numbers] + frames.others[numbers]) > 0
    free = np.bincount(frames.free, minlength=frames.allocated + 1)[1:]
    _require(free == ~used, "free iff unreferenced (frame, times in the free list)", numbers, free)
    on_swap = (frames.flags[numbers] & FrameFlag.SWAPPED) != 0
    _require(~on_swap | (frames.map_counts[numbers] == 0), "on swap, yet mapped (frame)", numbers)
    n_resident = np.count_nonzero(used & ~on_swap)
    assert frames.in_use == n_resident, (frames.in_use, n_resident)
    written = np.flatnonzero(frames.flags & FrameFlag.WRITTEN).tolist()
    assert sorted(frames.contents) == written, (sorted(frames.contents), written)


def _check_tables(machine: Machine) -> None:
    tables = machine.memory.tables
    every = Counter(row for space in machine.spaces.values() for row in space.table.leaves.values())
    rows, n_shares = list(every), {row: count for row, count in every.items() if count > 1}
    assert n_shares == tables.sharers, (n_shares, tables.sharers)
    assert len(rows) == tables.in_use, (len(rows), tables.in_use)
    unused = np.delete(np.arange(len(tables.entries) // LEAF_SIZE), rows)
    assert not tables.rows[unused].any(), "an entry in a table that no space uses"


def _check_folios(machine: Machine) -> None:
    memory = machine.memory
    counted: dict[Folio, Counter[int]] = {folio: Counter() for folio in memory.folios.every()}
    for space in machine.spaces.values():
        for row in space.table.leaves.values():
            entries = memory.tables.rows[row]
            named = frames_of(entries[(entries & PRESENT) != 0]).tolist()
            if row in memory.tables.huge:
                _check_huge_row(row, entries, [memory.folios.of(frame) for frame in named])
                named = named[:1]
            for frame in named:
                folio = memory.folios.of(frame)
                if folio is not None:
                    counted[folio][space.id] += 1
    cached = set(memory.cache.cached().tolist())
    for folio, by_space in counted.items():
        assert folio.large_map_count == by_space.total(), (folio.large_map_count, by_space)
        assert memory.folios.is_wanted(folio), "a folio that nobody has"
        n_cached = sum(frame in cached for frame in folio.frames.tolist())
        assert n_cached == folio.cached * len(folio.frames), (n_cached, folio.cached)
        assert len(folio.slots) <= 2, folio.slots
        # A space that came third was not tracked; what it splits later counts without what it had before.
        assert all(0 < count <= by_space[space] for space, count in folio.slots.items()), (
            folio.slots,
            by_space,
        )


def _check_pools(machine: Machine) -> None:
    memory = machine.memory
    for unit, pool in memory.pools.items():
        promised = sum(size == unit for s in machine.spaces.values() for size in s.reserves.values())
        promised += sum(len(known.promised) for known in memory.cache.known.values() if known.pool is pool)
        assert pool.reserved == promised <= pool.free, (unit, pool, promised)


def _check_huge_row(row: int, entries: Entries, folios: list[Folio | None]) -> None:
    assert len(folios) == LEAF_SIZE, (row, len(folios))
    assert len(set(folios)) == 1, (row, "entries of several folios")
    assert len(set((entries & np.uint64(WRITABLE)).tolist())) == 1, (row, "writable in part")
