"""Programs and cowscope itself, driven from outside: what every live test is written with."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cowscope
from cowscope.recording.journal import parse_journal, raw_directory

PROGRAMS = Path(__file__).parent / "programs"
BASE = 0x200000000000
"""Where the C programs put their mapping."""
ROUNDS_PAGES = 2_000
"""Pages of a `rounds` program, unless a test needs others."""
ROUNDS_STATUS = 7
"""With which it ends by itself."""
PATIENCE_S = 60
"""How long a test waits for what must happen; not a measure of anything."""


Compiled = Callable[[str], Path]
"""The fixture `compiled`: the path of a C program of that name."""


@dataclass(frozen=True)
class Finished:
    """A process that has ended: status as a shell tells it, and what it said."""

    status: int
    stdout: str
    stderr: str


def environment(**more: str) -> dict[str, str]:
    """Ours, with the package under test on the path wherever the program is started."""
    source = str(Path(cowscope.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": source, "PYTHONDONTWRITEBYTECODE": "1", **more}


def cowscope_command(*arguments: str | Path) -> list[str]:
    """The command line that runs cowscope as a user's would."""
    return [sys.executable, "-m", "cowscope", *map(str, arguments)]


def cowscope_run(*arguments: str | Path, stdin: str = "", **options: Any) -> Finished:
    """Run cowscope to its end."""
    done = subprocess.run(
        cowscope_command(*arguments),
        input=stdin.encode(),
        capture_output=True,
        timeout=PATIENCE_S,
        env=environment(),
        check=False,
        **options,
    )
    return finished(done.returncode, done.stdout, done.stderr)


def finished(code: int, stdout: bytes, stderr: bytes) -> Finished:
    """The status as a shell tells it; output as text, whatever bytes it has."""
    status = 128 - code if code < 0 else code
    return Finished(status, stdout.decode(errors="replace"), stderr.decode(errors="replace"))


def record(directory: Path, *command: str | Path, options: Sequence[str] = (), stdin: str = "") -> Finished:
    """`cowscope run`, quietly, into `directory`."""
    return cowscope_run("run", "-q", "-o", directory, *options, "--", *command, stdin=stdin)


def shown(directory: Path, *by: str) -> dict[str, Any]:
    """What `show --json` says."""
    done = cowscope_run("show", directory, "--json", *(f"--by={kind}" for kind in by))
    assert done.status == 0, done.stderr
    document: dict[str, Any] = json.loads(done.stdout)
    return document


def dumped(directory: Path, table: str) -> list[dict[str, str]]:
    """The rows of a table."""
    done = cowscope_run("dump", directory, table)
    assert done.status == 0, done.stderr
    names, *rows = (line.split("\t") for line in done.stdout.removesuffix("\n").split("\n"))
    return [dict(zip(names, row, strict=True)) for row in rows]


def value(document: Mapping[str, Any], figure: str) -> int:
    """One of the totals."""
    found: int = document["totals"][figure]["value"]
    return found


def label(document: Mapping[str, Any], figure: str) -> str:
    """How exactly one of the totals is known."""
    found: str = document["totals"][figure]["label"]
    return found


def at_mapping(document: Mapping[str, Any], name: str = f"[anon] {BASE:x}") -> dict[str, int]:
    """Pages of the mappings of that name, by what happened to them."""
    rows = [row for row in document["by"]["mapping"] if row["name"] == name]
    return {key: sum(row[key] for row in rows) for key in ("copied", "reused", "new", "other")}


def one_line(text: str) -> bool:
    """Whether it is exactly one line, and from cowscope."""
    return text.startswith("cowscope: ") and text.endswith("\n") and text.count("\n") == 1


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Look until `condition` holds. For states that nothing announces; a process's end has a pidfd."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.005)


def looked_at(directory: Path) -> set[int]:
    """Pids that the running recorder has taken a census of, by its journal."""
    chunks = parse_journal((raw_directory(directory) / "journal").read_bytes())
    return {int(note["pid"]) for note, _ in chunks if note["kind"] == "census"}


def is_looked_at(directory: Path, *pids: int) -> bool:
    """Whether the recorder has begun and taken a census of each of `pids`."""
    return (raw_directory(directory) / "journal").exists() and looked_at(directory) >= set(pids)


def record_gated(
    directory: Path,
    *command: str | Path,
    options: Sequence[str] = (),
    python: str = sys.executable,
    **program_options: Any,
) -> Finished:
    """As `record`, a KNOWN_GATED program: it goes on after each fork when the recorder has seen the child."""
    _, *rest = cowscope_command("run", "-q", "-o", directory, *options, "--", *command)
    arguments = [python, *rest]
    with Program(arguments, **{"more_environment": {"KNOWN_GATED": "1"}, **program_options}) as program:
        while (said := program.line()).startswith("forked "):
            child = int(said.split()[1])
            wait_until(partial(is_looked_at, directory, child), "a census of the child")
            program.send("g")
        done = program.end()
    return Finished(done.status, said + "\n" + done.stdout, done.stderr)


class Program:
    """A process that answers lines; killed at the end of the `with` if it still runs."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        *,
        more_environment: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        """Start it with pipes at its standard streams."""
        self.process = subprocess.Popen(
            [str(argument) for argument in arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(**(more_environment or {})),
            bufsize=0,
            **options,
        )
        self._text = b""

    def __enter__(self) -> Program:
        """Nothing more."""
        return self

    def __exit__(self, *_: object) -> None:
        """Leave nothing behind."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout, self.process.stderr):
            if stream is not None:
                stream.close()

    @property
    def pid(self) -> int:
        """Of the process that was started."""
        return self.process.pid

    def line(self) -> str:
        """The next line of its stdout."""
        assert self.process.stdout is not None
        while b"\n" not in self._text:
            ready, _, _ = select.select([self.process.stdout], [], [], PATIENCE_S)
            assert ready, "no answer"
            part = os.read(self.process.stdout.fileno(), 65536)
            assert part, f"ended without an answer, having said {self._text!r}"
            self._text += part
        line, _, self._text = self._text.partition(b"\n")
        return line.decode()

    def send(self, request: str) -> None:
        """Write to its stdin."""
        assert self.process.stdin is not None
        self.process.stdin.write(request.encode())

    def ask(self, request: str) -> None:
        """Send one byte to a `rounds` program and wait until it is done."""
        self.send(request)
        assert self.line() == f"done {request}"

    def signal(self, number: signal.Signals) -> None:
        """Send it."""
        self.process.send_signal(number)

    def end(self) -> Finished:
        """Close its stdin and wait for its end."""
        stdout, stderr = self.process.communicate(timeout=PATIENCE_S)
        return finished(self.process.returncode, self._text + stdout, stderr)


def fault_bytes(directory: Path) -> int:
    """Bytes of raw faults on disk so far."""
    return sum(file.stat().st_size for file in raw_directory(directory).glob("fault.*"))


def ended(pid: int) -> bool:
    """Whether process `pid`, no child of ours, ends in time."""
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ready, _, _ = select.select([fd], [], [], PATIENCE_S)
        return bool(ready)
    finally:
        os.close(fd)


def recorded_rounds(compiled: Compiled, out: Path, *options: str, pages: int = ROUNDS_PAGES) -> Program:
    """A recorder of a rounds program; it has not said that it is ready yet."""
    return Program(cowscope_command("run", "-q", "-o", out, *options, "--", compiled("rounds"), str(pages)))


def pid_in(line: str) -> int:
    """The pid in "ready PID"."""
    word, pid = line.split()
    assert word == "ready"
    return int(pid)
