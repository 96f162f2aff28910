"""All that a machine is, as one value to compare: a call that was refused must not have changed it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from cowscope.vm import Machine

_WORTHLESS = {"_scratch", "_sorted", "listeners"}
"""Scratch space, what is computed again when it is missing, and who listens."""


def frozen(machine: Machine) -> object:
    """The state of `machine`: everything that can be reached from it."""
    return _frozen(machine, {})


def _frozen(thing: object, seen: dict[int, int]) -> object:
    match thing:
        case None | bool() | int() | float() | str() | bytes():
            return thing
        case bytearray():
            return bytes(thing)
        case np.ndarray():
            return (thing.dtype.str, thing.tobytes())
        case tuple() | list():
            return [_frozen(each, seen) for each in thing]
        case set() | frozenset():
            return sorted(thing)
        case Callable():
            return "callable"
        case Mapping():
            return [(_frozen(key, seen), _frozen(thing[key], seen)) for key in sorted(thing, key=str)]
    if id(thing) in seen:
        return ("again", seen[id(thing)])
    seen[id(thing)] = len(seen)
    names = getattr(type(thing), "__slots__", None) or vars(thing)
    kept = sorted(name for name in names if name not in _WORTHLESS)
    return (type(thing).__name__, [(name, _frozen(getattr(thing, name), seen)) for name in kept])
