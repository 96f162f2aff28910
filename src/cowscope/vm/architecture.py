"""Architectures: how addresses are cut up, and what page tables cost.

    x86-64, 4 levels:   63       48 47    39 38    30 29    21 20    12 11         0
                        | sign     |  PGD   |  PUD   |  PMD   |  PTE   |  offset    |

| | base page | entries a table | levels | address bits | PMD page |
|---|---|---|---|---|---|
| x86-64 | 4 KiB | 512 | 4 | 48 | 2 MiB |
| x86-64-5 | 4 KiB | 512 | 5 | 57 | 2 MiB |
| arm64-4k | 4 KiB | 512 | 4 | 48 | 2 MiB |
| arm64-16k | 16 KiB | 2048 | 4 | 48 (top table: 2) | 32 MiB |
| arm64-64k | 64 KiB | 8192 | 3 | 48 (top table: 64) | 512 MiB |

The unit of copying is the base page. A table takes one base page, whatever its level, and exists where anything
lies below it; the top table always exists.

Source: `arch/x86/include/asm/pgtable_64_types.h`, `arch/arm64/include/asm/pgtable-hwdef.h`.
Not modelled: huge pages of 16 and 64 KiB base pages, sharing of their leaf tables, entry bits of arm64 (the vm
keeps all entries in x86-64's layout), dirty bits kept by software, contiguous entries, 52-bit addresses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from cowscope.vm.columns import Ints


@dataclass(frozen=True, slots=True)
class Architecture:
    """How addresses are translated; all shifts are powers of two.

    >>> arm = ARCHITECTURES["arm64-64k"]
    >>> arm.page_size, arm.entries, arm.pmd_pages
    (65536, 8192, 8192)
    """

    name: str
    page_shift: int
    table_shift: int
    """log2 of the entries in one table."""
    levels: int
    address_bits: int

    @property
    def page_size(self) -> int:
        """Bytes in a base page, and in a table."""
        return 1 << self.page_shift

    @property
    def entries(self) -> int:
        """Entries in one table."""
        return 1 << self.table_shift

    @property
    def fault_around(self) -> int:
        """Base pages that a read fault on a file looks at: 64 KiB."""
        return max(1, (1 << 16) >> self.page_shift)

    @property
    def pmd_pages(self) -> int:
        """Base pages in the huge page that one entry of the last but one level maps."""
        return self.entries

    def indices(self, address: int) -> list[int]:
        """The index into each table on the way down, the top one's first.

        >>> ARCHITECTURES["x86-64"].indices(0x7FFF_F7FF_E123)
        [255, 511, 447, 510]
        """
        page, mask = address >> self.page_shift, self.entries - 1
        return [page >> level * self.table_shift & mask for level in range(self.levels - 1, -1, -1)]

    def n_tables(self, pages: Ints) -> list[int]:
        """Tables of each level, the leaf level's first, that translations of `pages` need; one at the top.

        >>> ARCHITECTURES["x86-64"].n_tables(np.array([0, 511, 512, 1 << 18]))
        [3, 2, 1, 1]
        """
        counts = []
        for _ in range(self.levels - 1):
            pages = np.unique(pages >> self.table_shift)
            counts.append(len(pages))
        return [*counts, 1]


ARCHITECTURES: Mapping[str, Architecture] = {
    architecture.name: architecture
    for architecture in (
        Architecture("x86-64", 12, 9, 4, 48),
        Architecture("x86-64-5", 12, 9, 5, 57),
        Architecture("arm64-4k", 12, 9, 4, 48),
        Architecture("arm64-16k", 14, 11, 4, 48),
        Architecture("arm64-64k", 16, 13, 3, 48),
    )
}
"""All architectures by name."""
