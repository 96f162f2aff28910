"""Both sides' page tables beside each other, and differences in words."""

from __future__ import annotations

from cowscope.lab.comparison import Difference
from cowscope.views.page_tables import Row, lined, sentence


def test_what_differs_is_marked_and_much_that_agrees_is_a_number() -> None:
    """A huge page has 512 rows."""
    table = [Row("A", f"big[{page}]", "Ah f1×1", "Ah f1×1") for page in range(20)]
    table.insert(18, Row("A", "more[0]", "Ax f2×1 b", "A f2×2 b"))
    assert list(lined(table)) == [
        "     page     model      kernel",
        "  A  big[0]   Ah f1×1    Ah f1×1",
        "  A  big[1]   Ah f1×1    Ah f1×1",
        "  A  big[2]   Ah f1×1    Ah f1×1",
        "  A  big[3]   Ah f1×1    Ah f1×1",
        "  … 14 pages more agree",
        "≠ A  more[0]  Ax f2×1 b  A f2×2 b",
        "  A  big[18]  Ah f1×1    Ah f1×1",
        "  A  big[19]  Ah f1×1    Ah f1×1",
    ]


def test_pages_in_an_answer_have_names_too() -> None:
    """Those that have none keep their number."""
    difference = Difference("sharers of the frame", "B", 17, "A page 0x10, B page 0x11", "B page 0x12")
    assert sentence(difference, {16: "m[0]", 17: "m[1]"}) == (
        "sharers of the frame of m[1] of B: the model says A m[0], B m[1], the kernel B page 0x12"
    )
