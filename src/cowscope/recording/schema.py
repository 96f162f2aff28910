"""The tables of a recording, format 1.1: one definition that writer, reader, dump and documentation share.

A recording is a directory `NAME.cow` with `meta.json` and one Parquet file per table. Times are
nanoseconds of CLOCK_MONOTONIC on the recording machine, pages are virtual page numbers (address >> 12),
processes are small integers that stand for one (pid, start time). Nothing here holds a physical frame
number or a byte of memory.

A minor version adds tables or columns at the end; a major version changes what is there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

FORMAT_MAJOR, FORMAT_MINOR = 1, 1

Codes = type[IntEnum] | type[IntFlag]

Columns = dict[str, NDArray[Any]]
"""A table in memory: column name -> one array, all of one length."""

NONE = -1
"""In integer columns: there is no such thing, or it is not known."""


class Operation(IntEnum):
    """What a process did to its address space, beside faults."""

    UNMAP = 1
    DISCARD = 2
    MOVE = 3
    EXEC = 4
    EXIT = 5


class Access(IntFlag):
    """The bits of a fault: x86's error code, and one of ours."""

    PRESENT = 1
    WRITE = 2
    USER = 4
    UNKNOWN = 128


class Allocation(IntEnum):
    """What the kernel was seen to allocate for a fault (kmem:mm_page_alloc)."""

    NOT_WATCHED = 0
    NONE_SEEN = 1
    PAGE = 2
    LATE = 3


class PageState(IntFlag):
    """The state of a run of pages in a census."""

    PRESENT = 1
    SWAPPED = 2
    FILE = 4
    ZERO = 8
    HUGE = 16
    GUARD = 32
    EXCLUSIVE = 64


class Protection(IntFlag):
    """What a mapping allows."""

    READ = 1
    WRITE = 2
    EXECUTE = 4


class Part(IntEnum):
    """Which memory of a Python object."""

    OBJECT = 0
    """Itself, the collector's header before it included."""
    LIST_ITEMS = 1
    DICT_KEYS = 2
    DICT_VALUES = 3
    SET_TABLE = 4
    FREE = 5
    """No object's, in an arena of small objects: free when the objects were listed."""
    TYPE = 6
    """An object that is a type."""


class MappingKind(IntEnum):
    """What stands behind a mapping; what decides is whether a private page of it begins as zeroes."""

    ANONYMOUS = 0
    FILE = 1


@dataclass(frozen=True)
class Column:
    """A column: its Parquet type in DuckDB's words, and what a value means, with its unit."""

    name: str
    sql: str
    meaning: str
    codes: Codes | None = None
    """What the numbers stand for, or of what flags they are sums."""

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The array type that holds it in memory."""
        return _DTYPES[self.sql]


_DTYPES: Mapping[str, np.dtype[np.generic]] = MappingProxyType(
    {
        "UBIGINT": np.dtype(np.uint64),
        "BIGINT": np.dtype(np.int64),
        "INTEGER": np.dtype(np.int32),
        "UTINYINT": np.dtype(np.uint8),
        "BOOLEAN": np.dtype(np.bool_),
        "VARCHAR": np.dtype(object),
    }
)


def _table(*columns: tuple[str, str, str] | tuple[str, str, str, Codes]) -> tuple[Column, ...]:
    return tuple(Column(*column) for column in columns)


TABLES: Mapping[str, tuple[Column, ...]] = MappingProxyType(
    {
        "processes": _table(
            ("process", "INTEGER", "key: stands for one (pid, start time)"),
            ("pid", "INTEGER", "process id in the recorder's namespace"),
            ("parent", "INTEGER", "key of the process that forked it, -1 if it was not recorded"),
            ("start_ns", "BIGINT", "time of the fork, or when it was first seen"),
            ("exec_ns", "BIGINT", "time of its last exec, -1 if none was seen"),
            ("end_ns", "BIGINT", "time of its exit, -1 if it outlived the recording"),
            ("status", "INTEGER", "exit status as a shell tells it, -1 if not known"),
            ("name", "VARCHAR", "comm; hostile text"),
            ("executable", "VARCHAR", "path of the executable; hostile text"),
            ("command_line", "VARCHAR", "arguments, quoted as for a shell; hostile text"),
        ),
        "mappings": _table(
            ("mapping", "INTEGER", "key"),
            ("process", "INTEGER", "whose"),
            ("from_ns", "BIGINT", "first seen"),
            ("to_ns", "BIGINT", "gone or changed, -1 if it stayed"),
            ("start_page", "BIGINT", "first page"),
            ("end_page", "BIGINT", "page behind the last"),
            ("protection", "UTINYINT", "1 read, 2 write, 4 execute", Protection),
            ("shared", "BOOLEAN", "MAP_SHARED"),
            ("kind", "UTINYINT", "0 anonymous, 1 file", MappingKind),
            ("file_offset", "BIGINT", "byte of the file at the first page"),
            ("name", "VARCHAR", "file, or [heap], [stack], [anon]; hostile text"),
        ),
        "forks": _table(
            ("time_ns", "BIGINT", "when the parent's page table had been copied"),
            ("parent", "INTEGER", "process"),
            ("child", "INTEGER", "process"),
            (
                "shares_memory",
                "BOOLEAN",
                "CLONE_VM (vfork, posix_spawn): one address space, nothing shared by copy",
            ),
            (
                "anonymous_pages",
                "BIGINT",
                "anonymous pages mapped into the child, kernel's own count; -1 unknown",
            ),
            ("file_pages", "BIGINT", "page-cache pages mapped into the child by the copy; -1 unknown"),
            ("swapped_pages", "BIGINT", "swapped-out pages that both now share; -1 unknown"),
            ("before_start", "BOOLEAN", "the fork was already done when the recording began"),
        ),
        "faults": _table(
            ("time_ns", "BIGINT", "of the exception"),
            ("process", "INTEGER", "who, -1 if the process is not known"),
            ("tid", "INTEGER", "thread id"),
            ("address", "UBIGINT", "the address that was accessed"),
            ("code", "INTEGER", "key into symbols: the accessing instruction"),
            (
                "access",
                "UTINYINT",
                "1 page was present, 2 write, 4 by user code, 128 the kernel did not say",
                Access,
            ),
            (
                "allocation",
                "UTINYINT",
                "0 not watched, 1 no page was allocated, 2 a page was, not zeroed, 3 one was, but late or on another CPU",
                Allocation,
            ),
        ),
        "operations": _table(
            ("time_ns", "BIGINT", "when"),
            ("process", "INTEGER", "who"),
            ("operation", "UTINYINT", "1 unmap, 2 discard, 3 move, 4 exec, 5 exit", Operation),
            ("start_page", "BIGINT", "first page concerned"),
            ("n_pages", "BIGINT", "how many"),
            ("to_page", "BIGINT", "where a move went, else -1"),
        ),
        "census": _table(
            ("census", "INTEGER", "which look at a process"),
            ("process", "INTEGER", "whose"),
            ("time_ns", "BIGINT", "when the look began"),
            ("until_ns", "BIGINT", "when it ended"),
            ("start_page", "BIGINT", "first page of the run"),
            ("n_pages", "BIGINT", "length of the run"),
            (
                "state",
                "UTINYINT",
                "1 present 2 swapped 4 file 8 zero page 16 huge 32 guard 64 mapped once",
                PageState,
            ),
            (
                "group",
                "BIGINT",
                "renumbered frame of the first page, equal in all that map it; -1 if not taken",
            ),
        ),
        "symbols": _table(
            ("code", "INTEGER", "key"),
            ("file", "VARCHAR", "the mapped file, or [kernel], [anon], [unknown]; hostile text"),
            ("offset", "BIGINT", "byte in the file, -1 if there is none"),
            ("function", "VARCHAR", "symbol, empty if the file has none there; hostile text"),
        ),
        "objects": _table(
            ("fault", "INTEGER", "row of faults; those in Python processes whose objects are known"),
            (
                "part",
                "UTINYINT",
                "0 an object, 1 a list's items, 2 a dict's keys, 3 its values, 4 a set's table, 5 free, 6 a type",
                Part,
            ),
            ("type", "INTEGER", "key into types, -1 for what is free"),
            ("offset", "BIGINT", "from the object's address to the accessed one; below 0 in the header"),
            ("bytes", "BIGINT", "size of the part"),
        ),
        "types": _table(
            ("type", "INTEGER", "key"),
            ("name", "VARCHAR", "as the type calls itself; hostile text"),
        ),
        "interpreters": _table(
            ("process", "INTEGER", "whose"),
            ("version", "VARCHAR", "of CPython; hostile text"),
            ("refused", "VARCHAR", "why there are no objects of it, empty if there are; hostile text"),
            ("no_lines", "VARCHAR", "why there are no lines of it, empty if there are; hostile text"),
            ("shutdown_ns", "BIGINT", "when it began to end, -1 if it was not seen to"),
        ),
        "lines": _table(
            ("fault", "INTEGER", "row of faults; those of which the Python stack was noted"),
            ("stack", "INTEGER", "key into stacks"),
        ),
        "stacks": _table(
            ("stack", "INTEGER", "key"),
            ("depth", "INTEGER", "0 innermost; 3 at most"),
            ("file", "VARCHAR", "as the code object calls it; hostile text"),
            ("function", "VARCHAR", "qualified name; hostile text"),
            ("line", "INTEGER", "of the instruction that ran"),
        ),
    }
)


SINCE = MappingProxyType(dict.fromkeys(("objects", "types", "interpreters", "lines", "stacks"), 1))
"""Tables that recordings of an earlier minor version do not have."""


def empty(table: str) -> Columns:
    """The table with no rows.

    >>> sorted(empty("symbols"))
    ['code', 'file', 'function', 'offset']
    """
    return {column.name: np.empty(0, column.dtype) for column in TABLES[table]}


def from_rows(table: str, rows: list[tuple[object, ...]]) -> Columns:
    """Rows in schema order as columns.

    >>> from_rows("symbols", [(0, "libc.so", 64, "memcpy")])["function"]
    array(['memcpy'], dtype=object)
    """
    if not rows:
        return empty(table)
    columns: Columns = {}
    for column, values in zip(TABLES[table], zip(*rows, strict=True), strict=True):
        array = np.empty(len(rows), column.dtype)
        array[:] = values
        columns[column.name] = array
    return columns
