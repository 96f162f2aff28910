"""cowscope: what fork() shares, what was copied after all, when, and by which code.

The system itself, ready to run:

>>> import cowscope
>>> parent = cowscope.Machine().start()
>>> at = parent.mmap(8192, cowscope.Protection.READ | cowscope.Protection.WRITE)
>>> parent.store(at, b"shared")
>>> child = parent.fork()
>>> child.store(at, b"C")
>>> parent.load(at, 6), child.load(at, 6)
(b'shared', b'Chared')

Names are imported when they are used, so that `import cowscope` alone costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowscope.errors import CallRefused, CowscopeError
    from cowscope.recorder.around import record
    from cowscope.vm import (
        POLICIES,
        Advice,
        BusError,
        File,
        Machine,
        Mapping,
        MappingFlag,
        Outcome,
        OutOfMemory,
        PageStates,
        Policy,
        Process,
        Protection,
        SegmentationFault,
        Thread,
    )
    from cowscope.vm.architecture import ARCHITECTURES, Architecture
    from cowscope.vm.compare import PolicyCosts, compare

__version__ = "0.1.0"

_HOME = {
    "Advice": "cowscope.vm",
    "ARCHITECTURES": "cowscope.vm.architecture",
    "Architecture": "cowscope.vm.architecture",
    "BusError": "cowscope.vm",
    "CallRefused": "cowscope.errors",
    "CowscopeError": "cowscope.errors",
    "File": "cowscope.vm",
    "Machine": "cowscope.vm",
    "Mapping": "cowscope.vm",
    "MappingFlag": "cowscope.vm",
    "Outcome": "cowscope.vm",
    "OutOfMemory": "cowscope.vm",
    "POLICIES": "cowscope.vm",
    "PageStates": "cowscope.vm",
    "Policy": "cowscope.vm",
    "PolicyCosts": "cowscope.vm.compare",
    "Process": "cowscope.vm",
    "Protection": "cowscope.vm",
    "SegmentationFault": "cowscope.vm",
    "Thread": "cowscope.vm",
    "compare": "cowscope.vm.compare",
    "record": "cowscope.recorder.around",
}

__all__ = [
    "ARCHITECTURES",
    "POLICIES",
    "Advice",
    "Architecture",
    "BusError",
    "CallRefused",
    "CowscopeError",
    "File",
    "Machine",
    "Mapping",
    "MappingFlag",
    "OutOfMemory",
    "Outcome",
    "PageStates",
    "Policy",
    "PolicyCosts",
    "Process",
    "Protection",
    "SegmentationFault",
    "Thread",
    "compare",
    "record",
]


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    """All public names, imported or not."""
    return sorted({*globals(), *__all__})
