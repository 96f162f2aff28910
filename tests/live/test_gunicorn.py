"""A real pre-forking server, started under `run` and met by `attach`."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live.helpers import (
    PROGRAMS,
    Program,
    cowscope_command,
    ended,
    environment,
    is_looked_at,
    label,
    shown,
    value,
    wait_until,
)

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

WORKERS = 4
REQUESTS = 16
SERVER = [
    *(sys.executable, "-m", "gunicorn", "--preload", "-w", str(WORKERS), "-b", "127.0.0.1:0"),
    *("--chdir", str(PROGRAMS), "wsgi_app:app"),
]


@pytest.fixture(autouse=True)
def _gunicorn(require: Callable[[object, str], None]) -> None:
    found = subprocess.run([sys.executable, "-c", "import gunicorn"], capture_output=True, check=False)
    require(found.returncode == 0, "needs gunicorn")


class Server:
    """What gunicorn says of itself on stderr: its address, its master and its workers."""

    def __init__(self, log: Path) -> None:
        """Wait until all workers have booted."""
        booted = re.compile(r"Booting worker with pid: (\d+)")
        wait_until(lambda: log.exists() and len(booted.findall(log.read_text())) == WORKERS, "the workers")
        text = log.read_text()
        self.workers = {int(pid) for pid in booted.findall(text)}
        listening = re.search(r"Listening at: (\S+) \((\d+)\)", text)
        assert listening is not None
        self.url, self.master = listening[1], int(listening[2])

    def ask(self) -> str:
        """One request."""
        with urllib.request.urlopen(self.url, timeout=30) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Server]:
    """A gunicorn of its own, ended after the test."""
    log = tmp_path / "log"
    with log.open("wb") as stream:
        process = subprocess.Popen(SERVER, stderr=stream, stdout=stream, env=environment())
    try:
        yield Server(log)
    finally:
        process.terminate()
        process.wait(30)


def test_run(tmp_path: Path) -> None:
    """Workers are processes that shared the application's memory at their fork and copied of it by walking it."""
    out, log = tmp_path / "r.cow", tmp_path / "log"
    command = [*SERVER[:3], "--log-file", str(log), *SERVER[3:]]
    with Program(cowscope_command("run", "-q", "-o", out, "--", *command)) as recorder:
        server = Server(log)
        assert [server.ask() for _ in range(REQUESTS)] == ["100000"] * REQUESTS
        os.kill(server.master, signal.SIGTERM)
        done = recorder.end()
    assert done.status == 0, done.stderr
    said = shown(out, "process")
    assert value(said, "lost_events") == 0
    assert label(said, "shared_at_fork_pages") == "exact"
    rows = {int(row["name"].split("[")[1][:-1]): row for row in said["by"]["process"]}
    assert server.workers <= rows.keys()
    # 200,000 dict objects of 64 bytes, each of which a worker's fork shares.
    pages_of_dicts = 200_000 * 64 // 4096
    assert all(rows[pid]["shared_at_fork"] >= pages_of_dicts for pid in server.workers)
    # A request is served by one worker, which then has written to each of the dicts. The master never does, so
    # that worker is never the last sharer.
    assert max(rows[pid]["copied"] for pid in server.workers) >= pages_of_dicts


def test_attach(running: Server, tmp_path: Path) -> None:
    """Forks that were done before are told as at least; the copies that follow are seen; the server serves on."""
    out = tmp_path / "r.cow"
    with Program(cowscope_command("attach", "-q", "-o", out, str(running.master))) as recorder:
        everybody = {running.master, *running.workers}
        wait_until(lambda: is_looked_at(out, *everybody), "the start")
        assert [running.ask() for _ in range(REQUESTS)] == ["100000"] * REQUESTS
        recorder.signal(signal.SIGINT)
        done = recorder.end()
    assert done.status == 0, done.stderr
    said = shown(out, "process")
    assert said["recording"]["attached"]
    assert label(said, "shared_at_fork_pages") == "at least"
    assert said["counts"]["forks"] == WORKERS
    pages_of_dicts = 200_000 * 64 // 4096
    rows = {int(row["name"].split("[")[1][:-1]): row for row in said["by"]["process"]}
    assert all(rows[pid]["shared_at_fork"] >= pages_of_dicts for pid in running.workers)
    assert max(rows[pid]["copied"] for pid in running.workers) >= pages_of_dicts
    assert value(said, "lost_events") == 0
    # Untouched: the same workers answer.
    assert running.ask() == "100000"
    os.kill(running.master, signal.SIGTERM)
    assert ended(running.master)
