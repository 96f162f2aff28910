"""Hostile text made harmless, and readable all the same."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cowscope.views.text import escaped, shortened

ANY = st.text(st.characters() | st.characters(categories=["Cs"]) | st.sampled_from("\\x80\x1b\udc80\xad "))


@given(ANY)
@example("\x1b]0;title\x07")
@example("\u202eevil\u2066")
@example("\u00a0\u3000")
def test_what_comes_out_is_printable(text: str) -> None:
    """No control character, no invisible one, no surrogate: it can go to any terminal and any file."""
    found = escaped(text)
    assert found.isprintable()
    assert not {unicodedata.category(c) for c in found} & {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
    found.encode("utf-8")


@given(ANY, ANY)
@example("\udc80", "\x80")
@example("\udcad", "\xad")
@example("\\x1b", "\x1b")
@example("\\n", "\n")
@example("\\", "\\\\")
def test_distinct_texts_stay_distinct(one: str, other: str) -> None:
    """Two processes cannot be made to look like one."""
    assert (escaped(one) == escaped(other)) == (one == other)


@pytest.mark.parametrize("text", ["plain", "naïve ✓ 牛", "a b", "[bold]"])
def test_harmless_text_stays_as_it_is(text: str) -> None:
    """Most names are."""
    assert escaped(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\tb\nc\r\0", "a\\tb\\nc\\r\\x00"),
        ("caf\udce9", "caf\\xe9"),
        ("back\\slash", "back\\\\slash"),
        ("\u202e", "\\u202e"),
        ("\U000e0001", "\\U000e0001"),
    ],
)
def test_escapes_are_those_that_people_know(text: str, shown: str) -> None:
    """A byte that is no text shows as that byte."""
    assert escaped(text) == shown


@given(st.text(), st.integers(2, 60))
def test_shortened_text_fits_and_keeps_both_ends(text: str, width: int) -> None:
    """It is the text itself where that fits; else the middle goes."""
    found = shortened(text, width)
    assert len(found) <= width
    if len(text) <= width:
        assert found == text
    else:
        head, _, tail = found.partition("…") if "…" not in text else (text[:0], "", text[:0])
        assert text.startswith(head)
        assert text.endswith(tail)
