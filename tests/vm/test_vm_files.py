"""Files: what is mapped around a fault, tracked writes, ends and holes."""

from __future__ import annotations

import pytest
from tests.vm.mapped import AT, PAGE, codes, put

from cowscope.vm import Advice, Process


def test_reads_map_cached_neighbours_and_no_holes(process: Process) -> None:
    """The window is 16 pages from a multiple of 16, or from the mapping's start if that comes later."""
    file = process.machine.file(64 * PAGE)
    for page in (0, 3, 5, 16, 17, 20, 33):
        file.write(page * PAGE, b"x")
    put(process, 2, 60, file=file, offset=2 * PAGE)
    process.load(AT + 5 * PAGE)
    present = process.pages(AT, 64 * PAGE).present.nonzero()[0].tolist()
    assert present == [3, 5, 16, 17], "the window is 2 to 18"
    process.load(AT + 18 * PAGE)
    assert process.pages(AT, 64 * PAGE).present.nonzero()[0].tolist() == [3, 5, 16, 17, 18, 20]
    assert file.cached_pages == [0, 3, 5, 16, 17, 18, 20, 33], "a hole that is read is a page"


def test_a_write_to_a_private_hole_brings_it_into_the_cache(process: Process) -> None:
    file = process.machine.file(4 * PAGE)
    put(process, 0, 4, file=file)
    process.store(AT + PAGE, b"x")
    assert file.cached_pages == [1]
    assert process.pages(AT, 4 * PAGE).map_count.tolist() == [0, 1, 0, 0]


@pytest.mark.parametrize(("tracked", "writable"), [(False, True), (True, False)])
def test_a_read_of_shared_memory_maps_it_writable_unless_writes_are_tracked(
    process: Process, tracked: bool, writable: bool
) -> None:
    file = process.machine.file(PAGE, tracked=tracked)
    put(process, 0, 1, shared=True, file=file)
    process.load(AT)
    assert bool(process.pages(AT, PAGE).writable[0]) is writable
    process.store(AT, b"x")
    file.flush()
    assert bool(process.pages(AT, PAGE).writable[0]) is writable
    assert file.read(0, 1) == b"x"


def test_a_page_beyond_the_end_is_a_bus_error(process: Process) -> None:
    file = process.machine.file(PAGE + 1)
    put(process, 0, 4, file=file)
    put(process, 8, 4, file=file, shared=True)
    assert codes(process, 2) == (4, 2, 6, 2)
    assert codes(process, 10) == (4, 2, 6, 2)
    process.store(AT + PAGE, b"the last page is there")


def test_truncation_takes_private_copies_too(process: Process) -> None:
    file = process.machine.file(2 * PAGE)
    file.write(PAGE, b"file")
    put(process, 0, 2, file=file)
    process.store(AT + PAGE, b"mine")
    file.truncate(PAGE)
    assert codes(process, 1)[:2] == (4, 2)
    file.truncate(2 * PAGE)
    assert process.load(AT + PAGE, 4) == bytes(4)


def test_the_tail_of_a_truncated_page_reads_as_zeros(process: Process) -> None:
    file = process.machine.file()
    file.write(0, b"long text")
    file.truncate(4)
    file.truncate(9)
    assert file.read(0, 9) == b"long\0\0\0\0\0"


def test_removed_pages_leave_private_copies_alone(process: Process) -> None:
    file = process.machine.file(2 * PAGE)
    file.write(0, b"file")
    put(process, 0, 1, file=file)
    put(process, 4, 1, file=file, shared=True)
    process.store(AT, b"mine")
    process.load(AT + 4 * PAGE)
    process.madvise(AT + 4 * PAGE, PAGE, Advice.REMOVE)
    assert (process.load(AT, 4), process.load(AT + 4 * PAGE, 4)) == (b"mine", bytes(4))
