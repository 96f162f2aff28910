"""How the agent comes into the Python processes of a recording: by two variables of the environment.

`PYTHONPATH` leads to a `sitecustomize` of ours that loads the agent, `COWSCOPE_PYTHON` says where it writes. Under
`-I`, `-E` or `-S` Python heeds neither, and the recording comes without objects.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Mapping
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
"""What the observed processes load; the recorder itself never does."""

LIBRARY = INSIDE / "_cowscope_agent.abi3.so"
DIRECTORY, LINES = "COWSCOPE_PYTHON", "COWSCOPE_LINES"


def missing() -> str:
    """Why there is no agent, or nothing. It is compiled when cowscope is installed, if there is a compiler."""
    return (
        "" if LIBRARY.exists() else "not compiled: there was no C compiler, or no Python.h, at installation"
    )


def enter(directory: Path) -> None:
    """Have the agent list the objects of this very process, in `directory`; nothing where there is no agent."""
    if missing():
        return
    inside = runpy.run_path(str(INSIDE / "sitecustomize.py"), run_name="cowscope_inside")
    inside["let_in"](str(directory.absolute()), str(INSIDE))


def leave() -> None:
    """No more lists, until `enter` is called again."""
    loaded = sys.modules.get(LIBRARY.name.partition(".")[0])
    if loaded is not None:
        loaded.write_to("")


def environment(directory: Path, given: Mapping[str, str], *, lines: bool = True) -> dict[str, str]:
    """The environment `given` with what lets the agent in, to write into `directory`; without `lines` no lines.

    >>> environment(Path("/r"), {"PYTHONPATH": "lib"})["PYTHONPATH"].endswith("inside:lib")
    True
    """
    paths = [str(INSIDE), *filter(None, [given.get("PYTHONPATH", "")])]
    added = {"PYTHONPATH": os.pathsep.join(paths), DIRECTORY: str(directory.absolute())}
    return {**given, **added, **({} if lines else {LINES: "off"})}
