"""ksmd, the kernel's daemon that merges same pages: had to pass over all memory for a moment, then stopped again.

| while it runs | is | because |
|---|---|---|
| pages_to_scan | more than there are | each pass is whole, so that the next one begins at the head of its list |
| sleep_millisecs | 0 | nobody waits |
| smart_scan | 0 | it leaves no page out that did not merge before |
| use_zero_pages | 0 | pages of zeros merge like others |

Everything is as before afterwards. It looks at the memory of the whole machine: whoever asked for merging gets it.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

from cowscope.errors import CowscopeError

_ROOM = Path("/sys/kernel/mm/ksm")
_SETTINGS = {"pages_to_scan": "1000000000", "sleep_millisecs": "0", "smart_scan": "0", "use_zero_pages": "0"}
_PASSES = 6
"""The first takes checksums, the second merges, the third what the second found merged elsewhere; one was under way."""
_PATIENCE_S = 30


def missing() -> str:
    """Why ksmd cannot be had to run here, or nothing."""
    if not (_ROOM / "run").exists():
        return "this kernel merges no same pages (CONFIG_KSM)"
    if not os.access(_ROOM / "run", os.W_OK):
        return "merging same pages needs root"
    run = _read("run")
    if run != "0":
        return f"ksmd is not idle on this machine (/sys/kernel/mm/ksm/run is {run})"
    if (_ROOM / "advisor_mode").exists() and "[none]" not in _read("advisor_mode"):
        return "an advisor decides about ksmd's pace here (/sys/kernel/mm/ksm/advisor_mode)"
    return ""


def scanned() -> int:
    """How many pages ksmd has looked at since boot; 0 where the kernel does not tell."""
    try:
        return int(_read("pages_scanned"))
    except (OSError, ValueError):
        return 0


def merge() -> None:
    """Have ksmd pass over all memory until nothing more merges. Raises `CowscopeError` if that takes too long."""
    kept = {name: _read(name) for name in _SETTINGS if (_ROOM / name).exists()}
    try:
        for name in kept:
            _write(name, _SETTINGS[name])
        wanted, give_up = int(_read("full_scans")) + _PASSES, time.monotonic() + _PATIENCE_S
        _write("run", "1")
        while int(_read("full_scans")) < wanted:
            if time.monotonic() > give_up:
                raise CowscopeError(f"ksmd did not pass over all memory {_PASSES} times in {_PATIENCE_S} s")
            os.sched_yield()
    finally:
        _write("run", "0")  # returns when the pass under way has ended
        for name, value in kept.items():
            _write(name, value)


def _read(name: str) -> str:
    return (_ROOM / name).read_text(encoding="utf-8").strip()


def _write(name: str, value: str) -> None:
    (_ROOM / name).write_text(value, encoding="utf-8")
