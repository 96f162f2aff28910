"""Mappings as they change, against a dictionary from page to what backs it."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from cowscope.recorder.intervals import Backing, Intervals, Row
from cowscope.recording.schema import NONE, MappingKind

ANON = Backing(3, False, MappingKind.ANONYMOUS, 0, "[anon]")
HEAP = Backing(3, False, MappingKind.ANONYMOUS, 0, "[heap]")
FILE = Backing(1, False, MappingKind.FILE, 1 << 16, "/lib/x\x1b")
DATA = Backing(3, True, MappingKind.FILE, 0, "/data")

Pages = dict[int, Backing]
backings = st.sampled_from([ANON, HEAP, FILE, DATA])
starts, lengths = st.integers(0, 20), st.integers(1, 8)
steps = st.lists(
    st.one_of(
        st.tuples(st.just("place"), starts, lengths, backings),
        st.tuples(st.just("remove"), starts, lengths, st.none()),
        st.tuples(st.just("sync"), starts, lengths, backings),
    ),
    max_size=25,
)


def backing_of(first: int, page: int, backing: Backing) -> Backing:
    """What one page of a mapping that starts at `first` maps, by itself."""
    if backing.kind is MappingKind.FILE:
        return replace(backing, file_offset=backing.file_offset + (page - first) * 4096)
    return replace(backing, file_offset=0)


def by_page(rows: list[Row]) -> Pages:
    """All pages of rows, which must not overlap."""
    found: Pages = {}
    for row in rows:
        assert row.start < row.end
        for page in range(row.start, row.end):
            assert page not in found
            found[page] = backing_of(row.start, page, row.backing)
    return found


@given(steps)
@settings(max_examples=200, deadline=None)
def test_every_page_is_what_was_placed_there_last(
    changes: list[tuple[str, int, int, Backing | None]],
) -> None:
    """Live rows say what is, closed ones what was at any time: nothing overlaps, nothing is lost."""
    rows: list[Row] = []
    intervals, model, history = Intervals(7, rows), Pages(), {}
    for time, (what, start, n, backing) in enumerate(changes):
        pages = range(start, start + n)
        if what == "sync":
            model.clear()
        for page in pages:
            model.pop(page, None)
        if backing is not None:
            model |= {page: backing_of(start, page, backing) for page in pages}
        if what == "place" and backing is not None:
            intervals.place(start, start + n, backing, time)
        elif what == "sync" and backing is not None:
            intervals.sync([(start, start + n, backing)], time)
        else:
            intervals.remove(start, start + n, time)
        live = list(intervals)
        assert by_page(live) == model
        assert [row.start for row in live] == sorted(row.start for row in live)
        assert all(row.to_ns == NONE for row in live)
        history[time] = dict(model)
    for time, expected in history.items():
        then = [row for row in rows if row.from_ns <= time and (row.to_ns == NONE or row.to_ns > time)]
        assert by_page(then) == expected
    assert [row.key for row in rows] == list(range(len(rows)))


def table(rows: list[Row]) -> list[tuple[int, int, int, int, str]]:
    """Rows as from, to, start, end and name."""
    return [(row.from_ns, row.to_ns, row.start, row.end, row.backing.name) for row in rows]


def test_the_same_again_opens_no_row() -> None:
    """The kernel tells a whole merged mapping whenever a part of it changes."""
    rows: list[Row] = []
    intervals = Intervals(0, rows)
    intervals.place(10, 20, ANON, 1)
    intervals.place(10, 20, replace(ANON, file_offset=10 * 4096), 2)
    assert table(rows) == [(1, NONE, 10, 20, "[anon]")]
    intervals.place(10, 20, replace(ANON, protection=1), 3)
    assert table(rows) == [(1, 3, 10, 20, "[anon]"), (3, NONE, 10, 20, "[anon]")]


def test_a_hole_leaves_two_rows_and_the_files_offset_moves_along() -> None:
    """The second half begins further into the file."""
    rows: list[Row] = []
    intervals = Intervals(0, rows)
    intervals.place(10, 20, FILE, 1)
    intervals.remove(13, 15, 2)
    assert table(list(intervals)) == [(2, NONE, 10, 13, FILE.name), (2, NONE, 15, 20, FILE.name)]
    assert [row.backing.file_offset for row in intervals] == [1 << 16, (1 << 16) + 5 * 4096]


def test_a_fork_hands_all_mappings_down() -> None:
    """Later changes of the parent are its own."""
    rows: list[Row] = []
    parent, child = Intervals(0, rows), Intervals(1, rows)
    parent.place(10, 20, ANON, 1)
    child.inherit(parent, 5)
    parent.remove(10, 20, 6)
    assert (list(parent), table(list(child))) == ([], [(5, NONE, 10, 20, "[anon]")])


def test_a_move_takes_the_backing_along() -> None:
    """From the middle of a file, with the offset of that page, and grown."""
    intervals = Intervals(0, [])
    intervals.place(10, 20, FILE, 1)
    intervals.move(15, 5, 8, 100, 2)
    assert table(list(intervals)) == [(2, NONE, 10, 15, FILE.name), (2, NONE, 100, 108, FILE.name)]
    assert list(intervals)[1].backing.file_offset == FILE.file_offset + 5 * 4096


def test_a_move_of_nothing_known_does_nothing() -> None:
    """Nobody told us of that mapping."""
    intervals = Intervals(0, [])
    intervals.move(15, 5, 8, 100, 2)
    assert list(intervals) == []


def test_exec_and_exit_close_everything() -> None:
    """At that time."""
    rows: list[Row] = []
    intervals = Intervals(0, rows)
    intervals.place(10, 20, ANON, 1)
    intervals.place(30, 40, HEAP, 1)
    intervals.clear(9)
    assert [row.to_ns for row in rows] == [9, 9]
    assert intervals.end_of("[heap]") is None


def test_where_the_heap_ends() -> None:
    """The last of several."""
    intervals = Intervals(0, [])
    intervals.place(10, 20, HEAP, 1)
    intervals.place(20, 25, replace(HEAP, protection=1), 1)
    assert intervals.end_of("[heap]") == 25
