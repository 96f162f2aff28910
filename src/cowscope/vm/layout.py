"""Where things lie in an address space, and how mmap chooses an address.

| what | where, in bytes (x86-64, 4 levels, without randomisation) |
|---|---|
| lowest address | 0x10000 (`vm.mmap_min_addr`) |
| heap | from 0x555555559000 up |
| mappings without an address | from 0x7ffff7fff000 down |
| stack | from 0x7ffffffff000 down, at most 8 MiB |
| end | 0x7ffffffff000 |

mmap takes the highest gap below `mapping_top` that is long enough; anonymous memory in multiples of 2 MiB begins
at a multiple of 2 MiB. A hint is taken if nothing lies there.

Source: `arch_get_unmapped_area_topdown`, `vm_unmapped_area_topdown`, `thp_get_unmapped_area_vmflags`.
Not modelled: randomisation, the second try from the bottom up, guard gaps around stacks.
"""

from __future__ import annotations

from dataclasses import dataclass

from cowscope.vm.architecture import Architecture
from cowscope.vm.mappings import Mappings

_HUGE_PAGES = 1 << 9


@dataclass(frozen=True)
class Layout:
    """The addresses that a space is built around, in bytes."""

    page_shift: int = 12
    lowest: int = 0x1_0000
    heap_start: int = 0x5555_5555_9000
    mapping_top: int = 0x7FFF_F7FF_F000
    stack_top: int = 0x7FFF_FFFF_F000
    end: int = 0x7FFF_FFFF_F000
    stack_limit: int = 8 << 20

    @classmethod
    def of(cls, architecture: Architecture) -> Layout:
        """The layout for an architecture: the same places, at borders of its pages; 57 bits if it has them.

        >>> from cowscope.vm.architecture import ARCHITECTURES
        >>> hex(Layout.of(ARCHITECTURES["arm64-64k"]).mapping_top)
        '0x7ffff7ff0000'
        """
        size = architecture.page_size
        far = (1 << 56) - (1 << 47) if architecture.address_bits == 57 else 0
        places = (cls.lowest, cls.heap_start + far, cls.mapping_top + far, cls.stack_top + far, cls.end + far)
        return cls(architecture.page_shift, *(place // size * size for place in places))

    @property
    def page_size(self) -> int:
        """Bytes in a base page."""
        return 1 << self.page_shift

    def pages(self, length: int) -> int:
        """Pages that `length` bytes need.

        >>> Layout().pages(1), Layout().pages(4096), Layout().pages(0)
        (1, 1, 0)
        """
        return -(-length // self.page_size)


def free_at(mappings: Mappings, layout: Layout, start: int, n_pages: int) -> bool:
    """Whether the pages `start` to before `start + n_pages` can be mapped and nothing lies there."""
    low, high = layout.lowest >> layout.page_shift, layout.end >> layout.page_shift
    rows = mappings.within(start, start + n_pages)
    return low <= start and start + n_pages <= high and rows.stop == rows.start


def choose(mappings: Mappings, layout: Layout, n_pages: int, *, aligned: bool = False) -> int | None:
    """The first page of a place for `n_pages` pages, None if there is none.

    >>> hex(choose(Mappings(), Layout(), 1)), hex(choose(Mappings(), Layout(), 512, aligned=True))
    ('0x7ffff7ffe', '0x7ffff7c00')
    """
    if aligned:
        found = _highest_gap(mappings, layout, n_pages + _HUGE_PAGES)
        if found is not None:
            beyond = -found % _HUGE_PAGES
            return found + (beyond or _HUGE_PAGES)
    return _highest_gap(mappings, layout, n_pages)


def _highest_gap(mappings: Mappings, layout: Layout, n_pages: int) -> int | None:
    top, lowest = layout.mapping_top >> layout.page_shift, layout.lowest >> layout.page_shift
    for row in range(mappings.within(0, top).stop - 1, -1, -1):
        if top - int(mappings.end[row]) >= n_pages:
            break
        top = min(top, int(mappings.start[row]))
    return top - n_pages if top - n_pages >= lowest else None
