"""Events: the steps of one trapped access, for whoever listens.

Trapped → Classified → Allocated → Copied → Mapped → Flushed → Resumed, as far as they happen. Only `load` and
`store` tell them; faults in batches do not.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from cowscope.vm.rules import Outcome


@dataclass(frozen=True, slots=True)
class Trapped:
    """An access trapped; `error_code` has x86's bits: 1 present, 2 write, 4 user."""

    space: int
    address: int
    error_code: int


@dataclass(frozen=True, slots=True)
class Classified:
    """The handler knows what to do."""

    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Allocated:
    """The handler fetched a frame."""

    frame: int


@dataclass(frozen=True, slots=True)
class Copied:
    """The handler copied a page from one frame to another."""

    source: int
    target: int


@dataclass(frozen=True, slots=True)
class Mapped:
    """The page's entry now names `frame`."""

    page: int
    frame: int
    writable: bool


@dataclass(frozen=True, slots=True)
class Flushed:
    """The page's entry was another before: every TLB that may hold it has to forget it."""

    page: int
    shootdowns: int
    """Other processors that were interrupted for it."""


@dataclass(frozen=True, slots=True)
class Resumed:
    """The access starts again, from translation."""

    space: int
    address: int


Event: TypeAlias = Trapped | Classified | Allocated | Copied | Mapped | Flushed | Resumed
