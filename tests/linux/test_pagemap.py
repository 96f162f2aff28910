"""The census against a process whose pages are in known states, and against entries read one way round."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cowscope.errors import AccessDenied, MissingRight, NoSuchProcess
from cowscope.linux import pagemap, pagemap_scan
from cowscope.linux.page_runs import NO_FRAME, PageRuns, PageState, expand
from cowscope.linux.pagemap import page_states
from cowscope.linux.proc import parse_maps, read_maps

Require = Callable[[object, str], None]
PUPPET = Path(__file__).with_name("puppet.py")
SHARED = PageState.PRESENT
EXCLUSIVE = PageState.PRESENT | PageState.EXCLUSIVE
FILE = PageState.PRESENT | PageState.FILE
ZERO = PageState.PRESENT | PageState.ZERO

# The 8 pages of each area in the child: the first four were touched, see puppet.py.
IN_CHILD = {
    "untouched": [0] * 8,
    "zero": [0] * 8,  # a mapping that was only read is not copied at fork
    "inherited": [SHARED] * 4 + [0] * 4,
    "rewritten": [EXCLUSIVE] * 4 + [0] * 4,
    "shared": [0] * 8,  # shared mappings are filled again on first use
    "no_access": [SHARED] * 4 + [0] * 4,
    "private": [EXCLUSIVE] * 4 + [0] * 4,
}
IN_PARENT = {
    "untouched": [0] * 8,
    "zero": [ZERO] * 4 + [0] * 4,
    "inherited": [SHARED] * 4 + [0] * 4,
    "rewritten": [EXCLUSIVE] * 4 + [0] * 4,  # the child has gone off with its copies
    "shared": [FILE] * 4 + [0] * 4,
    "file": [FILE] * 4 + [0] * 4,
    "no_access": [SHARED] * 4 + [0] * 4,
    "private": [0] * 8,
}


@dataclass
class Puppet:
    """The puppet's pids and where its areas lie."""

    pid: int
    child: int
    guards: bool
    at: dict[str, int]


@pytest.fixture(scope="module")
def puppet() -> Iterator[Puppet]:
    """The puppet, at rest after its fork."""
    command = [sys.executable, "-I", "-S", str(PUPPET)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = json.loads(process.stdout.readline())
        yield Puppet(process.pid, told["child"], told["guards"], told["at"])


def states_at(runs: PageRuns, address: int, n_pages: int = 8) -> list[int]:
    """The state of each page from `address` on; 0 for a page in no run."""
    return [value for value, _ in _pages_at(runs, address, n_pages)]


def frames_at(runs: PageRuns, address: int, n_pages: int = 8) -> list[int]:
    """The frame of each page from `address` on."""
    return [frame for _, frame in _pages_at(runs, address, n_pages)]


def _pages_at(runs: PageRuns, address: int, n_pages: int) -> list[tuple[int, int]]:
    found = []
    for page in range(address // mmap.PAGESIZE, address // mmap.PAGESIZE + n_pages):
        i = int(np.searchsorted(runs.start_page, page, "right")) - 1
        inside = i >= 0 and page < runs.start_page[i] + runs.n_pages[i]
        frame = NO_FRAME if runs.frame is None else int(runs.frame[i])
        into = page - int(runs.start_page[i])
        found.append(
            (int(runs.state[i]), frame if frame == NO_FRAME else frame + into) if inside else (0, NO_FRAME)
        )
    return found


@pytest.fixture(params=["scan", "walk"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both forms of the census: with PAGEMAP_SCAN, and as if the kernel had none."""
    if request.param == "walk":
        monkeypatch.setattr(pagemap, "supported", lambda: pagemap_scan.Category(0))
    elif not pagemap_scan.supported():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    return str(request.param)


@pytest.mark.live
def test_the_child_of_a_fork_has_the_states_that_fork_makes(puppet: Puppet, way: str) -> None:
    """Inherited pages are shared, rewritten ones exclusive, and what fork does not copy is not there."""
    runs = page_states(puppet.child)
    zero = 0 if runs.zero_known else int(PageState.ZERO)
    for name, expected in IN_CHILD.items():
        assert states_at(runs, puppet.at[name]) == [state & ~zero for state in expected], name


@pytest.mark.live
def test_the_parent_of_a_fork_has_the_states_that_fork_leaves(puppet: Puppet, way: str) -> None:
    """Zero, shared, file and private pages are told apart in the parent."""
    runs = page_states(puppet.pid)
    zero = 0 if runs.zero_known else int(PageState.ZERO)
    for name, expected in IN_PARENT.items():
        assert states_at(runs, puppet.at[name]) == [state & ~zero for state in expected], name


@pytest.mark.live
def test_a_written_page_of_a_private_file_mapping_is_anonymous(puppet: Puppet, way: str) -> None:
    """Its first half was written and is ours alone; the rest is the file's, if there at all."""
    states = states_at(page_states(puppet.child), puppet.at["private_file"])
    assert states[:4] == [EXCLUSIVE] * 4
    assert set(states[4:]) <= {0, int(FILE)}


@pytest.mark.live
def test_guard_pages_are_told_from_swap(puppet: Puppet, way: str) -> None:
    """A guard marker is GUARD and nothing else, in parent and child."""
    if not puppet.guards or not pagemap_scan.supported() & pagemap_scan.Category.GUARD:
        pytest.skip("this kernel has no guard pages, or does not show them")
    for pid in (puppet.pid, puppet.child):
        assert states_at(page_states(pid), puppet.at["guard"]) == [SHARED] * 4 + [PageState.GUARD] * 4


@pytest.mark.live
def test_parent_and_child_show_the_same_frames_for_what_they_share(puppet: Puppet, way: str) -> None:
    """Frames are told for shared anonymous pages alone, and both ends of the sharing agree on them."""
    if not pagemap.zero_frame():
        with pytest.raises(MissingRight):
            page_states(puppet.pid, frames=True)
        return
    parent, child = (page_states(pid, frames=True) for pid in (puppet.pid, puppet.child))
    inherited = frames_at(parent, puppet.at["inherited"], 4)
    assert inherited == frames_at(child, puppet.at["inherited"], 4)
    assert len(set(inherited)) == 4
    assert NO_FRAME not in inherited
    for name in ("rewritten", "private", "file", "zero"):
        assert frames_at(parent, puppet.at[name]) == [NO_FRAME] * 8


@pytest.mark.live
def test_scan_and_walk_agree(puppet: Puppet, monkeypatch: pytest.MonkeyPatch, require: Require) -> None:
    """The newest form and its fallback give the same census of a process at rest."""
    if not pagemap_scan.supported():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    require(pagemap.zero_frame(), "the right to see frame numbers, which tell the zero page: run as root")
    by_scan = page_states(puppet.child, frames=True)
    monkeypatch.setattr(pagemap, "supported", lambda: pagemap_scan.Category(0))
    by_walk = page_states(puppet.child, frames=True)
    for column in ("start_page", "n_pages", "state", "frame"):
        assert getattr(by_scan, column).tolist() == getattr(by_walk, column).tolist()


@pytest.mark.live
def test_every_entry_is_in_the_census(puppet: Puppet) -> None:
    """The census counts as many present pages as the entries of all mappings do."""
    maps = parse_maps(read_maps(puppet.child))
    with pagemap.open_pagemap(puppet.child) as fd:
        present = sum(
            int((pagemap.read_pagemap(fd, start // 4096, (end - start) // 4096) >> np.uint64(63)).sum())
            for start, end in zip(maps.start.tolist(), maps.end.tolist(), strict=True)
            if end <= pagemap_scan.address_space_end()
        )
    assert page_states(puppet.child).count(PageState.PRESENT) == present


@pytest.mark.live
def test_between_is_called_and_may_end_the_census(puppet: Puppet) -> None:
    """The caller gets its turn, and an error that it raises comes out."""

    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        page_states(puppet.pid, between=stop)


def test_a_vanished_process_has_no_census() -> None:
    """A reaped pid is NoSuchProcess, and so is a process that ends during the census."""
    child = subprocess.Popen(["sleep", "60"])

    def end() -> None:
        child.kill()
        child.wait()

    with pytest.raises(NoSuchProcess):
        page_states(child.pid, between=end)
    with pytest.raises(NoSuchProcess):
        page_states(child.pid)


@pytest.fixture
def as_plain_user() -> Iterator[None]:
    """Without root's rights for the time of a test, if we are root."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(65534)
    yield
    os.seteuid(before)


@pytest.mark.usefixtures("as_plain_user")
def test_another_users_process_is_refused() -> None:
    """A plain user may not look into init, and is told which file was refused."""
    with pytest.raises(AccessDenied, match=r"/proc/1/maps: run as the user of process 1, or as root"):
        page_states(1)


@pytest.mark.live
def test_a_huge_and_almost_empty_mapping_has_a_census() -> None:
    """64 TiB with three pages in use gives three pages; without skipping, it would take hours."""
    if not pagemap_scan.supported():
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    no_reserve = 0x4000
    area = mmap.mmap(-1, 64 << 40, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    base = np.frombuffer(area, np.uint8).ctypes.data
    for offset in (5 << 40, 9 << 40, 63 << 40):
        area[offset] = 1
    runs = page_states(os.getpid())
    inside = (runs.start_page >= base // 4096) & (runs.start_page < (base + (64 << 40)) // 4096)
    assert runs.n_pages[inside].tolist() == [1, 1, 1]
    assert runs.state[inside].tolist() == [EXCLUSIVE] * 3


@pytest.mark.live
def test_a_wide_mapping_is_walked_whole() -> None:
    """Piece by piece, no page of a mapping of 64 GiB is missed or told twice, at its ends, inside and beside it."""
    n_bytes = 64 << 30
    map_noreserve = 0x4000  # the mmap module names it from Python 3.13 on
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | map_noreserve
    with mmap.mmap(-1, n_bytes, flags=flags) as memory:
        touched = [0, 4 << 30, (4 << 30) + mmap.PAGESIZE, 37 << 30, n_bytes - mmap.PAGESIZE]
        for offset in touched:
            memory[offset] = 1
        view = np.frombuffer(memory, np.uint8)
        first = view.ctypes.data // mmap.PAGESIZE
        del view
        runs = page_states(os.getpid())
        exclusive = runs.select(runs.state == EXCLUSIVE)
        pages = expand(exclusive.start_page, exclusive.n_pages)
        # A neighbour's page may follow on the last one, in the same run.
        inside = (pages >= first) & (pages < first + n_bytes // mmap.PAGESIZE)
        assert pages[inside].tolist() == [first + offset // mmap.PAGESIZE for offset in touched]
        assert (np.diff(runs.start_page) >= runs.n_pages[:-1]).all()
        assert not inside.all()
