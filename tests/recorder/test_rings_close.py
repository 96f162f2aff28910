"""Rings are given back whatever went wrong while they were emptied."""

from __future__ import annotations

import errno
import mmap
import os
from pathlib import Path

import pytest
from tests.conftest import Require

from cowscope.linux.perf_abi import Flag
from cowscope.recorder.probes import Probes
from cowscope.recorder.setup import choose_source
from cowscope.units import PAGE_SIZE


def drain_all(probes: Probes) -> None:
    """Every ring."""
    for line in probes.lines():
        probes.drain(line)


@pytest.mark.parametrize("kind", ["bpf", "tracepoint", "software"])
def test_a_disk_that_is_full_does_not_keep_a_ring_open(kind: str, tmp_path: Path, require: Require) -> None:
    """The error is still there when the rings are closed, as it is in a session that tells it later."""
    require(os.geteuid() == 0, "root")
    source = choose_source(first_touch=True, flags=Flag.INHERIT, kind=kind)
    probes = source.probes(tmp_path)
    try:
        probes.open_for(os.getpid())
        for line in probes.lines():
            os.dup2(os.open("/dev/full", os.O_WRONLY), line.fd)
        with mmap.mmap(-1, 64 * PAGE_SIZE) as memory:
            for page in range(64):
                memory[page * PAGE_SIZE] = 1
        with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)) as error:
            drain_all(probes)
    finally:
        probes.close()
    assert error.value.errno == errno.ENOSPC
