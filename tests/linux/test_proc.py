"""The text of /proc files, and our own process as a first reader of them."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowscope.errors import NoSuchProcess
from cowscope.linux import proc

MAPS = rb"""55e0c0000000-55e0c0002000 r--p 00001000 08:01 1234                       /usr/bin/a b
55e0c0002000-55e0c0003000 r-xp 00002000 103:00002 18446744073709551615       /tmp/new\012line (deleted)
7f0000000000-7f4000000000 ---p 00000000 00:00 0
7f4000000000-7f4000001000 rw-s 00000000 00:01 7                          /dev/zero (deleted)
7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]
ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]
"""


def test_maps_become_columns() -> None:
    """Each kind of line of a maps file lands whole in the columns."""
    maps = proc.parse_maps(MAPS)
    assert len(maps) == 6
    assert maps.names[0] == "/usr/bin/a b"
    assert maps.names[1] == "/tmp/new\nline (deleted)"
    assert maps.names[2:] == ["", "/dev/zero (deleted)", "[stack]", "[vsyscall]"]
    assert maps.protection.tolist() == [1, 5, 0, 3, 3, 4]
    assert maps.shared.tolist() == [False, False, False, True, False, False]
    assert maps.start[5] == 0xFFFFFFFFFF600000
    assert maps.device[1] == os.makedev(0x103, 2)
    assert maps.inode[1] == 2**64 - 1


def test_a_name_that_is_no_utf8_keeps_its_bytes() -> None:
    """Bytes that are no text come through surrogateescape and can be turned back."""
    (name,) = proc.parse_maps(b"1000-2000 r--p 00000000 00:01 1   /a\xff\n").names
    assert os.fsencode(name) == b"/a\xff"


def test_a_cut_line_is_left_out() -> None:
    """A file that was read while it grew may end in half a line."""
    assert len(proc.parse_maps(MAPS + b"7fffff000000-7ffff")) == 6


@given(st.binary() | st.lists(st.sampled_from(MAPS.split()), max_size=40).map(b" ".join))
def test_maps_parser_takes_anything(data: bytes) -> None:
    """No bytes make the parser fail, and its columns always agree in length."""
    maps = proc.parse_maps(data)
    assert len(maps.start) == len(maps.inode) == len(maps.protection) == len(maps)


def test_a_name_may_hold_brackets_and_newlines() -> None:
    """The name ends at the last bracket, whatever it holds."""
    stat = proc.parse_stat(b"42 (a) R (b\nc) Z 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22\n")
    assert (stat.pid, stat.comm, stat.state, stat.ppid, stat.pgrp) == (42, "a) R (b\nc", "Z", 1, 2)
    assert (stat.num_threads, stat.starttime_ticks, stat.vsize, stat.rss) == (17, 19, 20, 21)
    assert stat.has_ended


@given(st.binary() | st.builds(lambda a, b: a + b" (x) S " + b, st.binary(), st.binary()))
def test_stat_parser_takes_anything(data: bytes) -> None:
    """Bytes that are no stat line are refused with a ValueError and nothing else."""
    try:
        proc.parse_stat(data)
    except ValueError:
        return


def test_own_stat_agrees_with_psutil() -> None:
    """Two readers of the same file agree about what does not change."""
    stat, own = proc.parse_stat(proc.read_stat(os.getpid())), psutil.Process()
    assert stat.ppid == own.ppid()
    assert stat.comm.startswith(own.name()[:15])
    assert not stat.has_ended


def test_own_maps_hold_the_executable_and_the_stack() -> None:
    """The executable's path is among the names of our own mappings."""
    maps = proc.parse_maps(proc.read_maps(os.getpid()))
    assert proc.exe(os.getpid()) in maps.names
    assert "[stack]" in maps.names
    assert (maps.end > maps.start).all()


def test_a_vanished_process_is_told_by_its_own_error() -> None:
    """Every reader says NoSuchProcess, with the pid, of a process that was reaped."""
    child = subprocess.Popen(["true"])
    child.wait()
    for reader in (
        proc.read_maps,
        proc.read_stat,
        proc.cmdline,
        proc.exe,
        proc.threads,
        proc.children,
        proc.tree,
    ):
        with pytest.raises(NoSuchProcess) as caught:
            reader(child.pid)
        assert caught.value.pid == child.pid


def test_tree_lists_the_root_first(tmp_path: Path) -> None:
    """A grandchild is found, and each parent comes before its children."""
    grandchild = "import os, sys; print(os.getpid(), flush=True); sys.stdin.read()"
    child = (
        "import subprocess, sys, os; print(os.getpid(), flush=True);"
        f"subprocess.run([sys.executable, '-c', {grandchild!r}])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        pids = [int(process.stdout.readline()) for _ in range(2)]
        assert proc.tree(process.pid) == pids
        assert pids[0] in proc.children(os.getpid())
        assert proc._parents()[pids[0]] == [pids[1]]
        assert proc.cmdline(process.pid)[1:] == ("-c", child)


def test_page_tables_of_a_sparse_mapping() -> None:
    """A page in every 2 MiB has a table of 512 entries of its own, and the kernel counts them."""
    before = proc.parse_page_tables(proc.read_status(os.getpid()))
    n, step = 64, 2 << 20
    with mmap.mmap(-1, n * step, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_NOHUGEPAGE)
        for at in range(0, n * step, step):
            memory[at] = 1
        after = proc.parse_page_tables(proc.read_status(os.getpid()))
    assert after.entries - before.entries >= n * 512
    assert after.anonymous_pages > 0


@given(
    st.binary() | st.lists(st.sampled_from([b"VmPTE:", b"12", b"kB", b"\n", b"RssAnon:\t"])).map(b" ".join)
)
def test_page_tables_parser_takes_anything(data: bytes) -> None:
    """No bytes make the parser fail."""
    assert proc.parse_page_tables(data).entries >= 0
