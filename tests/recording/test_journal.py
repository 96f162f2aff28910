"""The journal: what was noted survives, and a damaged chunk is never taken for a good one."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cowscope.recording.journal import JournalWriter, Note, parse_journal, raw_directory

CHUNKS: list[tuple[Note, bytes]] = [
    ({"kind": "start", "command": ["\x1b[31m", "\udce9"], "nested": {"a": [1, None]}}, b""),
    ({"kind": "census", "pid": 1}, bytes(range(256))),
    ({"kind": "maps"}, b"CWJ1" + bytes(12)),
    ({"kind": "end"}, b"\n"),
]


def written(directory: Path) -> bytes:
    """The bytes of a journal with `CHUNKS`."""
    writer = JournalWriter(directory)
    for note, payload in CHUNKS:
        writer.append(note, payload)
    writer.close()
    return (directory / "journal").read_bytes()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A journal with `CHUNKS`."""
    return written(tmp_path_factory.mktemp("journal"))


def test_chunks_come_back_as_they_went(data: bytes) -> None:
    """Notes with any text, payloads with any bytes."""
    assert list(parse_journal(data)) == CHUNKS


def test_a_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    """A second writer appends, so that nothing is overwritten."""
    written(tmp_path)
    assert list(parse_journal(written(tmp_path))) == CHUNKS * 2


def test_the_journal_is_its_owners_alone(tmp_path: Path) -> None:
    """Command lines and addresses are nobody else's business."""
    written(tmp_path)
    assert (tmp_path / "journal").stat().st_mode & 0o777 == 0o600


def test_every_cut_yields_the_whole_chunks_before_it(data: bytes) -> None:
    """At every byte: no error, no damaged chunk, and none lost that was whole."""
    ends = [0]
    for n in range(1, len(CHUNKS) + 1):
        ends.append(ends[-1] + 12 + len(chunk_note(data, ends[-1])) + len(CHUNKS[n - 1][1]))
    assert ends[-1] == len(data)
    for cut in range(len(data) + 1):
        whole = sum(end <= cut for end in ends) - 1
        assert list(parse_journal(data[:cut])) == CHUNKS[:whole]


def chunk_note(data: bytes, at: int) -> bytes:
    """The JSON text of the chunk at byte `at`."""
    return data[at + 12 : at + 12 + int.from_bytes(data[at + 4 : at + 8], "little")]


@functools.cache
def small_journal() -> bytes:
    """Two chunks, by hand."""
    note = b'{"kind": "x"}'
    one = b"CWJ1" + len(note).to_bytes(4, "little") + (2).to_bytes(4, "little") + note + b"ab"
    return one * 2


@given(st.binary(max_size=60), st.integers(0, 62))
@example(b"CWJ1" + (2).to_bytes(4, "little") + bytes(4) + b"[]", 0)
@example(b"CWJ1" + (1).to_bytes(4, "little") + bytes(4) + b"7", 0)
def test_any_bytes_in_between_raise_nothing(junk: bytes, at: int) -> None:
    """Chunks before the damage come back; every note that comes back is an object."""
    good = small_journal()
    found = list(parse_journal(good[:at] + junk + good[at:]))
    assert found[: at // 31] == [({"kind": "x"}, b"ab")] * (at // 31)
    assert all(isinstance(note, dict) for note, _ in found)


def test_raw_files_lie_in_the_recording() -> None:
    """`recover` looks where the recorder wrote."""
    assert raw_directory(Path("web.cow")) == Path("web.cow/raw")
