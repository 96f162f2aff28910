"""A chapter as text and for programs: outcomes of both sides, the trap's way, the picture, what differs."""

from __future__ import annotations

from dataclasses import replace

from cowscope.lab.comparison import Comparison, compare_results
from cowscope.lab.lockstep import Report, Step
from cowscope.lab.model import Model
from cowscope.lab.parser import parse
from cowscope.lab.picture import pages_of
from cowscope.lab.story import Chapter, OnKernel, Story
from cowscope.lab.view import EVERYTHING
from cowscope.views.picture import Look
from cowscope.views.story import as_json, head, lines

FORKED = """A start
A mmap m 2 rw private anonymous
A store m[0] "mine"
A fork B
# The child writes.
B store m[0] "ours"
# The parent writes, too.
A store m[0] "mine2"
"""


def beside(policy: str) -> list[Chapter]:
    """A story told by "linux" beside another policy that stands in for the kernel; each step took 1,500 ns."""
    scenario = parse(FORKED)
    model, other, comparison = Model(scenario), Model(scenario, policy), Comparison(EVERYTHING)
    pages, told = pages_of(scenario), []
    for chapter, line in zip(Story(scenario), scenario, strict=True):
        mine, result = model.do(line), other.do(line)
        found = compare_results(mine, result, EVERYTHING)
        found += comparison.views(model.views(pages), other.views(pages), pages)
        step = Step(line, mine, result, model.views(pages), other.views(pages), pages)
        kernel = OnKernel(result.outcome, 1500.0, Report(scenario, chapter.number, tuple(found), step))
        told.append(replace(chapter, kernel=kernel))
    return told


def text(chapter: Chapter, before: Chapter | None = None, width: int = 80) -> list[str]:
    """A chapter's lines."""
    return ["".join(part.text for part in line) for line in lines(chapter, before, width)]


def test_a_step_beside_the_live_kernel() -> None:
    """Outcome, frames, time; the way of the trap, folded; the picture."""
    assert text(beside("linux")[4]) == [
        ' 5  B store m[0] "ours"',
        "    The child writes.",
        "",
        "    model         copied       2 frames in use (+1)",
        "    live kernel   copied       same page tables  1.50 µs",
        "",
        "    trap: store to a page that is present (error code 0x7) → classify: copied",
        "      → allocate frame 2 → copy frame 1 to frame 2 → map frame 2, writable",
        "      → flush the TLB entry → resume: the access runs again",
        "",
        "    A                        frames                     B",
        '    m[0]  r ──▶*[1 "mine" ×1]     *[2 "ours" ×1] ◀── w  m[0] *',
        "    m[1]  ·                                          ·  m[1]",
    ]


def test_where_they_differ_both_are_shown() -> None:
    """Here the kernel is one that copied at fork: it has no page in common any more."""
    told = text(beside("eager")[3])
    assert told[3].startswith("    live kernel   ok           NOT THE SAME ")
    assert told[-4:] == [
        "       page  model        live kernel",
        "  ≠ A  m[0]  A f1×2 mine  Ax f1×1 mine",
        "  ≠ B  m[0]  A f1×2 mine  Ax f2×1 mine",
        "    A anonymous, F file or shared, Z zero page; x exclusive, h huge",
    ]


def test_what_no_table_shows_is_a_sentence() -> None:
    """The outcome, and that a page moved; pages by their names."""
    told = text(beside("mach-shadow")[5])
    assert told[-4:] == [
        "",
        "  ≠ outcome: the model says reused, the kernel copied",
        "  ≠ sharers of the frame of m[0] of A: the model says A m[0], the kernel A m[0]",
        "  ≠ frame of m[0] of A: the model says it kept its frame, the kernel it has a new frame",
    ]


def test_the_reason_why_there_is_no_kernel_stands_once() -> None:
    """Folded, and not again as long as it is the same."""
    first, second, *_ = Story(parse(FORKED), missing="there is no Linux kernel " * 4)
    assert text(first, None, 60)[3:] == [
        "    live kernel   not asked (there is no Linux kernel there",
        "                  is no Linux kernel there is no Linux",
        "                  kernel there is no Linux kernel )",
    ]
    assert not any("live kernel" in line for line in text(second, first))


def test_what_a_plain_user_is_not_shown_is_not_made_up() -> None:
    """Without the fault records there is no outcome of an access."""
    chapter = beside("linux")[4]
    assert chapter.kernel is not None
    blind = replace(chapter, kernel=replace(chapter.kernel, outcome="", nanoseconds=None))
    assert text(blind)[4].rstrip() == "    live kernel   not shown    same page tables"


def test_the_head_says_by_whose_rules() -> None:
    """The comments are about Linux."""
    told = ["".join(part.text for part in line) for line in head("It\x1b[2J shows.", "svr4-anon", 80)]
    assert told[:2] == [
        "It\\x1b[2J shows.",
        "The model decides as svr4-anon does; the comments tell what Linux does now.",
    ]
    assert max(map(len, told)) <= 80


def test_comments_are_folded_by_the_columns_that_they_take() -> None:
    """A Chinese letter takes two."""
    (chapter, *_) = Story(parse("# 字字字字 字字字字 字字字字\n\nA start", "x"))
    assert chapter.line.said == ""
    said = replace(chapter, line=replace(chapter.line, said="字字字字 字字字字 字字字字"))
    assert text(said, None, 22)[1:3] == ["    字字字字 字字字字", "    字字字字"]


def test_problems_are_painted_as_such() -> None:
    """The verdict, and every line that differs."""
    found = [part for line in lines(beside("mach-shadow")[5], None, 80) for part in line]
    assert [part.text.strip()[:9] for part in found if part.look is Look.PROBLEM] == [
        "NOT THE S",
        "≠ outcome",
        "≠ sharers",
        "≠ frame o",
    ]


def test_programs_get_the_same() -> None:
    """A differing step: sentences, and both sides of each page."""
    told = as_json("It shows.", "linux", beside("eager"))
    assert (told["schema"], told["version"], told["ended"]) == ("cowscope.explain", "1.0", None)
    kernel = told["chapters"][3]["kernel"]
    assert (kernel["agrees"], kernel["nanoseconds"], kernel["outcome"]) == (False, 1500.0, "ok")
    assert "state of m[0] of A: the model says A, the kernel Ax" in kernel["differences"]
    assert kernel["differing"] == [
        {"process": "A", "page": "m[0]", "model": "A f1×2 mine", "kernel": "Ax f1×1 mine"},
        {"process": "B", "page": "m[0]", "model": "A f1×2 mine", "kernel": "Ax f2×1 mine"},
    ]
