"""The TLB: what has to be forgotten when entries change, and on how many processors.

| change | flush |
|---|---|
| a present entry replaced (copy, zero-fill over the zero page) | that page |
| W given (reuse, first write to a shared page), or an entry where none was | none |
| entries dropped, moved, or losing rights | those pages; all, if more than 33 |
| fork that took W from the parent | all |
| exit, exec | none: the whole address space goes |

A flush of a space that ran on other processors too sends each of them an interrupt: a shootdown.

Source: `ptep_clear_flush`, `pte_needs_flush`, `flush_tlb_mm_range`, `tlb_single_page_flush_ceiling`, `dup_mmap`.
Not modelled: what a TLB holds, its size, lazy switching (a processor that ran a space counts until the space ends).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowscope.vm.spaces import AddressSpace

CEILING = 33
"""Pages above which everything is flushed at once."""


@dataclass(slots=True)
class Tlb:
    """Counters, over all processors.

    >>> tlb = Tlb()
    >>> tlb.flush(2, n_cpus=3)
    >>> tlb.flush(34, n_cpus=1)
    >>> tlb
    Tlb(page_flushes=2, full_flushes=1, shootdowns=2)
    """

    page_flushes: int = 0
    full_flushes: int = 0
    shootdowns: int = 0

    def flush(self, n_pages: int, *, n_cpus: int) -> None:
        """One operation changed the entries of `n_pages` pages of a space that ran on `n_cpus` processors."""
        if n_pages > CEILING:
            self.full_flushes += 1
        else:
            self.page_flushes += n_pages
        if n_pages:
            self.shootdowns += n_cpus - 1

    def flush_each(self, space: AddressSpace, n_pages: int) -> None:
        """Each of `n_pages` faults changed one entry."""
        self.page_flushes += n_pages
        self.shootdowns += n_pages * (len(space.cpus) - 1)

    def flush_all(self, space: AddressSpace) -> None:
        """All of a space's entries may have changed."""
        self.full_flushes += 1
        self.shootdowns += len(space.cpus) - 1
