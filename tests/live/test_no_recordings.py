"""What is given to `show` and is no recording, or none that this version reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    ROUNDS_PAGES,
    ROUNDS_STATUS,
    Compiled,
    cowscope_command,
    cowscope_run,
    environment,
    one_line,
    record,
)

from cowscope.recording.schema import FORMAT_MINOR

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]


@pytest.fixture(scope="module")
def good(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with one round in it, to be copied and harmed."""
    out = tmp_path_factory.mktemp("good") / "r.cow"
    assert record(out, compiled("rounds"), str(ROUNDS_PAGES), "1").status == ROUNDS_STATUS
    return out


def no_directory(path: Path) -> None:
    """A file."""
    shutil.rmtree(path)
    path.write_text("hello")


def nothing_there(path: Path) -> None:
    """No such path."""
    shutil.rmtree(path)


def empty_directory(path: Path) -> None:
    """Nothing in it."""
    shutil.rmtree(path)
    path.mkdir()


def cut_table(path: Path) -> None:
    """Half of the faults' file."""
    file = path / "faults.parquet"
    os.truncate(file, file.stat().st_size // 2)


def missing_table(path: Path) -> None:
    """No faults."""
    (path / "faults.parquet").unlink()


def cut_meta(path: Path) -> None:
    """Half of meta.json."""
    file = path / "meta.json"
    os.truncate(file, file.stat().st_size // 2)


def other_major(path: Path) -> None:
    """Of a format to come."""
    file = path / "meta.json"
    meta = json.loads(file.read_text())
    meta["format"]["major"] += 1
    file.write_text(json.dumps(meta))


def swapped_tables(path: Path) -> None:
    """A table with the columns of another."""
    shutil.copy(path / "forks.parquet", path / "faults.parquet")


HARMS = (
    *(no_directory, nothing_there, empty_directory, cut_table, missing_table, cut_meta, other_major),
    swapped_tables,
)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_no_recording(harm: Callable[[Path], None], good: Path, tmp_path: Path) -> None:
    """Status 65 and one line that names the path; never a traceback."""
    path = tmp_path / "r.cow"
    shutil.copytree(good, path)
    harm(path)
    done = cowscope_run("show", path)
    assert (done.status, done.stdout) == (65, "")
    assert one_line(done.stderr), done.stderr
    assert str(path) in done.stderr


def test_other_major_names_both_versions(good: Path, tmp_path: Path) -> None:
    """Of a format to come, the line says which it is and which are read here."""
    path = tmp_path / "r.cow"
    shutil.copytree(good, path)
    other_major(path)
    said = cowscope_run("show", path).stderr
    assert f"2.{FORMAT_MINOR}" in said
    assert "1.x" in said


@pytest.mark.parametrize("command", [["show"], ["dump", "faults"]], ids=lambda command: command[0])
def test_output_to_a_closed_pipe(command: list[str], good: Path) -> None:
    """A reader that has gone is no reason for words."""
    reader, writer = os.pipe()
    os.close(reader)
    arguments = cowscope_command(command[0], good, *command[1:])
    done = subprocess.run(
        arguments, stdout=writer, stderr=subprocess.PIPE, env=environment(), timeout=PATIENCE_S, check=False
    )
    os.close(writer)
    assert done.stderr == b""
    assert done.returncode != 0
