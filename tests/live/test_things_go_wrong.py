"""What does not go as planned: the program under observation never suffers, and what was recorded is told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.live.helpers import (
    PATIENCE_S,
    Finished,
    Program,
    at_mapping,
    cowscope_command,
    cowscope_run,
    dumped,
    ended,
    environment,
    fault_bytes,
    is_looked_at,
    label,
    one_line,
    record,
    shown,
    value,
    wait_until,
)

from cowscope.recorder.channels import RING_BYTES, Channel
from cowscope.recorder.setup import FAULT_BYTES, fitting_rings
from cowscope.recording.journal import raw_directory

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("root")]

Compiled = Callable[[str], Path]
PAGES = 2_000
FAULT = FAULT_BYTES["tracepoint"]
STATUS = 7
"""With which rounds.c ends by itself."""


def recorded_rounds(compiled: Compiled, out: Path, *options: str, pages: int = PAGES) -> Program:
    """A recorder of a rounds program; it has not said that it is ready yet."""
    return Program(cowscope_command("run", "-q", "-o", out, *options, "--", compiled("rounds"), str(pages)))


def pid_in(line: str) -> int:
    """The pid in "ready PID"."""
    word, pid = line.split()
    assert word == "ready"
    return int(pid)


@pytest.fixture(scope="module")
def good(compiled: Compiled, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recording with one round in it, to be copied and harmed."""
    out = tmp_path_factory.mktemp("good") / "r.cow"
    assert record(out, compiled("rounds"), str(PAGES), "1").status == STATUS
    return out


# --- the command itself ---


def test_command_not_found(tmp_path: Path) -> None:
    """As a shell: 127, one line; and no directory is left."""
    done = record(tmp_path / "r.cow", "no-such-command-anywhere")
    assert (done.status, done.stdout) == (127, "")
    assert one_line(done.stderr)
    assert "no-such-command-anywhere" in done.stderr
    assert not (tmp_path / "r.cow").exists()


def test_command_not_executable(tmp_path: Path) -> None:
    """As a shell: 126, one line; and no directory is left."""
    script = tmp_path / "script"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o644)
    done = record(tmp_path / "r.cow", script)
    assert (done.status, one_line(done.stderr)) == (126, True)
    assert not (tmp_path / "r.cow").exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_command_killed_by_a_signal(number: signal.Signals, tmp_path: Path) -> None:
    """128 + n, and the recording says the same."""
    done = record(tmp_path / "r.cow", "/bin/sh", "-c", f"kill -{int(number)} $$")
    assert done.status == 128 + number
    assert shown(tmp_path / "r.cow")["recording"]["exit_status"] == 128 + number


def test_streams_and_status_pass_through(tmp_path: Path) -> None:
    """stdin reaches the command, its stdout and stderr are its own, and so is its exit status."""
    done = record(tmp_path / "r.cow", "/bin/sh", "-c", "cat; echo complaint >&2; exit 3", stdin="in\n")
    assert done == Finished(3, "in\n", "complaint\n")


def test_the_command_finds_what_it_would_find_alone(tmp_path: Path) -> None:
    """Limits, open files, signal mask and ignored signals, environment: the recorder leaves no trace in them."""
    script = (
        "ulimit -Sa; ulimit -Ha; ls /proc/$$/fd; env | grep -v ^_= | sort; umask; "
        "grep -E '^(SigBlk|SigIgn|SigCgt)' /proc/$$/status"
    )
    # A soft limit below the hard one, so that a recorder that raises it for itself would show.
    command = ["/bin/bash", "-c", 'ulimit -Sn 256; exec "$@"', "lowered"]
    inner = ["/bin/bash", "-c", script]
    recorder = cowscope_command("run", "-q", "-o", tmp_path / "r.cow", "--", *inner)

    def output(*words: str | Path) -> str:
        everything = [*command, *map(str, words)]
        done = subprocess.run(
            everything,
            capture_output=True,
            text=True,
            env=environment(),
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout

    assert output(*recorder) == output(*inner)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_run_reach_the_command(number: signal.Signals, compiled: Compiled, tmp_path: Path) -> None:
    """The command gets the signal and ends by it; the recording is whole."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        pid = pid_in(program.line())
        program.ask("r")
        program.signal(number)
        assert ended(pid)
        done = program.end()
    assert (done.status, done.stderr) == (128 + number, "")
    said = shown(out, "mapping")
    assert said["recording"]["exit_status"] == 128 + number
    assert at_mapping(said)["copied"] == PAGES


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_to_attach_end_the_recording(
    number: signal.Signals, compiled: Compiled, tmp_path: Path
) -> None:
    """The recorder ends with 0 and a whole recording; the program goes on, and ends as it would have."""
    out = tmp_path / "r.cow"
    with Program([compiled("rounds"), str(PAGES)]) as program:
        pid = pid_in(program.line())
        with Program(cowscope_command("attach", "-q", "-o", out, str(pid))) as recorder:
            wait_until(lambda: is_looked_at(out, pid), "the start")
            program.ask("r")
            recorder.signal(number)
            done = recorder.end()
        assert done == Finished(0, "", "")
        program.ask("r")
        assert program.end().status == STATUS
    said = shown(out, "mapping")
    assert said["recording"]["ended"] == "signal"
    # Only the round before the signal.
    assert at_mapping(said)["copied"] == PAGES


def test_attach_to_nobody(tmp_path: Path) -> None:
    """One line, status 1, no directory. The pid was that of a child of ours, which is reaped."""
    gone = subprocess.Popen(["/bin/true"])
    gone.wait()
    done = cowscope_run("attach", "-o", tmp_path / "r.cow", str(gone.pid))
    assert (done.status, one_line(done.stderr)) == (1, True)
    assert not (tmp_path / "r.cow").exists()


def test_attach_to_a_zombie(tmp_path: Path) -> None:
    """A process without memory is told from one that is not there."""
    gone = subprocess.Popen(["true"])
    os.waitid(os.P_PID, gone.pid, os.WEXITED | os.WNOWAIT)
    done = cowscope_run("attach", "-o", tmp_path / "r.cow", str(gone.pid))
    gone.wait()
    assert (done.status, one_line(done.stderr)) == (1, True)
    assert "has no memory to observe" in done.stderr
    assert not (tmp_path / "r.cow").exists()


def test_attached_process_ends(compiled: Compiled, tmp_path: Path) -> None:
    """With the last of the observed processes the recording ends by itself."""
    out = tmp_path / "r.cow"
    with Program([compiled("rounds"), str(PAGES)]) as program:
        pid = pid_in(program.line())
        with Program(cowscope_command("attach", "-q", "-o", out, str(pid))) as recorder:
            wait_until(lambda: is_looked_at(out, pid), "the start")
            program.ask("r")
            assert program.end().status == STATUS
            recorder.process.wait(PATIENCE_S)
            assert recorder.end().status == 0
    assert shown(out)["recording"]["ended"] == "processes"


def test_output_exists(tmp_path: Path) -> None:
    """One line, status 1; what is there is not touched, and the command is not started."""
    (tmp_path / "r.cow").mkdir()
    (tmp_path / "r.cow" / "mine").write_text("keep")
    done = record(tmp_path / "r.cow", "/bin/sh", "-c", f"echo ran > {tmp_path}/ran")
    assert (done.status, one_line(done.stderr)) == (1, True)
    assert (tmp_path / "r.cow" / "mine").read_text() == "keep"
    assert not (tmp_path / "ran").exists()


# --- the recorder ---


def test_recorder_killed(compiled: Compiled, tmp_path: Path) -> None:
    """The program goes on and ends by itself; show names recover; recover brings back all that was flushed."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        pid = pid_in(program.line())
        program.ask("r")
        # The child's copies and the parent's reuses.
        wait_until(lambda: fault_bytes(out) >= 2 * PAGES * FAULT, "the flush of a round")
        program.signal(signal.SIGKILL)
        program.process.wait(PATIENCE_S)
        program.ask("r")
        done = program.end()
    assert (done.status, done.stdout) == (128 + signal.SIGKILL, "bye\n")
    assert ended(pid)
    refused = cowscope_run("show", out)
    assert (refused.status, one_line(refused.stderr)) == (65, True)
    assert f"cowscope recover {out}" in refused.stderr
    recovered = cowscope_run("recover", out)
    assert recovered.status == 0, recovered.stderr
    said = shown(out, "mapping")
    assert said["recording"]["recovered"]
    assert label(said, "copied_pages") != "exact"
    assert "the recorder died" in said["totals"]["copied_pages"]["reason"]
    pages = at_mapping(said)
    # One round is on disk, and of the second nothing can be: it began when the recorder was gone.
    assert pages["copied"] == PAGES
    assert cowscope_run("recover", out).status == 65


def test_journal_cut_off(compiled: Compiled, tmp_path: Path) -> None:
    """A last chunk of the journal that is cut off costs that chunk alone."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        program.line()
        program.ask("r")
        wait_until(lambda: fault_bytes(out) >= 2 * PAGES * FAULT, "the flush of a round")
        program.signal(signal.SIGKILL)
        program.process.wait(PATIENCE_S)
        program.end()
    journal = raw_directory(out) / "journal"
    os.truncate(journal, journal.stat().st_size - 5)
    assert cowscope_run("recover", out).status == 0
    assert value(shown(out), "copied_pages") >= PAGES


def test_max_size(compiled: Compiled, tmp_path: Path) -> None:
    """The recording ends there and is written at once; it says so; the program goes on to its own status."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out, "--max-size", str(PAGES * FAULT)) as program:
        program.line()
        program.ask("r")
        wait_until((out / "meta.json").exists, "the end of the recording")
        program.ask("r")
        done = program.end()
    assert done.status == STATUS
    assert one_line(done.stderr)
    assert "--max-size" in done.stderr
    said = shown(out, "mapping")
    assert said["recording"]["ended"] == "size"
    assert 0 < at_mapping(said)["copied"] <= PAGES


def test_duration(compiled: Compiled, tmp_path: Path) -> None:
    """The recording ends then, without a word since it was asked for; the program goes on to its own status."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out, "--duration", "0.3") as program:
        program.line()
        wait_until((out / "meta.json").exists, "the end of the recording")
        program.ask("r")
        done = program.end()
    assert (done.status, done.stderr) == (STATUS, "")
    said = shown(out, "mapping")
    assert said["recording"]["ended"] == "duration"
    assert said["recording"]["ended_ns"] - said["recording"]["started_ns"] >= 300_000_000
    assert at_mapping(said)["copied"] == 0


@pytest.fixture
def small_disk(tmp_path: Path, require: Callable[[object, str], None]) -> Iterator[Path]:
    """A tmpfs of 1 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "small", disk], check=False)
    require(mounted.returncode == 0, "needs to mount a tmpfs")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_disk_full(compiled: Compiled, small_disk: Path) -> None:
    """The recording ends and says what to do; the program goes on to its own status; with room, recover works."""
    out = small_disk / "r.cow"
    pages = 2 * (1 << 20) // FAULT
    with recorded_rounds(compiled, out, pages=pages) as program:
        program.line()
        program.ask("r")
        program.ask("r")
        done = program.end()
    assert done.status == STATUS, done.stderr
    assert "Traceback" not in done.stderr
    assert "No space left" in done.stderr or "disk is full" in done.stderr
    subprocess.run(["mount", "-o", "remount,size=64m", small_disk], check=True)
    if not (out / "meta.json").exists():
        assert f"cowscope recover {out}" in done.stderr
        assert cowscope_run("recover", out).status == 0
    said = shown(out, "mapping")
    # Two MiB of faults per round cannot be on a disk of one, and those of the child come first: all of them were
    # copies, also where the disk was full before their allocations could be written.
    found = at_mapping(said)
    assert 0 < found["copied"] < pages
    assert found["reused"] == 0
    assert label(said, "copied_pages") != "exact"


def test_ring_overflow(compiled: Compiled, tmp_path: Path) -> None:
    """What a stopped recorder cannot take is counted as lost, and figures are at least; the program waits for
    nobody."""
    out = tmp_path / "r.cow"
    ring = fitting_rings(RING_BYTES)[Channel.FAULT] // FAULT
    pages = ring + ring // 8
    with recorded_rounds(compiled, out, pages=pages) as program:
        program.line()
        program.signal(signal.SIGSTOP)
        program.ask("r")
        program.signal(signal.SIGCONT)
        done = program.end()
    assert done.status == STATUS
    said = shown(out, "mapping")
    assert value(said, "lost_events") > 0
    reason = said["totals"]["copied_pages"]["reason"]
    assert "fault events were lost" in reason
    assert label(said, "copied_pages") == ("estimate" if "pages off" in reason else "at least")
    # The ring was full of the child's copies when it overflowed; a record of a loss and the faults of the fork
    # itself took a few places: fewer than 1 in 100.
    assert ring - ring // 100 <= at_mapping(said)["copied"] <= pages
    # The fork's own count is in another ring, and nothing of that was lost.
    assert label(said, "shared_at_fork_pages") == "exact"
    assert pages <= value(said, "shared_at_fork_pages")


# --- processes come and go ---


def test_many_children(compiled: Compiled, tmp_path: Path) -> None:
    """Of 5,000 children that live for a moment each is counted, and what its fork shared by the kernel's count."""
    out, n = tmp_path / "r.cow", 5_000
    assert record(out, compiled("swarm"), str(n)).status == 0
    said = shown(out)
    assert said["counts"]["forks"] == n
    assert said["counts"]["processes"] == n + 1
    assert value(said, "lost_events") == 0
    assert label(said, "shared_at_fork_pages") == "exact"
    pages = [int(row["anonymous_pages"]) for row in dumped(out, "forks")]
    assert value(said, "shared_at_fork_pages") == sum(pages)
    # The parent does the same each time, so after its first turn each fork shares the same pages.
    assert len(set(pages[2:])) == 1
    assert pages[2] > 0


def test_children_that_vanish_before_they_are_read(compiled: Compiled, tmp_path: Path) -> None:
    """The recorder is stopped while ten children live and die, so it can look at none of them: all are counted,
    what they shared is known from the kernel, and what is left of it is told as an estimate."""
    out, n = tmp_path / "r.cow", 10
    with recorded_rounds(compiled, out) as program:
        program.line()
        program.signal(signal.SIGSTOP)
        for _ in range(n):
            program.ask("s")
        program.signal(signal.SIGCONT)
        assert program.end().status == STATUS
    said = shown(out)
    assert said["recording"]["missed_census"] == n
    assert said["counts"]["forks"] == n
    assert label(said, "shared_at_fork_pages") == "exact"
    assert value(said, "shared_at_fork_pages") >= n * PAGES
    assert label(said, "still_shared_pages") == "estimate"


def test_nobody_can_be_looked_at(compiled: Compiled, tmp_path: Path) -> None:
    """Where parent and child are gone before a census, copies are still the kernel's word, and writes that no
    allocation followed are reuse of what the fork shared: right to the page, but said to be an estimate."""
    out = tmp_path / "r.cow"
    with recorded_rounds(compiled, out) as program:
        pid = pid_in(program.line())
        program.signal(signal.SIGSTOP)
        program.ask("r")
        assert program.process.stdin is not None
        program.process.stdin.close()
        assert program.line() == "bye"
        assert ended(pid)
        program.process.stdin = None
        program.signal(signal.SIGCONT)
        assert program.end().status == STATUS
    said = shown(out, "mapping")
    pages = at_mapping(said)
    assert (pages["copied"], pages["reused"]) == (PAGES, PAGES)
    assert label(said, "reused_pages") == "estimate"
    assert label(said, "shared_at_fork_pages") == "exact"


def test_a_pid_used_twice(compiled: Compiled, tmp_path: Path, require: Callable[[object, str], None]) -> None:
    """Two processes of one pid are two processes. In a pid namespace of its own nobody else takes the pid."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    able = shutil.which("unshare") and subprocess.run([*unshare, "true"], check=False).returncode == 0
    require(able, "needs unshare and the right to make a pid namespace")
    out = tmp_path / "r.cow"
    command = cowscope_command("run", "-q", "-o", out, "--", compiled("swarm"), "3", "again")
    done = subprocess.run(
        [*unshare, *command], capture_output=True, env=environment(), timeout=PATIENCE_S, check=True
    )
    first, second = done.stdout.split()
    assert first == second, "ns_last_pid brought another pid"
    processes = dumped(out, "processes")
    of_that_pid = [row for row in processes if row["pid"] == second.decode()]
    assert len(of_that_pid) == 2
    assert len({row["start_ns"] for row in of_that_pid}) == 2
    assert len(processes) == 1 + 3 + 1
    assert len({row["child"] for row in dumped(out, "forks")}) == 4


def test_vfork_in_a_pid_namespace(
    compiled: Compiled, tmp_path: Path, require: Callable[[object, str], None]
) -> None:
    """A child that shares the address space is known as one also where pids differ from the kernel's own."""
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    able = shutil.which("unshare") and subprocess.run([*unshare, "true"], check=False).returncode == 0
    require(able, "needs unshare and the right to make a pid namespace")
    out = tmp_path / "r.cow"
    command = cowscope_command("run", "-q", "-o", out, "--", compiled("known"), "vfork", str(PAGES))
    subprocess.run([*unshare, *command], env=environment(), timeout=PATIENCE_S, check=True)
    assert [row["shares_memory"] for row in dumped(out, "forks")] == ["yes"]
    assert shown(out)["counts"]["forks"] == 0


# --- hostile text ---


def test_hostile_names(compiled: Compiled, tmp_path: Path) -> None:
    """No view hands on what steers a terminal: escape codes, newlines and bytes that are no UTF-8."""
    evil = os.fsdecode(b"\x1b[31mred\nnext\xff\xfe")
    program_file = tmp_path / evil
    shutil.copy(compiled("rounds"), program_file)
    out = tmp_path / "r.cow"
    command = cowscope_command("run", "-o", out, "--", program_file, str(PAGES), "0", evil, "\x9b31m\r")
    with Program(command) as program:
        program.line()
        program.ask("n")
        program.ask("r")
        done = program.end()
    assert done.status == STATUS
    views = [done.stderr]
    for arguments in (("show", out), ("show", out, "--by=process", "--csv"), ("dump", out, "processes")):
        printed = cowscope_run(*arguments)
        assert printed.status == 0, printed.stderr
        views.append(printed.stdout)
    for view in views:
        assert "red" in view
        assert not {
            character for character in view if ord(character) < 0x20 or 0x7F <= ord(character) < 0xA0
        } - {
            "\n",
            "\t",
        }
        assert "\nnext" not in view
    raw = cowscope_run("show", out, "--json").stdout
    assert "\x1b" not in raw
    said = json.loads(raw)
    assert len(said["by"]["process"]) == 2
    assert len(dumped(out, "processes")) == 2


# --- recordings that are none ---


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
    assert "2.0" in said
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


def test_threads_that_come_and_go(tmp_path: Path) -> None:
    """An interpreter with threads that come and go is attached to whole, and ends as it would have."""
    script = "import sys, threading\nprint('ready', flush=True)\n"
    script += "for line in sys.stdin:\n t = threading.Thread(target=str); t.start(); t.join(); print('done', flush=True)\n"
    out = tmp_path / "r.cow"
    with Program([sys.executable, "-c", script]) as program:
        assert program.line() == "ready"
        with Program(cowscope_command("attach", "-q", "-o", out, str(program.pid))) as recorder:
            wait_until(lambda: is_looked_at(out, program.pid), "the start")
            for _ in range(20):
                program.send("x\n")
                assert program.line() == "done"
            recorder.signal(signal.SIGINT)
            assert recorder.end().status == 0
        assert program.end().status == 0
    assert shown(out)["counts"]["processes"] == 1
