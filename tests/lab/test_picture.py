"""Runs of pages that look alike, and what a step changed."""

from __future__ import annotations

from cowscope.lab.parser import parse
from cowscope.lab.picture import Entry
from cowscope.lab.story import Chapter, Story


def chapters(text: str) -> list[Chapter]:
    """The story of a scenario, on the vm alone."""
    return list(Story(parse(text)))


def short(entry: Entry) -> tuple[str, str, str, bool, bool]:
    """What most tests look at."""
    return entry.process, entry.page, entry.state, entry.changed, entry.frame_changed


def test_a_small_mapping_has_a_run_for_each_page_and_a_large_one_few() -> None:
    """Frames that follow each other are one run, pages without an entry another."""
    (*_, last) = chapters(
        "A start\nA mmap small 2 rw private anonymous\nA mmap large 300 rw private anonymous\n"
        'A madvise large[0..99] populate_write\nA store large[50] "x"'
    )
    assert [(e.page, e.frame) for e in last.entries] == [
        ("small[0]", None),
        ("small[1]", None),
        ("large[0..49]", 1),
        ("large[50]", 51),
        ("large[51..99]", 52),
        ("large[100..299]", None),
    ]


def test_runs_end_where_they_do_for_any_process() -> None:
    """So that a row of a drawing has all of them side by side."""
    (*_, last) = chapters(
        "A start\nA mmap m 20 rw private anonymous\nA madvise m populate_write\nA fork B\n"
        'B store m[7] "b"\nA munmap m[10..11]'
    )
    assert [(e.process, e.page, e.state) for e in last.entries] == [
        ("A", "m[0..6]", "A"),
        ("B", "m[0..6]", "A"),
        ("A", "m[7]", "A"),
        ("B", "m[7]", "Ax"),
        ("A", "m[8..9]", "A"),
        ("B", "m[8..9]", "A"),
        ("A", "m[10..11]", "-"),
        ("B", "m[10..11]", "A"),
        ("A", "m[12..19]", "A"),
        ("B", "m[12..19]", "A"),
    ]


def test_a_copy_changes_the_writers_entry_and_the_counts_of_both_frames() -> None:
    """The other's entry is as it was."""
    *_, forked, _, copied = chapters(
        'A start\nA mmap m 2 rw private anonymous\nA store m[0] "a"\nA fork B\nB load m[0]\nB store m[0] "b"'
    )
    assert list(map(short, forked.entries)) == [
        ("A", "m[0]", "A", True, True),
        ("B", "m[0]", "A", True, True),
        ("A", "m[1]", ".", False, False),
        ("B", "m[1]", ".", True, False),
    ]
    assert list(map(short, copied.entries)) == [
        ("A", "m[0]", "A", False, True),
        ("B", "m[0]", "Ax", True, True),
        ("A", "m[1]", ".", False, False),
        ("B", "m[1]", ".", False, False),
    ]
    assert (copied.frames_before, copied.frames) == (1, 2)


def test_a_store_without_a_fault_changes_the_frame_alone() -> None:
    """And a load nothing."""
    *_, loaded, stored = chapters(
        'A start\nA mmap m 1 rw private anonymous\nA store m[0] "a"\nA load m[0]\nA store m[0] "b"'
    )
    assert [short(*loaded.entries)[3:], short(*stored.entries)[3:]] == [(False, False), (False, True)]


def test_unmapped_pages_are_told_once() -> None:
    """At the step that unmapped them."""
    *_, unmapped, after = chapters("A start\nA mmap m 2 rw private anonymous\nA munmap m[1]\nA load m[0]")
    assert [entry.state for entry in unmapped.entries] == [".", "-"]
    assert [entry.page for entry in after.entries] == ["m[0]"]


def test_pages_with_two_names_go_by_the_first() -> None:
    """As in the tables of `cowscope check`; the other name is told."""
    (*_, last) = chapters(
        "A start\nA mmap m 3 rw private anonymous\nA mmap over 2 r private anonymous at m[1]"
    )
    assert [entry.page for entry in last.entries] == ["m[0]", "m[1]", "m[2]"]
    assert last.also == ("over[0..1] is m[1..2]",)


def test_a_page_that_may_not_be_read_shows_nothing_of_its_contents() -> None:
    """What the processor cannot load is not drawn either; nor has the frame changed."""
    (*_, last) = chapters('A start\nA mmap m 1 rw private anonymous\nA store m[0] "a"\nA mprotect m[0] none')
    (entry,) = last.entries
    assert (entry.label, entry.readable, entry.writable) == ("", False, False)
    assert (entry.changed, entry.frame_changed) == (True, False)
