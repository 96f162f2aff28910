"""Real Python servers and pools that fork: why they copy, as told by their own objects."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
from tests.conftest import Require
from tests.live.helpers import (
    PROGRAMS,
    Program,
    cowscope_command,
    environment,
    record,
    shown,
    value,
    wait_until,
)

from cowscope.runtimes.python import agent

pytestmark = [pytest.mark.live, pytest.mark.slow, pytest.mark.usefixtures("root")]

DICTS = 200_000
PAGES_OF_DICTS = DICTS * 64 // 4096


@pytest.fixture(autouse=True)
def compiled_agent(require: Require) -> None:
    """The agent was compiled at installation."""
    require(not agent.missing(), "a C compiler when cowscope was installed")


def causes(directory: Path) -> dict[str, int]:
    """Copied pages by cause; what is unknown stays under 3 in 100."""
    said = shown(directory, "cause", "type")
    assert value(said, "lost_events") == 0
    found = {row["name"]: row["copied"] for row in said["by"]["cause"]}
    assert found.get("unknown", 0) <= 0.03 * sum(found.values()), found
    return found


def test_gunicorn_with_flask(tmp_path: Path, require: Require) -> None:
    """A handler that reads a preloaded catalogue copies it for its reference counts: it should be shared."""
    require(find_spec("flask") and find_spec("gunicorn"), "Flask and gunicorn")
    out, log = tmp_path / "r.cow", tmp_path / "log"
    gunicorn = [sys.executable, "-m", "gunicorn", "--preload", "-w", "4", "-b", "127.0.0.1:0"]
    command = [*gunicorn, "--log-file", str(log), "--chdir", str(PROGRAMS), "flask_app:app"]
    with Program(cowscope_command("run", "-q", "-o", out, "--", *command)) as recorder:
        wait_until(lambda: log.exists() and log.read_text().count("Booting worker") == 4, "the workers")
        listening = re.search(r"Listening at: (\S+) \((\d+)\)", log.read_text())
        assert listening is not None
        for _ in range(16):
            with urllib.request.urlopen(listening[1], timeout=30) as answer:
                assert answer.read() == b"199933"
        os.kill(int(listening[2]), signal.SIGTERM)
        assert recorder.end().status == 0
    found = causes(out)
    assert found["reference count"] >= PAGES_OF_DICTS
    # Workers that are told to end tear all objects down: as many pages again, and a cause of its own.
    serving = sum(found.values()) - found["shutdown"]
    # How many workers the requests reach is chance; what each copies at its start (some 600 pages) is not.
    assert found["reference count"] + found["collector header"] >= 0.7 * serving, found
    types = [row["name"] for row in shown(out, "type")["by"]["type"]]
    assert "dict" in types[:2]


@pytest.fixture
def broker(tmp_path: Path, require: Require) -> Iterator[str]:
    """A Redis on loopback."""
    require(which("redis-server") and find_spec("celery"), "Redis and Celery")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", str(tmp_path), "--save", ""]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    for line in server.stdout:
        if "Ready to accept connections" in line:
            break
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.terminate()
        server.wait(30)
        server.stdout.close()


def test_celery_prefork(broker: str, tmp_path: Path) -> None:
    """A task that reads what was loaded before the fork."""
    out = tmp_path / "r.cow"
    celery = [sys.executable, "-m", "celery", "--workdir", str(PROGRAMS), "-A", "celery_app"]
    worker = [*celery, "worker", "--pool", "prefork", "-c", "2", "-l", "info"]
    given = environment(BROKER=broker)
    with Program(
        cowscope_command("run", "-q", "-o", out, "--", *worker),
        more_environment={"BROKER": broker},
    ) as recorder:
        client = (
            "import sys; sys.path.insert(0, sys.argv[1]); from celery_app import count; "
            "print([r.get(timeout=60) for r in [count.delay() for _ in range(8)]])"
        )
        done = subprocess.run(
            [sys.executable, "-c", client, str(PROGRAMS)],
            capture_output=True,
            text=True,
            env=given,
            check=False,
        )
        assert done.stdout == f"{[DICTS] * 8}\n", done.stderr
        recorder.signal(signal.SIGTERM)
        recorder.end()
    found = causes(out)
    assert found["reference count"] >= PAGES_OF_DICTS
    serving = sum(found.values()) - found.get("shutdown", 0)
    assert found["reference count"] + found["collector header"] >= 0.7 * serving, found


POOL = """
import multiprocessing, sys
import numpy
KIND = sys.argv[1]
data = numpy.arange(2_000_000, dtype=float)
if KIND == "list":
    data = data.tolist()
def total(part):
    mine = data[part::4]
    return float(mine.sum()) if KIND == "array" else sum(mine)
if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(4) as pool:
        assert sum(pool.map(total, range(4))) == 1999999 * 1000000.0
"""


def test_an_array_stays_shared_and_a_list_does_not(tmp_path: Path) -> None:
    """The same numbers: an array's are bare, a list's are objects with a reference count each."""
    copied = {}
    for kind in ("array", "list"):
        out = tmp_path / kind
        assert record(out, sys.executable, "-c", POOL, kind).status == 0
        copied[kind] = causes(out)
    pages_of_floats = 2_000_000 * 24 // 4096
    assert copied["list"]["reference count"] >= 0.9 * 4 * pages_of_floats
    assert sum(copied["array"].values()) <= sum(copied["list"].values()) // 10, copied
