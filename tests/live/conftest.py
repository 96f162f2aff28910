"""What live tests need first: rights, and compiled programs."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.helpers import PROGRAMS

from cowscope.linux import tracefs
from cowscope.recorder.channels import ALLOCATION_EVENT, FAULT_EVENTS

Compile = Callable[[str], Path]


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory, require: Callable[[object, str], None]) -> Compile:
    """`compiled(name)`: path of the C program of that name, built once a session."""
    require(shutil.which("gcc"), "needs gcc")
    directory = tmp_path_factory.mktemp("programs")

    def build(name: str) -> Path:
        binary = directory / name
        if not binary.exists():
            subprocess.run(["gcc", "-O1", "-Wall", "-o", binary, PROGRAMS / f"{name}.c"], check=True)
        return binary

    return build


@pytest.fixture(scope="session")
def root(require: Callable[[object, str], None]) -> None:
    """Every fault with its error code and its allocation can be recorded here."""
    require(os.geteuid() == 0, "needs root")
    for name in (FAULT_EVENTS[0], ALLOCATION_EVENT):
        require(tracefs.event(*name.split(":")), f"needs tracepoint {name}")
