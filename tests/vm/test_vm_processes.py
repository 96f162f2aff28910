"""vfork, zombies, orphans and threads."""

from __future__ import annotations

import pytest
from tests.vm.mapped import AT, put

from cowscope.errors import (
    NoChild,
    NotRunning,
)
from cowscope.vm import Process


def test_a_vfork_child_lives_in_its_parent_who_waits(process: Process) -> None:
    put(process, 0, 1)
    child = process.vfork()
    child.store(AT, b"child")
    with pytest.raises(NotRunning, match="vfork"):
        process.load(AT)
    child.exec()
    assert process.load(AT, 5) == b"child"
    assert child.mappings() == []
    child.exit()
    assert process.wait(child.pid) == (child.pid, 0)


def test_zombies_wait_and_orphans_do_not(process: Process) -> None:
    child = process.fork()
    grandchild = child.fork()
    assert process.wait() is None
    child.exit(7)
    with pytest.raises(NotRunning):
        child.fork()
    assert process.wait() == (child.pid, 7)
    with pytest.raises(NoChild):
        process.wait()
    assert grandchild.parent is None
    grandchild.exit()
    assert list(process.machine.processes) == [process.pid]


def test_threads_end_with_their_process(process: Process) -> None:
    put(process, 0, 1)
    thread = process.thread()
    thread.store(AT, b"x")
    process.exec()
    with pytest.raises(NotRunning):
        thread.load(AT)
