"""The CPythons of this machine that the agent knows: the one of the tests, and others where they are installed."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

MINORS = (11, 12, 13)


def _found() -> list[str]:
    found = {sys.version_info[1]: sys.executable}
    places = [Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"]
    for minor in MINORS:
        installed = [
            str(p) for place in places for p in sorted(place.glob(f"3.{minor}.*/bin/python3.{minor}"))
        ]
        on_path = shutil.which(f"python3.{minor}")
        for python in [*installed, *([on_path] if on_path and "shims" not in on_path else [])]:
            found.setdefault(minor, python)
    return [found[minor] for minor in sorted(found) if minor in MINORS]


PYTHONS = _found()
