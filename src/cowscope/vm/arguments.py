"""What callers hand over: arguments of the wrong type or size are refused here, before anything is done.

| declared | taken | becomes |
|---|---|---|
| `int`, an enum of integers | integers of Python and numpy that fit into 64 bits; no bool, no float | an `int` |
| `bool` | bools of Python and numpy | a `bool` |
| `bytes` | anything with a buffer, but no text | `bytes` |
| any other class | its instances | |
| optional | also None | |
| batches | one-dimensional, whole numbers, of equal lengths; pages below 2**52 | columns |

Everything else is `InvalidArgument`, whose message names the call, the argument and what it was. Generic types are left
to who declares them.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from functools import wraps
from inspect import Parameter, signature
from operator import index
from typing import Any, ParamSpec, TypeVar, get_args, get_origin

import numpy as np
import numpy.typing as npt

from cowscope.errors import InvalidArgument
from cowscope.vm.columns import Counts, Ints, Outcomes
from cowscope.vm.rules import UNDECIDED, Outcome
from cowscope.vm.tables import END_OF_SPACE

_Parameters = ParamSpec("_Parameters")
_Result = TypeVar("_Result")

_NAMES = {int: "an integer", bool: "a bool", bytes: "bytes", type(None): "None"}
_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1
_COPIED, _REUSED = int(Outcome.COPIED), int(Outcome.REUSED)


def checked(call: Callable[_Parameters, _Result]) -> Callable[_Parameters, _Result]:
    """Let `call` refuse arguments that are not what it declares.

    >>> @checked
    ... def square(side: int) -> int:
    ...     return side * side
    >>> square(np.int8(100))
    10000
    >>> square("3")
    Traceback (most recent call last):
      ...
    cowscope.errors.InvalidArgument: square: side must be an integer, not '3' (EINVAL)
    """
    parameters = signature(call, eval_str=True).parameters
    names = tuple(parameters)
    kinds = {name: _kinds(parameter.annotation) for name, parameter in parameters.items()}
    what = call.__qualname__.removesuffix(".__init__").rpartition(".")[2]

    @wraps(call)
    def refusing(*arguments: Any, **named: Any) -> Any:
        given = [_converted(f"{what}: {n}", v, kinds[n]) for n, v in zip(names, arguments, strict=False)]
        given += arguments[len(given) :]
        for name in kinds.keys() & named.keys():
            named[name] = _converted(f"{what}: {name}", named[name], kinds[name])
        return call(*given, **named)  # type: ignore[arg-type]

    return refusing


def _kinds(annotation: Any) -> tuple[type, ...]:
    """The classes that an argument may be of; none where anything goes."""
    kinds = get_args(annotation) if isinstance(annotation, type(int | None)) else (annotation,)
    if any(get_origin(kind) is not None or kind is Parameter.empty for kind in kinds):
        return ()
    return tuple(type(None) if kind is None else kind for kind in kinds)


def _converted(what: str, value: object, kinds: tuple[type, ...]) -> object:
    if not kinds or (type(value) in kinds and type(value) is not int):
        return value
    if bool in kinds and isinstance(value, bool | np.bool_):
        return bool(value)
    if int in kinds and isinstance(value, int | np.integer) and not isinstance(value, bool):
        return number(what, value)
    if bytes in kinds:
        return octets(what, value)
    if isinstance(value, tuple(kind for kind in kinds if kind is not int)):
        return value
    integer = int in kinds
    expected = [
        _NAMES.get(kind, kind.__name__)
        for kind in kinds
        if kind is int or not (integer and issubclass(kind, int))
    ]
    raise InvalidArgument(f"{what} must be {' or '.join(expected)}, not {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def number(what: str, value: object) -> int:
    """`value` as a Python integer.

    >>> number("pages", 2.0)
    Traceback (most recent call last):
      ...
    cowscope.errors.InvalidArgument: pages must be an integer, not 2.0 (EINVAL)
    """
    if not isinstance(value, int | np.integer) or isinstance(value, bool):
        raise InvalidArgument(f"{what} must be an integer, not {_shown(value)}")
    if not _LOWEST <= value <= _HIGHEST:
        raise InvalidArgument(f"{what} must fit into 64 bits, and {int(value):#x} does not")
    return index(value)


def octets(what: str, value: object) -> bytes:
    """`value` as bytes."""
    try:
        return bytes(memoryview(value))  # type: ignore[arg-type]
    except TypeError:
        raise InvalidArgument(f"{what} must be bytes, not {_shown(value)}") from None


def batch(
    spaces: npt.ArrayLike, pages: npt.ArrayLike, known: Container[int], n_ever: int
) -> tuple[Counts, Ints]:
    """Space and page numbers of a batch as columns; all spaces are among the `known` ones, numbered below `n_ever`."""
    ids, numbers = column("spaces", spaces), column("pages", pages).astype(np.int64, copy=False)
    if len(ids) != len(numbers):
        raise InvalidArgument(f"there are {len(ids)} spaces for {len(numbers)} pages")
    if len(ids):
        # Looked at without their sign, negative ones are high, too: one pass over the column.
        if int(numbers.view(np.uint64).max()) >= END_OF_SPACE:
            raise InvalidArgument(f"page numbers lie between 0 and {END_OF_SPACE:#x}")
        for number in _each(ids, n_ever):
            if number not in known:
                raise InvalidArgument(f"there is no space {number}")
    return ids.astype(np.int32, copy=False), numbers


def _each(ids: npt.NDArray[Any], n_ever: int) -> list[int]:
    """Each number once, or in a short or wrong column as often as it comes; without a sort."""
    if len(ids) >= 16 and (ids == ids[0]).all():
        ids = ids[:1]
    elif len(ids) >= 16 and int(ids.min()) >= 0 and int(ids.max()) < n_ever:
        ids = np.flatnonzero(np.bincount(ids))
    numbers: list[int] = ids.tolist()
    return numbers


def column(name: str, values: npt.ArrayLike) -> npt.NDArray[Any]:
    """`values` as an array of whole numbers in one dimension; `InvalidArgument` for anything else.

    >>> column("pages", [3, 4]).tolist()
    [3, 4]
    >>> column("pages", [[3.5]])
    Traceback (most recent call last):
      ...
    cowscope.errors.InvalidArgument: pages must be one row of integers, not float64[1, 1] (EINVAL)
    """
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, OverflowError) as error:
        raise InvalidArgument(f"{name} must be one row of integers: {error}") from None
    if given.ndim != 1 or (given.dtype.kind not in "iu" and given.size):
        raise InvalidArgument(f"{name} must be one row of integers, not {given.dtype}{list(given.shape)}")
    return given


def decisions(values: npt.ArrayLike, count: int) -> Outcomes:
    """What is imposed on each fault of a batch of `count`, as a column."""
    given = column("decided", values)
    if len(given) != count:
        raise InvalidArgument(f"there are {len(given)} decisions for {count} faults")
    if not ((given == UNDECIDED) | (given == _COPIED) | (given == _REUSED)).all():
        raise InvalidArgument("a decision is Outcome.COPIED, Outcome.REUSED, or -1")
    return given.astype(np.int8, copy=False)
