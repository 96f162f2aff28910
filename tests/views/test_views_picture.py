"""Page tables side by side, as text: arrows, columns, what is left out, and what fits."""

from __future__ import annotations

import pytest

from cowscope.lab.parser import parse
from cowscope.lab.story import Chapter, Story
from cowscope.views.picture import Look, lines

FORKED = """A start
A mmap m 3 rw private anonymous
A store m[0] "mine"
A store m[1] "too"
A fork B
B load m[1]
B store m[0] "ours"
"""


def chapters(text: str) -> list[Chapter]:
    """The story of a scenario, on the vm alone."""
    return list(Story(parse(text)))


def drawn(chapter: Chapter, width: int = 80) -> list[str]:
    """The picture as text."""
    return ["".join(part.text for part in line) for line in lines(chapter, width)]


def test_two_processes_point_at_the_frames_between_them() -> None:
    """A frame that both name in the middle, and each its own beside it."""
    assert drawn(chapters(FORKED)[-1]) == [
        "  A                        frames                     B",
        '  m[0]  r ──▶*[1 "mine" ×1]     *[3 "ours" ×1] ◀── w  m[0] *',
        '  m[1]  r ────────────▶ [2 "too" ×2] ◀──────────── r  m[1]',
        "  m[2]  ·                                          ·  m[2]",
    ]


def test_one_process_stands_alone() -> None:
    """The entry that the step made has a star, and so has the frame."""
    assert drawn(chapters(FORKED)[3]) == [
        "  A                        frames",
        '  m[0]  w ──▶ [1 "mine" ×1]',
        '* m[1]  w ──▶*[2 "too" ×1]',
        "  m[2]  ·",
    ]


def test_three_processes_have_columns() -> None:
    """With the frames of a row at its end, each once."""
    told = chapters(FORKED + "A fork C\nC load m[2]")[-1]
    assert drawn(told) == [
        "          A         B         C                 frames",
        '  m[0]    r ─▶ 1    w ─▶ 3    r ─▶ 1            [1 "mine" ×2]  [3 "ours" ×1]',
        '  m[1]    r ─▶ 2    r ─▶ 2    r ─▶ 2            [2 "too" ×3]',
        "  m[2]    ·         ·       * r ─▶ zero page",
    ]


def test_columns_that_do_not_fit_stand_below() -> None:
    """Every process is drawn, each with the frames that it names."""
    told = chapters(FORKED + 'A fork C\nA fork D\nD store m[1] "new"')[-1]
    assert drawn(told, 50) == [
        "          A         B         frames",
        '  m[0]    r ─▶ 1    w ─▶ 3    [1 "mine" ×3]',
        '                              [3 "ours" ×1]',
        '  m[1]    r ─▶ 2    r ─▶ 2   *[2 "too" ×3]',
        "  m[2]    ·         ·",
        "",
        "          C         D         frames",
        '  m[0]    r ─▶ 1    r ─▶ 1    [1 "mine" ×3]',
        '  m[1]    r ─▶ 2  * w ─▶ 4   *[2 "too" ×3]',
        '                             *[4 "new" ×1]',
        "  m[2]    ·         ·",
    ]


def test_two_processes_have_columns_where_arrows_do_not_fit() -> None:
    """A narrow terminal gets the same, shorter."""
    told = drawn(chapters(FORKED)[-1], 46)
    assert told[1] == '  m[0]    r ─▶ 1  * w ─▶ 3   *[1 "mine" ×1]'
    assert max(map(len, told)) <= 46


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_long_story_fits(width: int) -> None:
    """At every step."""
    text = (
        FORKED
        + "memfd data 64\nA mmap text 64 rw private data[0]\nA load text[3]\nA fork C\nC exit\nA exit\n"
    )
    for chapter in chapters(text):
        assert all(len(line) <= width for line in drawn(chapter, width))


def test_what_the_step_did_not_touch_is_a_count() -> None:
    """Where there is much of it: other mappings, and the rest of a large one."""
    text = FORKED + 'memfd data 32\nA mmap text 32 rw private data[0]\nA load text[3]\nA store text[20] "x"'
    told = drawn(chapters(text)[-1])
    assert told == [
        "  A                                frames                     B",
        "  m: 3 pages as before",
        '  text[0]       r ──▶ [4 "data.0" ×1, cache]',
        '  text[1]       r ──▶ [5 "data.1" ×1, cache]',
        "  text[2..19]: 18 pages more as before",
        '* text[20]      w ──▶*[36 "x" ×1]',
        "  text[21..31]  ·",
    ]


def test_looks_tell_what_changed() -> None:
    """Rows as before are dim; of the others only what changed is painted."""
    _, first, second, _ = lines(chapters(FORKED)[-1], 80)
    assert [(part.text.strip(), part.look) for part in first if part.text.strip()] == [
        ("m[0]  r", Look.PLAIN),
        ("──▶", Look.PLAIN),
        ('*[1 "mine" ×1]', Look.CHANGED),
        ('*[3 "ours" ×1]', Look.CHANGED),
        ("◀──", Look.CHANGED),
        ("w  m[0] *", Look.CHANGED),
    ]
    assert {part.look for part in second} == {Look.DIM}


def test_what_is_no_frame_is_a_word() -> None:
    """A guard, pages on swap, pages that are gone."""
    (*_, last) = chapters(
        'A start\nA mmap m 4 rw private anonymous\nA store m[1] "out"\nA madvise m[0] guard_install\n'
        "A madvise m[1] pageout\nA mprotect m[2] none\nA munmap m[3]"
    )
    assert drawn(last)[1:] == ["  m[0]    guard", "  m[1]    swapped", "  m[2]  ·", "* m[3]    unmapped"]


def test_long_names_do_not_push_the_rest_away() -> None:
    """Their middle goes."""
    name = "a" * 60
    told = drawn(chapters(f"A start\nA mmap {name} 1 rw private anonymous")[-1])
    assert told[1].startswith(f"* {'a' * 11}…{'a' * 9}[0]  ·")
    assert max(map(len, told)) <= 80


def test_nothing_mapped_draws_nothing() -> None:
    """Not even a head."""
    assert drawn(chapters("A start")[-1]) == []
