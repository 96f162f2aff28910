"""JSON against the page that documents it: every key stands there with its type, and nothing else does."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

PAGE = (Path(__file__).parents[2] / "docs" / "check-explain-json.md").read_text(encoding="utf-8")
_ROW = re.compile(r"\| `(\w+)` \| ([^|]+) \|[^|]*\|[^|]+\|\Z")


def _sections() -> dict[str, dict[str, str]]:
    """Key to type, of each object."""
    found = {}
    for part in PAGE.split("\n### ")[1:]:
        name, *lines = part.splitlines()
        rows = filter(None, map(_ROW.match, lines))
        found[name] = {row[1]: row[2] for row in rows}
    return found


SECTIONS = _sections()


def problems(value: object, kind: str, where: str = "$") -> Iterator[str]:
    """What of `value` is not as the page says."""
    if kind.endswith(" or null"):
        if value is not None:
            yield from problems(value, kind.removesuffix(" or null"), where)
    elif kind.startswith("list of "):
        if not isinstance(value, list):
            yield f"{where} is no list: {value!r}"
            return
        for index, item in enumerate(value):
            yield from problems(item, kind.removeprefix("list of "), f"{where}[{index}]")
    elif kind in SECTIONS:
        yield from _object_problems(value, SECTIONS[kind], where)
    elif not _PLAIN[kind](value):
        yield f"{where} is no {kind}: {value!r}"


def _object_problems(value: object, keys: dict[str, str], where: str) -> Iterator[str]:
    if not isinstance(value, dict) or set(value) != set(keys):
        told = sorted(set(value) ^ set(keys)) if isinstance(value, dict) else repr(value)
        yield f"{where} has other keys: {told}"
        return
    for key, kind in keys.items():
        yield from problems(value[key], kind, f"{where}.{key}")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


_PLAIN: dict[str, Callable[[object], bool]] = {
    "text": lambda value: isinstance(value, str),
    "number": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
    "yes/no": lambda value: isinstance(value, bool),
    "count": _is_count,
    "counts": lambda value: (
        isinstance(value, dict) and all(isinstance(key, str) and _is_count(n) for key, n in value.items())
    ),
}
