"""One cause for each fault, by the first rule that holds; each rule by a fault that only it fits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from cowscope.insight.breakdown import By, avoidable, breakdown
from cowscope.insight.causes import CAUSES, Cause, causes
from cowscope.recording.meta import Meta
from cowscope.recording.schema import NONE, Columns, Part, empty, from_rows
from cowscope.replay.verdicts import Replay, Verdict

PYTHON, OTHER = 0, 1
ENDED = 1_000
ANON, STACK, LIBPYTHON, BSS, LIBC = range(5)
NAMES = ("[anon]", "[stack]", "/usr/lib/libpython3.11.so.1.0", "[anon]", "/lib/libc.so.6")
TYPES = ("dict", "code", "type")
PLAIN, IMPORTING = 0, 1
STACKS = (
    (PLAIN, 0, "/app/views.py", "index", 12),
    (PLAIN, 1, "/app/server.py", "serve", 3),
    (IMPORTING, 0, "/app/late.py", "<module>", 1),
    (IMPORTING, 1, "<frozen importlib._bootstrap>", "_call_with_frames_removed", 241),
)


@dataclass(frozen=True)
class Write:
    """A fault: what is known of it."""

    function: str = "anything"
    file: str = "/usr/lib/libpython3.11.so.1.0"
    mapping: int = ANON
    part: int = NONE
    type: int = NONE
    offset: int = 0
    time: int = 10
    process: int = PYTHON
    stack: int = NONE


CASES = {
    Write("visit", "/x/_cowscope_agent.abi3.so", part=Part.OBJECT): Cause.AGENT,
    Write("_PyObject_Free", part=Part.OBJECT, time=ENDED): Cause.SHUTDOWN,
    Write("_PyObject_Free", mapping=STACK): Cause.STACK,
    Write("pymalloc_free", part=Part.OBJECT, type=0): Cause.ALLOCATOR,
    Write("_int_malloc", "/lib/libc.so.6"): Cause.ALLOCATOR,
    Write("__libc_free", "/lib/libc.so.6"): Cause.ALLOCATOR,
    Write("freelist_of_mine", part=Part.OBJECT, type=0, offset=16): Cause.PAYLOAD,
    Write(part=Part.TYPE, type=2, offset=16): Cause.CACHES,
    Write(part=Part.TYPE, type=2, offset=0): Cause.REFERENCE_COUNT,
    Write(part=Part.OBJECT, type=1, offset=100): Cause.CACHES,
    Write(part=Part.OBJECT, type=1, offset=7): Cause.REFERENCE_COUNT,
    Write(part=Part.DICT_KEYS, type=0, offset=12): Cause.CACHES,
    Write(part=Part.DICT_KEYS, type=0, offset=0): Cause.REFERENCE_COUNT,
    Write(part=Part.DICT_KEYS, type=0, offset=16): Cause.PAYLOAD,
    Write(part=Part.OBJECT, type=0, offset=0): Cause.REFERENCE_COUNT,
    Write(part=Part.OBJECT, type=0, offset=8): Cause.PAYLOAD,
    Write("finalize_garbage", part=Part.OBJECT, type=0, offset=-8): Cause.FINALISATION,
    Write("gc_collect_main", part=Part.OBJECT, type=0, offset=-16): Cause.COLLECTOR_HEADER,
    Write(part=Part.OBJECT, type=0, offset=-17): Cause.PAYLOAD,
    Write(part=Part.LIST_ITEMS, type=0, offset=0): Cause.PAYLOAD,
    Write(part=Part.DICT_VALUES, type=0, offset=0): Cause.PAYLOAD,
    Write(part=Part.FREE): Cause.ALLOCATOR,
    Write("pymalloc_alloc", stack=IMPORTING): Cause.IMPORT,
    Write(part=Part.OBJECT, type=0, offset=0, stack=PLAIN): Cause.REFERENCE_COUNT,
    Write(mapping=LIBPYTHON): Cause.INTERPRETER,
    Write(mapping=BSS): Cause.INTERPRETER,
    Write("_PyEval_EvalFrameDefault"): Cause.INTERPRETER,
    Write(mapping=LIBC): Cause.STATIC_DATA,
    Write(): Cause.UNKNOWN,
    Write(mapping=NONE): Cause.UNKNOWN,
    Write(process=OTHER, mapping=STACK): Cause.NOT_PYTHON,
}


def recording(writes: list[Write]) -> tuple[Replay, dict[str, Columns]]:
    """Tables in which these faults were all copied."""
    symbols = list(dict.fromkeys((write.file, write.function) for write in writes))
    rows = [(w.time, w.process, 1, 0, symbols.index((w.file, w.function)), 3, 2) for w in writes]
    hits = [(at, w.part, w.type, w.offset, 64) for at, w in enumerate(writes) if w.part != NONE]
    mappings = [
        (key, PYTHON, 0, NONE, 10 * key, 10 * key + 10, 3, False, int(name.startswith("/")), 0, name)
        for key, name in enumerate(NAMES)
    ]
    processes = [(key, 100 + key, NONE, 0, NONE, NONE, NONE, "p", "", "") for key in (PYTHON, OTHER)]
    tables = {
        "processes": from_rows("processes", [*processes]),
        "faults": from_rows("faults", [*rows]),
        "symbols": from_rows("symbols", [(key, file, 0, name) for key, (file, name) in enumerate(symbols)]),
        "mappings": from_rows("mappings", [*mappings]),
        "objects": from_rows("objects", [*hits]),
        "types": from_rows("types", [*enumerate(TYPES)]),
        "lines": from_rows("lines", [(at, w.stack) for at, w in enumerate(writes) if w.stack != NONE]),
        "stacks": from_rows("stacks", [*STACKS]),
        "interpreters": from_rows("interpreters", [(PYTHON, "3.11.7", "", "", ENDED)]),
    }
    replay = Replay(
        verdict=np.full(len(writes), Verdict.COPIED, np.int8),
        mapping=np.array([write.mapping for write in writes], np.int32),
        forks=(),
        fates=(),
        reconciliations=(),
        overruled=0,
        silent=0,
        unforeseen=0,
        assumed=0,
    )
    return replay, tables


@pytest.mark.parametrize(("write", "cause"), CASES.items(), ids=lambda item: str(item)[:60])
def test_a_rule(write: Write, cause: Cause) -> None:
    """Alone."""
    assert CAUSES[causes(*recording([write]))[0]] is cause


def test_all_at_once() -> None:
    """Each fault its own, whatever stands beside it."""
    found = causes(*recording(list(CASES)))
    assert [CAUSES[key] for key in found.tolist()] == list(CASES.values())


def test_no_faults_have_no_causes() -> None:
    """Nor is there anything to trip over."""
    replay, tables = recording([])
    assert len(causes(replay, tables)) == 0
    assert breakdown(By.CAUSE, Meta(), replay, tables) == []
    assert breakdown(By.TYPE, Meta(), replay, tables) == []


def test_groups_name_their_parts_with_shares() -> None:
    """Types of a cause, causes of a type; the two numbers."""
    dict_count = Write(part=Part.OBJECT, type=0, offset=0)
    dict_header = Write(part=Part.OBJECT, type=0, offset=-16)
    code_count = Write(part=Part.OBJECT, type=1, offset=0)
    changed = Write(part=Part.OBJECT, type=0, offset=24)
    replay, tables = recording([dict_count, dict_count, dict_count, code_count, dict_header, changed])
    by_cause = breakdown(By.CAUSE, Meta(), replay, tables)
    assert [(group.name, group.copied, group.detail) for group in by_cause] == [
        ("reference count", 4, "dict 75%, code 25%"),
        ("collector header", 1, "dict 100%"),
        ("object payload", 1, "dict 100%"),
    ]
    by_type = breakdown(By.TYPE, Meta(), replay, tables)
    assert [(group.name, group.copied, group.workers) for group in by_type] == [
        ("dict", 5, 1),
        ("code", 1, 1),
    ]
    assert by_type[0].detail == "reference count 60%, collector header 20%, object payload 20%"
    assert avoidable(by_cause) == (5, 1)


def test_lines_name_causes_types_and_function() -> None:
    """The innermost frame; what has none stands at the end, by itself."""
    header = Write(part=Part.OBJECT, type=0, offset=-16, stack=PLAIN)
    replay, tables = recording([header, header, Write(mapping=STACK)])
    found = breakdown(By.LINE, Meta(), replay, tables)
    assert [(group.name, group.copied, group.workers, group.detail) for group in found] == [
        ("/app/views.py:12", 2, 1, "collector header 100% · dict 100% · index"),
        ("no Python line", 1, 0, ""),
        ("/app/late.py:1", 0, 0, "<module>"),
    ]


def test_without_interpreters_there_are_no_groups() -> None:
    """A recording of other programs says nothing of causes."""
    replay, tables = recording([Write()])
    tables["interpreters"] = empty("interpreters")
    assert breakdown(By.CAUSE, Meta(), replay, tables) == []
