"""Why a page of a Python process was written: one cause for each fault, by the first rule that holds.

| rule | evidence | cause |
|---|---|---|
| 0 | written by the agent itself | agent |
| 1 | the interpreter had begun to end | shutdown |
| 2 | mapping [stack] | stack |
| 2a | a frame of the import system is among the innermost four | new import |
| 3 | written by a function of malloc or pymalloc | allocator |
| 4 | a type, beyond its first 16 bytes; a code object, likewise; a version number in a dict's keys | caches |
| 5 | the first 8 bytes of an object, or of a dict's keys | reference count |
| 6 | the 16 bytes before an object, by a function that clears garbage | finalisation |
| 7 | the 16 bytes before an object | collector header |
| 8 | any other byte of an object, or of its list, table or values | payload |
| 9 | an arena of small objects, where none was at the fork | allocator |
| 10 | data of the interpreter's own file, or the zeros behind it; written by a function that makes frames | interpreter |
| 11 | data of another file, or the zeros behind it | static data |
| 12 | none of it | unknown |

Objects are those of the last census, which was just before the fork: what has been freed and made anew since is
taken for what was there. Source: Objects/obmalloc.c, Modules/gcmodule.c, Python/gc.c, Python/specialize.c of CPython.
Not told apart: pages of several causes (the first write decides).
"""

from __future__ import annotations

import re
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from cowscope.recording.schema import NONE, Columns, MappingKind, Part
from cowscope.replay.verdicts import Replay
from cowscope.runtimes.python.agent import LIBRARY


class Cause(StrEnum):
    """The answers, in words for people."""

    REFERENCE_COUNT = "reference count"
    COLLECTOR_HEADER = "collector header"
    FINALISATION = "collector finalisation"
    ALLOCATOR = "allocator"
    PAYLOAD = "object payload"
    CACHES = "type and inline caches"
    INTERPRETER = "interpreter state"
    STACK = "stack"
    STATIC_DATA = "static data"
    SHUTDOWN = "shutdown"
    IMPORT = "new import"
    AGENT = "the recorder's own agent"
    UNKNOWN = "unknown"
    NOT_PYTHON = "not a Python process"


CAUSES = tuple(Cause)
SHAREABLE = (Cause.REFERENCE_COUNT, Cause.COLLECTOR_HEADER)
"""Nothing that the program stores was changed: pages that could be shared and are not."""

_ALLOCATOR = re.compile(
    r"_*(Py(Object|Mem)_(Raw)?(Malloc|Calloc|Realloc|Free)|PyObject_Arena|pymalloc_|insert_to_|allocate_from_new_pool"
    r"|new_arena|arena_map|((int|libc)_)?(malloc|calloc|realloc|free|memalign)(?![a-z])|cfree"
    r"|malloc_consolidate|unlink_chunk|sysmalloc|systrim|tcache_|alloc_perturb)"
)
_FINALISATION = re.compile(
    r"(finalize_garbage|delete_garbage|handle_weakrefs|handle_legacy_finalizers|clear_unreachable)"
)
_FRAMES = re.compile(
    r"_*Py(Eval|Frame|ThreadState|_EvalFrame|InterpreterFrame|Gen_|_TransferFrame)"
    r"|push_chunk|clear_thread_frame|eval_frame"
)
_INTERPRETER_FILE = re.compile(r"(.*/)?(libpython3|python3?(\.\d+)?$)")

_IMPORT_SYSTEM = "<frozen importlib._bootstrap"
_COUNT_BYTES, _HEADER_BYTES, _TYPE_AT = 8, 16, 16
_DICT_VERSION = (12, 16)


def causes(replay: Replay, tables: dict[str, Columns]) -> NDArray[np.int8]:
    """The cause of each fault, as an index into `CAUSES`."""
    faults, symbols = tables["faults"], tables["symbols"]
    n = len(faults["process"])
    part, offset = np.full(n, NONE, np.int64), np.zeros(n, np.int64)
    kind = np.full(n, NONE, np.int64)
    rows = tables["objects"]["fault"]
    part[rows], offset[rows], kind[rows] = (tables["objects"][key] for key in ("part", "offset", "type"))
    code_type = np.flatnonzero(tables["types"]["name"] == "code")
    names = symbols["function"]
    written_by = {
        key: _matching(pattern, names)[faults["code"]] if len(names) else np.zeros(n, bool)
        for key, pattern in (("allocator", _ALLOCATOR), ("final", _FINALISATION), ("frames", _FRAMES))
    }
    stack, interpreter, static = _places(replay.mapping, tables["mappings"])
    whole = (part == Part.OBJECT) | (part == Part.TYPE)
    counts = (whole | (part == Part.DICT_KEYS)) & (offset >= 0) & (offset < _COUNT_BYTES)
    header = whole & (offset < 0) & (offset >= -_HEADER_BYTES)
    version = (part == Part.DICT_KEYS) & (offset >= _DICT_VERSION[0]) & (offset < _DICT_VERSION[1])
    cached = ((part == Part.TYPE) | (whole & np.isin(kind, code_type))) & (offset >= _TYPE_AT)
    table = (
        (_by_agent(symbols, faults["code"]), Cause.AGENT),
        (_has_ended(faults, tables["interpreters"]), Cause.SHUTDOWN),
        (stack, Cause.STACK),
        (_while_importing(n, tables["lines"], tables["stacks"]), Cause.IMPORT),
        (written_by["allocator"], Cause.ALLOCATOR),
        (cached | version, Cause.CACHES),
        (counts, Cause.REFERENCE_COUNT),
        (header & written_by["final"], Cause.FINALISATION),
        (header, Cause.COLLECTOR_HEADER),
        ((part != NONE) & (part != Part.FREE), Cause.PAYLOAD),
        (part == Part.FREE, Cause.ALLOCATOR),
        (interpreter | written_by["frames"], Cause.INTERPRETER),
        (static, Cause.STATIC_DATA),
    )
    found = np.full(n, CAUSES.index(Cause.UNKNOWN), np.int8)
    for evidence, cause in reversed(table):
        found[evidence] = CAUSES.index(cause)
    found[~np.isin(faults["process"], tables["interpreters"]["process"])] = CAUSES.index(Cause.NOT_PYTHON)
    return found


def _matching(pattern: re.Pattern[str], names: NDArray[np.object_]) -> NDArray[np.bool_]:
    return np.array([pattern.match(name) is not None for name in names.tolist()], bool)


def _by_agent(symbols: Columns, code: NDArray[np.int32]) -> NDArray[np.bool_]:
    mine = np.array([str(file).endswith(f"/{LIBRARY.name}") for file in symbols["file"]], bool)
    return mine[code] if len(mine) else np.zeros(len(code), bool)


def _while_importing(n: int, lines: Columns, stacks: Columns) -> NDArray[np.bool_]:
    files = stacks["file"].tolist()
    frames = np.array([str(file).startswith(_IMPORT_SYSTEM) for file in files], bool)
    importing = np.zeros(n, bool)
    importing[lines["fault"]] = np.isin(lines["stack"], np.unique(stacks["stack"][frames]))
    return importing


def _has_ended(faults: Columns, interpreters: Columns) -> NDArray[np.bool_]:
    ended = np.zeros(len(faults["process"]), bool)
    pairs = zip(interpreters["process"].tolist(), interpreters["shutdown_ns"].tolist(), strict=True)
    for process, time in pairs:
        if time != NONE:
            ended |= (faults["process"] == process) & (faults["time_ns"] >= time)
    return ended


def _places(
    mapping: NDArray[np.integer], mappings: Columns
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether each fault hit the stack, data of the interpreter, data of another file; zeros behind a file are its."""
    names = mappings["name"]
    file = (mappings["kind"] == MappingKind.FILE) & ~mappings["shared"]
    owner = np.where(file, names, "")
    ends = {
        (int(process), int(end)): str(name)
        for process, end, name, is_file in zip(
            mappings["process"], mappings["end_page"], names, file, strict=True
        )
        if is_file
    }
    for at in np.flatnonzero((mappings["kind"] == MappingKind.ANONYMOUS) & ~mappings["shared"]).tolist():
        if str(names[at]).startswith("[anon"):
            owner[at] = ends.get((int(mappings["process"][at]), int(mappings["start_page"][at])), "")
    interpreter = np.array([_INTERPRETER_FILE.match(str(name)) is not None for name in owner], bool)
    static = (owner != "") & ~interpreter
    found = [np.append(column, False) for column in (names == "[stack]", interpreter, static)]
    stack, its, others = (column.astype(bool)[mapping] for column in found)
    return stack, its, others
