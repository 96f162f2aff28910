"""How the agent comes into the Python processes of a recording: by two variables of the environment.

`PYTHONPATH` leads to a `sitecustomize` of ours that loads the agent, `COWSCOPE_PYTHON` says where it writes. Under
`-I`, `-E` or `-S` Python heeds neither, and the recording comes without objects.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

INSIDE = Path(__file__).parent / "inside"
"""What the observed processes load; the recorder itself never does."""

LIBRARY = INSIDE / "_cowscope_agent.abi3.so"
DIRECTORY = "COWSCOPE_PYTHON"


def missing() -> str:
    """Why there is no agent, or nothing. It is compiled when cowscope is installed, if there is a compiler."""
    return (
        "" if LIBRARY.exists() else "not compiled: there was no C compiler, or no Python.h, at installation"
    )


def environment(directory: Path, given: Mapping[str, str]) -> dict[str, str]:
    """The environment `given` with what lets the agent in, to write into `directory`.

    >>> environment(Path("/r"), {"PYTHONPATH": "lib"})["PYTHONPATH"].endswith("inside:lib")
    True
    """
    paths = [str(INSIDE), *filter(None, [given.get("PYTHONPATH", "")])]
    return {**given, "PYTHONPATH": os.pathsep.join(paths), DIRECTORY: str(directory.absolute())}
