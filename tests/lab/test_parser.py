"""Scenarios as text: what is read is what is written, and every mistake is told where it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowscope.lab.parser import BadScenario, parse, parse_file
from cowscope.lab.steps import File, Mmap, Range

WHOLE = """\
# What a scenario can say.
memfd data 4
disk log 2
memfd gaps 3 sparse
A start
A mmap heap 4 rw private anonymous
A mmap text 2 r private data[1]
A mmap both 2 rw shared anonymous at heap[4] noreserve populate
A load heap[0] "" -> mapped
A store heap[3] "a\\x22\\xff" -> zero-filled
A read heap[1] "kernel" -> zero-filled
A mprotect heap[1..2] none
A mprotect text[0] rx
A madvise heap[0..3] guard_install
A mremap heap[0..1] 4
A mremap heap[0..1] 2 to text[0]
A write data[2] "new"
A truncate data 1
A fork B
B munmap heap[0]
B exec
B exit"""


def test_a_scenario_is_read_as_it_is_written() -> None:
    """Text, steps, text again."""
    assert str(parse(WHOLE)) == WHOLE


def test_names_stand_for_all_their_pages_and_comments_for_nothing() -> None:
    """In short form; only the first comment is the sentence."""
    scenario = parse(
        "\n# One.\n# Two.\n\n# Not this.\nA start # nor this\nA mmap m 3 rw private anonymous\nA munmap m\n"
    )
    assert scenario.sentence == "One.\nTwo."
    assert str(scenario.lines[-1]) == "A munmap m[0..2]"
    assert scenario.lines[-1].number == 8


def test_mappings_keep_apart_unless_asked() -> None:
    """So that no two merge; `at` puts one beside another."""
    scenario = parse(WHOLE)
    places = scenario.places
    assert places["text"].start > places["heap"].start + places["heap"].pages
    assert places["both"].start == places["heap"].start + 4
    assert scenario.page(Range("both", 1)) == places["heap"].start + 5


@pytest.mark.parametrize(
    ("text", "where", "problem", "expected"),
    [
        ("", "1:1", "nothing happens", "a line like: A start"),
        ("# only words\n", "2:1", "nothing happens", "a line like: A start"),
        ("start", "1:1", "start does not fit here", "a process"),
        ("A", "1:2", "the line ends here", "one of exec"),
        ("A leap", "1:3", "unknown word leap", "one of exec"),
        ("A start\nA start", "2:1", "there was a process A before", "a new name"),
        ("A exit", "1:1", "there is no process A", "a line NAME start first"),
        ("A start\nA fork B\nB exit\nB exit", "4:1", "process B has ended", "one of A"),
        ("A start\nA mmap heap x rw private anonymous", "2:13", "x does not fit here", "a number of pages"),
        ("A start\nA mmap heap 0 rw private anonymous", "2:13", "no pages", "a number from 1 on"),
        (
            "A start\nA mmap heap 1 wr private anonymous",
            "2:15",
            "wr does not fit here",
            "none, or some of rwx",
        ),
        (
            "A start\nA mmap heap 1 rw secret anonymous",
            "2:18",
            "unknown word secret",
            "one of private, shared",
        ),
        ("A start\nA mmap heap 1 rw private data[0]", "2:26", "there is no file data", "memfd or disk first"),
        ("A start\nA mmap m 1 rw private anonymous fast", "2:33", "unknown word fast", "one of at, hugetlb"),
        (
            "A start\nA mmap m 1 rw private anonymous at n[0]",
            "2:36",
            "nothing is mapped as n",
            "a name mapped",
        ),
        ("A start\nA mmap m 2 rw private anonymous\nA load m[2]", "3:8", "m[2] is outside", "pages 0 to 1"),
        ("A start\nA mmap m 2 rw private anonymous\nA munmap m[1..0]", "3:10", "ends before", "pages"),
        ("A start\nA load heap[0]", "2:8", "nothing is mapped as heap", "made by mmap first"),
        ("A start\nA mmap m 1 rw private anonymous\nA store m[0] mine", "3:14", "mine is no string", "bytes"),
        ('A start\nA mmap m 1 rw private anonymous\nA store m "mine', "3:11", "is no string", "bytes"),
        ('A start\nA mmap m 1 rw private anonymous\nA store m "123456789"', "3:11", "9 bytes", "at most 8"),
        ('A start\nA mmap m 1 rw private anonymous\nA store m "ä"', "3:11", "a letter beyond", "ASCII"),
        (
            "A start\nA mmap m 1 rw private anonymous\nA madvise m sell",
            "3:13",
            "unknown advice sell",
            "one of cold",
        ),
        (
            "A start\nA mmap m 1 rw private anonymous\nA load m -> gone",
            "3:13",
            "unknown outcome gone",
            "one of",
        ),
        ("A start extra", "1:9", "extra is too much", "the end of the line"),
        ('memfd d 2\nA start\nA write d[2] "x"', "3:9", "d[2] is outside", "pages 0 to 1 of d"),
        ("memfd d 99999999999", "1:9", "does not fit", "a number of pages"),
    ],
)
def test_mistakes_are_told_with_line_and_column(text: str, where: str, problem: str, expected: str) -> None:
    """File, line, column, what is wrong, what was expected."""
    with pytest.raises(BadScenario) as caught:
        parse(text, "some.cow")
    message = str(caught.value)
    assert message.startswith(f"some.cow:{where}: "), message
    assert problem in message
    assert expected in caught.value.expected
    assert caught.value.exit_status == 2


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    """Not a traceback of a codec."""
    path = tmp_path / "x.cow"
    path.write_bytes(b"A start\n\xff")
    with pytest.raises(BadScenario, match=":2:1: byte 0xff is no text; expected UTF-8"):
        parse_file(path)


def test_steps_have_defaults_that_read_well() -> None:
    """For the builder."""
    assert str(Mmap("A", "m", 1)) == "A mmap m 1 rw private anonymous"
    assert File("data", 3).label(2) == b"data.2\0\0"


@pytest.mark.parametrize(
    ("line", "column", "problem"),
    [
        ('A store m[0..1] "a"', 9, "m[0..1] is more than a page"),
        ("A load m[1..1]", 8, "m[1..1] is more than a page"),
        (r'A store m[0] "\x0"', 14, "a backslash that begins nothing"),
        (r'A store m[0] "\n"', 14, "a backslash that begins nothing"),
        ("A mmap n ٤ rw private anonymous", 10, "٤ does not fit here"),
    ],
)
def test_what_means_nothing_is_refused_where_it_stands(line: str, column: int, problem: str) -> None:
    """Not cut down to what would mean something."""
    with pytest.raises(BadScenario) as error:
        parse(f"A start\nA mmap m 2 rw private anonymous\n{line}")
    assert (error.value.line, error.value.column, error.value.problem) == (3, column, problem)
