"""The command line as a whole: light, documented, and never a traceback."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cowscope.cli.main import COMMANDS, cli
from cowscope.recording.journal import raw_directory
from cowscope.recording.meta import Meta
from cowscope.recording.schema import TABLES, empty
from cowscope.recording.writer import write_meta, write_table

README = Path(__file__).parents[2] / "README.md"
HEAVY = ("numpy", "duckdb", "rich", "psutil", "symbolic")


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """`python -m cowscope` with these arguments."""
    return subprocess.run(
        [sys.executable, "-m", "cowscope", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "NO_COLOR": "1", **(environment or {})},
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["run", "--help"], ["show", "--help"]])
def test_help_imports_click_alone(arguments: list[str]) -> None:
    """Nobody waits for numpy to read a page of text."""
    code = (
        "import sys, cowscope.cli.main as m\n"
        f"sys.argv[1:] = {arguments!r}\n"
        "try:\n    m.main()\nexcept SystemExit:\n    pass\n"
        f"print([name for name in {HEAVY!r} if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert "cowscope" in done.stdout


def test_help_lists_every_command() -> None:
    """With the words of `COMMANDS`."""
    told = run("--help").stdout
    for name, meaning in COMMANDS.items():
        assert f"  {name} " in told
        assert meaning in told


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_there_and_shows_an_example(name: str) -> None:
    """Each help ends with lines that can be copied."""
    done = CliRunner().invoke(cli, [name, "--help"])
    assert done.exit_code == 0
    assert "Example" in done.output
    assert f"cowscope {name}" in done.output


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_in_the_readme(name: str) -> None:
    """As one would type it."""
    assert f"cowscope {name}" in README.read_text(encoding="utf-8")


def recording(directory: Path) -> Path:
    """A recording of nothing."""
    for table in TABLES:
        write_table(directory, table, empty(table))
    write_meta(directory, Meta(command=("sleep", "1"), ended="command"))
    return directory


def test_a_recording_of_nothing_can_be_shown(tmp_path: Path) -> None:
    """In all three forms."""
    path = str(recording(tmp_path))
    assert "Nothing forked" in run("show", path).stdout
    assert json.loads(run("show", path, "--json").stdout)["totals"]["copied_pages"]["value"] == 0
    assert run("show", path, "--by", "process", "--csv").stdout.startswith("name,detail,copied")


@pytest.mark.parametrize("table", [*TABLES, "meta"])
def test_every_table_can_be_dumped(tmp_path: Path, table: str) -> None:
    """Names first; meta as it is."""
    done = run("dump", str(recording(tmp_path)), table)
    assert done.returncode == 0
    expected = Meta(command=("sleep", "1"), ended="command").to_json()
    assert done.stdout == (expected if table == "meta" else "\t".join(c.name for c in TABLES[table]) + "\n")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["show", "/nowhere\x1b[31m"], 65, "cowscope: /nowhere\\x1b[31m does not exist\n"),
        (["dump", "/etc", "faults"], 65, "cowscope: /etc is not a recording: there is no meta.json in it\n"),
        (["recover", "/etc/passwd"], 65, "cowscope: /etc/passwd is not a recording: it is no directory\n"),
        (["show", "x", "--csv"], 2, "--csv prints one table"),
        (["no-such-command"], 2, "No such command"),
        (["run"], 2, "Missing argument"),
        (["attach", "0"], 2, "0 is not in the range"),
    ],
)
def test_mistakes_are_told_in_words(arguments: list[str], status: int, message: str) -> None:
    """An exit status, a line on stderr that cannot steer the terminal, nothing on stdout."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (status, "")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_an_unfinished_recording_names_the_way_out(tmp_path: Path) -> None:
    """The command can be copied from the message."""
    raw_directory(tmp_path).mkdir()
    done = run("show", str(tmp_path))
    assert (done.returncode, done.stderr) == (
        65,
        f"cowscope: {tmp_path} was never finished: run cowscope recover {tmp_path}\n",
    )


def test_a_reader_that_has_gone_is_no_error(tmp_path: Path) -> None:
    """`cowscope dump … | head` ends without a word, and does not claim to be done."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "cowscope", "dump", str(recording(tmp_path)), "faults"],
            stdout=write_end,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(write_end)
    assert done.stderr == ""
    assert done.returncode == 141
