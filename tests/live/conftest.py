"""What live tests need first: rights, and compiled programs."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.conftest import Require
from tests.live.helpers import PROGRAMS

from cowscope.lab import ksm
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


HUGE_POOL = Path("/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages")
FOLIOS = Path("/sys/kernel/mm/transparent_hugepage/hugepages-64kB/enabled")


@pytest.fixture
def all_memory_kinds(root: None, require: Require, tmp_path: Path) -> Iterator[None]:
    """Swap, hugetlb pages, folios of 64 KiB for memory that asks for huge pages, an idle ksmd; all as before after."""
    swap = tmp_path / "swap"
    with swap.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 64 << 20)
    swap.chmod(0o600)
    pages, folios = HUGE_POOL.read_text(), FOLIOS.read_text()
    try:
        HUGE_POOL.write_text("32")
        FOLIOS.write_text("madvise")
        made = subprocess.run(["mkswap", "-q", swap], check=False).returncode == 0
        require(made and subprocess.run(["swapon", swap], check=False).returncode == 0, "a place for swap")
        require(int(HUGE_POOL.read_text()) >= 16, "memory for 16 huge pages")
        require(not ksm.missing(), "a ksmd that is idle")
        yield
    finally:
        subprocess.run(["swapoff", swap], check=False, capture_output=True)
        FOLIOS.write_text(re.findall(r"\[(\w+)\]", folios)[0])
        HUGE_POOL.write_text(pages)
