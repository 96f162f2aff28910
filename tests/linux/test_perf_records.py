"""The bytes of a perf ring: each record as perf_event_open(2) lays it out, and what a cut or a lie does."""

from __future__ import annotations

import struct

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from cowscope.linux.perf_abi import RecordType
from cowscope.linux.perf_records import (
    Comm,
    Exit,
    Fork,
    Lost,
    Mmap,
    RawSample,
    Record,
    Run,
    records,
    runs,
    sample_fields,
    whole_bytes,
)


def array(data: bytes) -> NDArray[np.uint8]:
    """Bytes as a ring's file is given."""
    return np.frombuffer(data, np.uint8)


def record(kind: int, body: bytes, misc: int = 0) -> bytes:
    """A record with its header; bodies are padded to eight bytes, as the kernel does."""
    body += bytes(-len(body) % 8)
    return struct.pack("<IHH", kind, misc, 8 + len(body)) + body


def identity(time: int, pid: int = 100, tid: int = 101) -> bytes:
    """The trailer of a sideband record."""
    return struct.pack("<IIQ", pid, tid, time)


def padded(text: bytes) -> bytes:
    """A string as the kernel writes it: ended by a zero, padded to eight bytes."""
    return text + bytes(8 - len(text) % 8)


FORK = record(7, struct.pack("<IIIIQ", 200, 100, 200, 101, 10) + identity(10))
EXIT = record(4, struct.pack("<IIIIQ", 200, 100, 201, 101, 20) + identity(20, 200, 201))
COMM = record(3, struct.pack("<II", 100, 101) + padded(b"ev\x1bil\xff") + identity(30), misc=1 << 13)
RENAME = record(3, struct.pack("<II", 100, 101) + padded(b"threads") + identity(31))
MMAP = record(
    10,
    struct.pack("<IIQQQ", 100, 101, 0x10000, 0x2000, 0x3000)
    + bytes(24)
    + struct.pack("<II", 5, 1)
    + padded(b"/lib/x\n")
    + identity(40),
)
LOST = record(2, struct.pack("<QQ", 77, 1234) + identity(50))
SAMPLE = record(9, struct.pack("<IIQI", 100, 101, 60, 12) + b"\x2a\x01" + bytes(10))
THROTTLE = record(5, bytes(24) + identity(70))

EXPECTED: list[tuple[bytes, Record | None]] = [
    (FORK, Fork(10, 200, 100, 200, 101)),
    (EXIT, Exit(20, 200, 201)),
    (COMM, Comm(30, 100, 101, b"ev\x1bil\xff", True)),
    (RENAME, Comm(31, 100, 101, b"threads", False)),
    (MMAP, Mmap(40, 100, 101, 0x10000, 0x12000, 0x3000, 5, True, b"/lib/x\n")),
    (LOST, Lost(50, 1234)),
    (SAMPLE, RawSample(60, 100, 101, 0x12A, b"\x2a\x01" + bytes(10))),
    (THROTTLE, None),
]
STREAM = b"".join(data for data, _ in EXPECTED)


@pytest.mark.parametrize(("data", "expected"), EXPECTED)
def test_each_record_as_the_kernel_lays_it_out(data: bytes, expected: Record | None) -> None:
    """Alone and twice; types that are none of ours are passed over."""
    found = [] if expected is None else [expected]
    assert list(records(array(data))) == found
    assert list(records(array(data * 2))) == found * 2


def test_a_stream_cut_at_any_byte_yields_what_is_whole() -> None:
    """A recorder may be killed at any moment."""
    ends = np.cumsum([len(data) for data, _ in EXPECTED])
    for cut in range(len(STREAM) + 1):
        n = int(np.searchsorted(ends, cut, side="right"))
        whole = [found for _, found in EXPECTED[:n] if found is not None]
        assert list(records(array(STREAM[:cut]))) == whole
        assert whole_bytes(array(STREAM[:cut])) == (int(ends[n - 1]) if n else 0)


bodies = st.lists(
    st.tuples(st.sampled_from([2, 3, 4, 7, 9, 10, 10, 99]), st.binary(max_size=100)), max_size=8
)


@given(bodies)
@example([(7, b"")])
@example([(10, bytes(64))])
def test_records_of_any_size_raise_nothing(parts: list[tuple[int, bytes]]) -> None:
    """A body too short for its type is passed over, and the next record is read."""
    data = b"".join(record(kind, body) for kind, body in parts) + FORK
    assert list(records(array(data)))[-1] == Fork(10, 200, 100, 200, 101)


@given(st.binary(max_size=300))
def test_any_bytes_raise_nothing(data: bytes) -> None:
    """What is no record ends the reading."""
    assert whole_bytes(array(data)) <= len(data)
    list(records(array(data)))


@pytest.mark.parametrize("size", [0, 7])
def test_an_impossible_size_ends_the_reading(size: int) -> None:
    """Else it would never end."""
    assert list(runs(array(FORK + struct.pack("<IHH", 9, 0, size) + bytes(100)))) == [Run(0, 7, len(FORK), 1)]


@given(st.lists(st.tuples(st.sampled_from([9, 9, 2]), st.sampled_from([16, 24])), max_size=300))
def test_runs_are_like_records_side_by_side(kinds: list[tuple[int, int]]) -> None:
    """As long as can be, none lost, in order; also beyond the first 64, where the look widens."""
    data = b"".join(struct.pack("<IHH", kind, 0, size).ljust(size, b"\0") for kind, size in kinds)
    expected: list[list[int]] = []
    for kind, size in kinds:
        if expected and expected[-1][:2] == [kind, size]:
            expected[-1][2] += 1
        else:
            expected.append([kind, size, 1])
    found = list(runs(array(data)))
    assert [[run.type, run.size, run.count] for run in found] == expected
    assert whole_bytes(array(data)) == len(data)


@pytest.mark.parametrize("n", [63, 64, 65, 66, 576, 577, 5000])
def test_long_runs_end_where_they_end(n: int) -> None:
    """At the steps by which the look widens."""
    sample = struct.pack("<IHHQ", 9, 0, 16, 1)
    found = list(runs(array(sample * n + FORK)))
    assert found == [Run(0, 9, 16, n), Run(16 * n, 7, len(FORK), 1)]


def test_the_fields_of_a_run_of_samples_are_one_view() -> None:
    """No copy: the values are where they were."""
    data = array(b"".join(struct.pack("<IHHIIQ", 9, 0, 24, 100, i, 10 * i) for i in range(5)))
    (run,) = runs(data)
    dtype = np.dtype(
        {"names": ["tid", "time"], "formats": ["<u4", "<u8"], "offsets": [12, 16], "itemsize": 24}
    )
    found = sample_fields(data, run, dtype)
    assert (found["tid"].tolist(), found["time"].tolist()) == ([0, 1, 2, 3, 4], [0, 10, 20, 30, 40])
    assert np.shares_memory(found, data)


def test_the_types_are_the_kernels() -> None:
    """`enum perf_event_type` of linux/perf_event.h."""
    assert {kind.name: kind.value for kind in RecordType} == {
        "LOST": 2,
        "COMM": 3,
        "EXIT": 4,
        "FORK": 7,
        "SAMPLE": 9,
        "MMAP2": 10,
    }
