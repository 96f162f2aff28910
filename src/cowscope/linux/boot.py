"""What stays the same until the next boot or the next word of an administrator: kernel, page size, memory
settings.

Source: uname(2), Documentation/admin-guide/mm/transhuge.rst, Documentation/admin-guide/mm/ksm.rst, proc(5).
"""

from __future__ import annotations

import gzip
import os
import re
from dataclasses import dataclass

import psutil

from cowscope.linux.border import read_setting

_THP = "/sys/kernel/mm/transparent_hugepage/"


@dataclass(frozen=True)
class BootFacts:
    """Host facts that a recording carries, for they decide how its faults are read."""

    kernel: str
    """Kernel release, as `uname -r`."""
    machine: str
    """Architecture, as `uname -m`."""
    page_size: int
    """Bytes in a base page."""
    thp_enabled: str
    """Transparent huge pages for anonymous memory: "always", "madvise", "never", or "absent"."""
    thp_shmem: str
    """The same for shared memory: "always", "within_size", "advise", "never", "deny", "force", or
    "absent"."""
    ksm_running: bool
    """Whether same-page merging runs: it makes shared pages that no fork made."""
    swap_on: bool
    """Whether there is swap: a swapped page has no frame to compare."""
    exact_map_counts: bool | None
    """Whether the kernel counts mappings of each page (CONFIG_PAGE_MAPCOUNT); None if it does not tell.

    Without it (possible since 6.15) the exclusive bit is an estimate for pages of large folios."""


def boot_facts() -> BootFacts:
    """Ask the running kernel; nothing is cached, since an administrator can change most of it.

    >>> boot_facts().page_size == os.sysconf("SC_PAGE_SIZE")
    True
    """
    uname = os.uname()
    return BootFacts(
        kernel=uname.release,
        machine=uname.machine,
        page_size=os.sysconf("SC_PAGE_SIZE"),
        thp_enabled=parse_choice(read_setting(_THP + "enabled")),
        thp_shmem=parse_choice(read_setting(_THP + "shmem_enabled")),
        ksm_running=read_setting("/sys/kernel/mm/ksm/run") == "1",
        swap_on=psutil.swap_memory().total > 0,
        exact_map_counts=parse_map_counts(read_kernel_config(uname.release)),
    )


def parse_choice(text: str | None) -> str:
    """The bracketed word of a setting that lists its choices; "absent" for None or a text without one.

    >>> parse_choice("always [madvise] never"), parse_choice(None)
    ('madvise', 'absent')
    """
    chosen = re.search(r"\[([^\]]+)\]", text or "")
    return chosen[1] if chosen else "absent"


def read_kernel_config(release: str) -> bytes | None:
    """The build configuration of the running kernel, from /proc/config.gz or /boot; None if neither is
    there."""
    try:
        with gzip.open("/proc/config.gz") as config:
            return config.read()
    except (OSError, EOFError):
        pass
    try:
        with open(f"/boot/config-{release}", "rb") as config:
            return config.read()
    except OSError:
        return None


def parse_map_counts(config: bytes | None) -> bool | None:
    r"""Whether a kernel of this configuration counts mappings page by page; None if it cannot be told.

    The option came with 6.15; a configuration that knows neither form is older, and such kernels always
    count.

    >>> [parse_map_counts(config) for config in (b"CONFIG_NO_PAGE_MAPCOUNT=y\n", b"CONFIG_MMU=y\n", None)]
    [False, True, None]
    """
    return None if config is None else b"\nCONFIG_NO_PAGE_MAPCOUNT=y" not in b"\n" + config
