"""Mutants of what the lab's random scenarios reach seldom or never, each with the test of the vm that must notice.

Pins, populating, huge pages, folios, hugetlb, swap and KSM: chance decides about them in a live kernel, or a machine
may lack what they need. The others are in `tests.lab.mutants`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
from tests.lab.mutants import Mutant
from tests.vm import (
    test_vm_advice,
    test_vm_frames,
    test_vm_huge,
    test_vm_hugetlb,
    test_vm_hugetlb_shared,
    test_vm_memory_runs_out,
    test_vm_rules,
    test_vm_same_page,
)

from cowscope.vm import (
    Machine,
    Process,
    advice,
    faults,
    huge,
    hugetlb,
    kernel_access,
    policies,
    populate,
    processes,
    remap,
    same_page,
    swap,
)
from cowscope.vm.columns import Ints
from cowscope.vm.entry import DIRTY, OWNED, READ, frames_of
from cowscope.vm.folios import Folio, Folios
from cowscope.vm.frames import Frames
from cowscope.vm.laws import check
from cowscope.vm.memory import Memory
from cowscope.vm.policies import Policy
from cowscope.vm.rules import MappingFlag
from cowscope.vm.spaces import AddressSpace


@dataclass(frozen=True)
class Watched:
    """A mutant, and the test that gives it away."""

    mutant: Mutant
    witness: Callable[[], None]


def _watched(
    name: str, breaks: str, place: Any, attribute: str, value: Any, witness: Callable[[], None]
) -> Watched:
    return Watched(Mutant(name, breaks, lambda: patch.object(place, attribute, value)), witness)


def _on_a_process(test: Callable[[Process], None], **machine: Any) -> Callable[[], None]:
    """A test that wants a process."""

    def tried() -> None:
        process = Machine(**machine).start()
        test(process)
        check(process.machine)

    return tried


def _with_swap(test: Callable[[Process], None]) -> Callable[[], None]:
    return _on_a_process(test, swap_pages=8)


def _first_is_kept(memory: Memory, slots: Ints, merged: int | None) -> tuple[Ints, int]:
    return slots, merged or int(frames_of(memory.tables.entries[slots[:1]])[0])


def _nothing(*arguments: Any, **named: Any) -> None:
    """Instead of what should happen."""


def _shared_all_the_time(self: Folios, folio: Folio) -> bool:
    return folio.large_map_count > 1


def _three_slots(self: Folio, space: int, count: int) -> None:
    if space not in self.slots and self.large_map_count:
        self.shared = True
    self.slots[space] = self.slots.get(space, 0) + count
    self.large_map_count += count


def _keeps_swapped_mark(self: Frames, numbers: Any) -> None:
    np.add.at(self.others, numbers, np.int32(1))


_orders = huge._orders
_fault = populate._fault


MUTANTS = (
    _watched(
        "pins-are-shared",
        "R1.3: fork copies no pinned page",
        processes,
        "_copied_at_once",
        lambda *arguments: np.zeros(0, np.int64),
        _with_swap(test_vm_frames.test_a_pinned_page_is_copied_at_fork),
    ),
    _watched(
        "pinned-copies-trap",
        "R1.3: the child's copy of a pinned page is read-only",
        processes,
        "OWNED",
        READ | DIRTY,
        _with_swap(test_vm_frames.test_a_pinned_page_is_copied_at_fork),
    ),
    _watched(
        "pins-alone",
        "R1.3: of a folio, fork copies only the page that is pinned",
        Folios,
        "together",
        lambda self, numbers: numbers,
        test_vm_huge.test_a_pin_on_one_page_copies_the_whole_folio_at_fork,
    ),
    _watched(
        "pipes-do-not-count",
        "R2.3: a page that a pipe refers to is reused",
        Policy,
        "reusable",
        lambda self, frames, numbers, map_counts: map_counts == 1,
        _with_swap(test_vm_frames.test_a_page_in_a_pipe_is_copied_though_nobody_else_maps_it),
    ),
    _watched(
        "pins-leave-shared",
        "R2.5: a pin for reading leaves the page shared",
        kernel_access,
        "_is_shared_anonymous",
        lambda space, page: False,
        _with_swap(test_vm_frames.test_a_pin_for_reading_unshares),
    ),
    _watched(
        "zero-page-writable",
        "R3.1: a read maps the zero page writable",
        faults,
        "READ",
        OWNED,
        test_vm_rules.test_a_read_of_untouched_private_memory_costs_no_frame,
    ),
    _watched(
        "populating-writes",
        "R3.2: MADV_POPULATE_READ takes write faults",
        populate,
        "_fault",
        lambda space, pages, *, write: _fault(space, pages, write=True),
        _on_a_process(
            test_vm_advice.test_populating_for_reading_copies_nothing_and_for_writing_all_that_is_shared
        ),
    ),
    _watched(
        "populating-reads",
        "R3.2: MADV_POPULATE_WRITE takes read faults",
        populate,
        "_fault",
        lambda space, pages, *, write: _fault(space, pages, write=False),
        _on_a_process(
            test_vm_advice.test_populating_for_reading_copies_nothing_and_for_writing_all_that_is_shared
        ),
    ),
    _watched(
        "locking-reads",
        "R3.2: mlock takes read faults",
        populate,
        "_for_writing",
        lambda part: False,
        _on_a_process(test_vm_advice.test_locked_memory_is_faulted_in_and_copied_at_once),
    ),
    _watched(
        "populating-goes-on",
        "R3.2: populating goes on behind a page that it cannot have",
        populate,
        "_parts",
        lambda space, pages: [pages],
        test_vm_memory_runs_out.test_populating_stops_where_frames_run_out,
    ),
    _watched(
        "huge-unmarked",
        "§5.1: mappings that are not marked get huge pages",
        huge,
        "_orders",
        lambda space, flags: _orders(space, flags & ~huge._NO_HUGE_PAGE | huge._HUGE_PAGE),
        lambda: test_vm_huge.test_a_first_write_maps_one_page_where_a_huge_one_does_not_fit("not marked"),
    ),
    _watched(
        "huge-zero-page-small",
        "§5.1: a first read maps one page",
        faults,
        "before_read",
        _nothing,
        test_vm_huge.test_a_first_read_maps_the_huge_zero_page_and_prepares_the_mapping,
    ),
    _watched(
        "huge-parts-stay",
        "§5.1: a change of a part leaves the huge page whole",
        huge,
        "before_change",
        _nothing,
        lambda: test_vm_huge.test_a_change_of_a_part_splits_and_no_fault_is_due("discard"),
    ),
    _watched(
        "huge-last-splits",
        "§5.1: the last one that maps a huge page splits it",
        Folios,
        "is_held",
        lambda self, folio: True,
        test_vm_huge.test_the_last_one_that_maps_a_whole_huge_page_reuses_it_with_one_fault,
    ),
    _watched(
        "folios-are-copied",
        "§5.2: no page of a large folio is reused",
        Folios,
        "reusable",
        lambda self, folio: False,
        test_vm_huge.test_all_is_reused_once_the_child_has_gone,
    ),
    _watched(
        "folios-are-reused",
        "§5.2: a page of a folio is reused by whoever writes it",
        Folios,
        "reusable",
        _shared_all_the_time,
        lambda: test_vm_huge.test_a_page_of_a_folio_is_copied_by_both_sides("child"),
    ),
    _watched(
        "folios-have-three-slots",
        "§5.2: a third address space gets a slot",
        Folio,
        "add",
        _three_slots,
        test_vm_huge.test_a_third_space_never_gets_a_slot,
    ),
    _watched(
        "folios-are-small",
        "§5.2: a first write takes the smallest order",
        huge,
        "_orders",
        lambda space, flags: sorted(_orders(space, flags)),
        test_vm_huge.test_a_first_write_maps_the_largest_order_that_fits,
    ),
    _watched(
        "hugetlb-promises-too-much",
        "§5.3: mmap promises pages that others were promised",
        hugetlb,
        "check_room",
        _nothing,
        test_vm_hugetlb.test_mmap_promises_pages_and_munmap_gives_them_back,
    ),
    _watched(
        "hugetlb-owner-gives-up",
        "§5.3: who mapped the page gets a bus error like its children",
        hugetlb,
        "_OWNER",
        0,
        test_vm_hugetlb.test_the_owner_takes_the_page_from_its_children,
    ),
    _watched(
        "hugetlb-child-takes",
        "§5.3: a child takes the page from its parent",
        hugetlb,
        "_OWNER",
        int(MappingFlag.WRITE),
        test_vm_hugetlb.test_a_child_without_a_page_to_copy_to_gets_a_bus_error,
    ),
    _watched(
        "hugetlb-mprotect-gives",
        "§5.3: mprotect gives W back",
        AddressSpace,
        "_writable_at_once",
        lambda self, entries, flags: np.full(len(entries), True),
        test_vm_hugetlb.test_mprotect_never_gives_write_back_at_once,
    ),
    _watched(
        "hugetlb-shared-read-only",
        "§5.3: a read maps shared pages read-only",
        hugetlb,
        "OWNED",
        READ,
        test_vm_hugetlb_shared.test_shared_pages_are_one_for_all_and_writable_at_once,
    ),
    _watched(
        "hugetlb-shared-goes",
        "§5.3: shared pages go when nobody maps them for the moment",
        Folio,
        "cached",
        property(lambda folio: False, _nothing),
        test_vm_hugetlb_shared.test_a_shared_object_keeps_its_pages_until_nothing_shows_it,
    ),
    _watched(
        "hugetlb-pinned-is-shared",
        "§5.3: fork shares a pinned page",
        hugetlb,
        "copied_at_fork",
        lambda parent: [],
        test_vm_hugetlb.test_a_pinned_page_is_copied_whole_at_fork,
    ),
    _watched(
        "hugetlb-unshares-a-part",
        "§5.3: un-sharing takes a huge page apart",
        kernel_access,
        "unit_of",
        lambda flags: 1,
        lambda: test_vm_hugetlb.test_unsharing_copies_whole_pages_and_leaves_them_read_only(hugetlb.HUGE),
    ),
    _watched(
        "hugetlb-discarded-is-lost",
        "§5.3: what its owner discards is promised to nobody",
        hugetlb,
        "reserve",
        _nothing,
        test_vm_hugetlb.test_discarded_pages_are_promised_to_the_owner_again,
    ),
    _watched(
        "merged-is-reused",
        "R6: the last one that maps a merged page reuses it",
        policies,
        "_SAME_PAGE",
        0,
        _with_swap(test_vm_same_page.test_equal_pages_become_one_and_every_write_copies),
    ),
    _watched(
        "merged-stays-writable",
        "R6: entries of a merged page stay writable",
        same_page,
        "WRITABLE",
        0,
        _with_swap(test_vm_same_page.test_equal_pages_become_one_and_every_write_copies),
    ),
    _watched(
        "merged-stays-merged",
        "R6: MADV_UNMERGEABLE takes nothing apart",
        advice,
        "unmerge",
        _nothing,
        _with_swap(test_vm_same_page.test_pages_are_taken_apart_when_the_mark_goes),
    ),
    _watched(
        "merged-first-is-kept",
        "R6: the first of equal pages is kept",
        same_page,
        "_joined",
        _first_is_kept,
        _with_swap(test_vm_same_page.test_the_second_of_equal_pages_is_kept_and_later_ones_join),
    ),
    _watched(
        "merged-comes-apart-writable",
        "R6: pages that are taken apart are writable",
        same_page,
        "without",
        lambda entries, bits: entries,
        _with_swap(test_vm_same_page.test_pages_are_taken_apart_when_the_mark_goes),
    ),
    _watched(
        "merged-moves",
        "R6: merged pages move as they are",
        remap,
        "unmerge",
        _nothing,
        _with_swap(test_vm_same_page.test_merged_pages_are_taken_apart_before_they_move),
    ),
    _watched(
        "swapped-comes-back-read-only",
        "R6: an exclusive page comes back from swap read-only",
        swap,
        "WRITABLE",
        0,
        _with_swap(test_vm_frames.test_an_exclusive_page_comes_back_writable_by_a_read),
    ),
    _watched(
        "swapped-stays-exclusive",
        "R6: fork leaves a page on swap exclusive",
        Frames,
        "share_swapped",
        _keeps_swapped_mark,
        _with_swap(
            test_vm_frames.test_a_swapped_page_shared_by_fork_is_copied_while_the_other_may_still_want_it
        ),
    ),
    _watched(
        "freed-stays-on-swap",
        "R6: MADV_FREE leaves pages on swap",
        advice,
        "SWAP",
        np.uint64(0),
        _with_swap(test_vm_frames.test_what_is_freed_lazily_leaves_swap_at_once),
    ),
)
