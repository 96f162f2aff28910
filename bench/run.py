"""`make bench`: every speed that cowscope promises, as a ratio against a peer in the same run.

Each comparison runs its sides in turn, several rounds, and compares medians; the spread (fastest to slowest) is
printed beside. Nothing is asserted: machines differ, and the table says what this one did.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cowscope.recording.journal import raw_directory
from cowscope.runtimes.python.objects import read_censuses

HERE = Path(__file__).parent
COWSCOPE = [sys.executable, "-m", "cowscope"]
PERF_EVENT = ["-e", "exceptions:page_fault_user", "--filter", "error_code & 1 && error_code & 2"]
ROUNDS = 5


@dataclass(frozen=True)
class Row:
    what: str
    ours: str
    peer: str
    ratio: str
    promised: str


def main() -> None:
    if len(sys.argv) > 1 and sys.argv[1] == "--verdicts":
        print(json.dumps(verdicts_alone(Path(sys.argv[2]))))
        return
    with tempfile.TemporaryDirectory(prefix="cowscope-bench-") as name:
        rows = [
            row for part in (worst_case, prefork, python, verdicts, vm, start) for row in part(Path(name))
        ]
    table = Table(title="cowscope against its peers, medians of this run")
    for column in ("what", "cowscope", "peer", "ratio", "promised"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for row in rows:
        table.add_row(row.what, row.ours, row.peer, row.ratio, row.promised)
    Console(width=None if sys.stdout.isatty() else 130).print(table)


def worst_case(scratch: Path) -> list[Row]:
    """A program that does nothing but copy-on-write faults."""
    if os.geteuid() or not shutil.which("gcc"):
        return [Row("worst case: only copy-on-write faults", "needs root and gcc", "", "", "≤ 1.5")]
    program = scratch / "cow"
    subprocess.run(["gcc", "-O2", "-o", program, HERE / "cow.c"], check=True)
    recording = scratch / "worst.cow"
    copies = [str(program), "131072", "4"]
    sides: dict[str, Callable[[], float]] = {
        "bare": lambda: seconds(copies),
        "cowscope": lambda: seconds(recorded(recording, copies)),
    }
    if shutil.which("perf"):
        mount_tracefs()
        data = ["-o", str(scratch / "perf.data"), "-m", "2048"]
        sides["events"] = lambda: seconds(recorded(recording, copies, "--source", "tracepoint"))
        sides["perf"] = lambda: seconds(
            ["perf", "record", "-q", "-c", "1", *PERF_EVENT, *data, "--", *copies]
        )
    times = in_turn(sides)
    rows = [ratio("only copying faults, default settings", times, "cowscope", "bare", "≤ 1.5")]
    seconds(recorded(recording, copies))
    rows.append(Row("  events lost in it", str(lost(recording)), "", "", "0"))
    if "perf" in times:
        rows.append(ratio("  perf record of the same tracepoint, beside it", times, "perf", "bare", ""))
        rows.append(ratio("  default settings against perf record", times, "cowscope", "perf", "≤ 1"))
        rows.append(ratio("  by perf events instead of BPF programs", times, "events", "bare", ""))
    reuses = [*copies, "reuse"]
    times = in_turn(
        {"bare": lambda: seconds(reuses), "cowscope": lambda: seconds(recorded(recording, reuses))}
    )
    return [*rows, ratio("only faults that copy nothing (the cheapest)", times, "cowscope", "bare", "")]


def prefork(scratch: Path) -> list[Row]:
    """A prefork Python server's work."""
    command = [sys.executable, str(HERE / "prefork_timed.py")]
    recording = scratch / "prefork.cow"
    sides: dict[str, Callable[[], float]] = {
        "bare": lambda: seconds(command),
        "cowscope": lambda: seconds(recorded(recording, command, "--python", "off")),
        "all": lambda: seconds(recorded(recording, command)) - listing(recording),
    }
    if find_spec("memray"):
        data = str(scratch / "memray")
        memray = [sys.executable, "-m", "memray", "run", "-q", "-f", "--follow-fork", "-o", data]
        sides["memray"] = lambda: seconds([*memray, *command[1:]])
    times = in_turn(sides)
    rows = [
        ratio("prefork Python workload, --python off", times, "cowscope", "bare", "≤ 1.05"),
        ratio("  with objects and lines, but for listing objects", times, "all", "bare", "≤ 1.15"),
        Row("  events lost in it", str(lost(recording)), "", "", "0"),
    ]
    if "memray" in times:
        rows.append(ratio("  memray run --follow-fork, beside it", times, "memray", "bare", ""))
    return rows


def python(scratch: Path) -> list[Row]:
    """What the agent costs in Python processes: where there is nothing but faults, and to list objects."""
    command = [sys.executable, str(HERE / "python_faults.py")]
    recording = scratch / "python.cow"
    times = in_turn(
        {"bare": lambda: seconds(command), "cowscope": lambda: seconds(recorded(recording, command))}
    )
    objects = read_censuses(raw_directory(recording) / "python")
    rate = max(len(census.rows) / census.spent_ns * 1e3 for census in objects)
    return [
        ratio("Python that only faults, with objects and lines", times, "cowscope", "bare", "≤ 1.6"),
        Row("  objects listed before a fork", f"{rate:.1f} M/s", "", "", "≥ 5 M/s"),
    ]


def listing(recording: Path) -> float:
    """Seconds for which the program stood still while its objects were listed."""
    return sum(census.spent_ns for census in read_censuses(raw_directory(recording) / "python")) / 1e9


def verdicts(scratch: Path) -> list[Row]:
    """Raw bytes to verdicts, on one core, and perf's own reading of as many events."""
    program = scratch / "cow"
    if not program.exists():
        return [Row("raw bytes to verdicts", "needs root and gcc", "", "", "≥ 2.0 M/s")]
    recording = scratch / "verdicts.cow"
    subprocess.run(
        [
            *recorded(recording, [str(program), "524288", "4"]),
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    one_core = ["taskset", "-c", "0", sys.executable, __file__, "--verdicts", str(recording)]
    found = [
        json.loads(subprocess.run(one_core, check=True, capture_output=True, text=True).stdout)
        for _ in range(3)
    ]
    rate = statistics.median(item["faults"] / item["seconds"] for item in found)
    memory = max(item["bytes_per_fault"] for item in found)
    peer, ratio_text = "", ""
    if shutil.which("perf"):
        data = str(scratch / "perf.data")
        record = [
            "perf",
            "record",
            "-q",
            "-c",
            "1",
            *PERF_EVENT,
            "-o",
            data,
            "-m",
            "4096",
            "--",
            str(program),
            "524288",
            "4",
        ]
        subprocess.run(record, check=True, stdout=subprocess.DEVNULL)
        begin = time.monotonic()
        script = subprocess.run(["perf", "script", "-i", data], check=True, capture_output=True)
        perf_rate = script.stdout.count(b"\n") / (time.monotonic() - begin)
        peer, ratio_text = f"{perf_rate / 1e6:.2f} M/s (perf script)", f"{rate / perf_rate:.1f}"
    return [
        Row("raw bytes to verdicts, one core", f"{rate / 1e6:.2f} M/s", peer, ratio_text, "≥ 2.0 M/s"),
        Row("  memory a fault", f"{memory:.0f} bytes", "", "", "≤ 200 bytes"),
    ]


def verdicts_alone(recording: Path) -> dict[str, float]:
    """In a process of its own: build the tables in memory and replay them."""
    from cowscope.recorder.finalise import build
    from cowscope.replay.engine import replay_tables

    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    tables, _ = build(recording, name_code=False)
    replayed = replay_tables(tables)
    spent = time.monotonic() - begin
    faults = len(replayed.verdict)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    return {"faults": faults, "seconds": spent, "bytes_per_fault": grown / faults}


def vm(_: Path) -> list[Row]:
    """The system itself: its fork beside the live kernel's, its faults, and what it costs to map much."""
    ours, kernel = measured("fork-model", 64), measured("fork-kernel", 1)
    rows = [
        Row(
            "vm: fork of 64 GiB in 4 KiB pages, per GiB",
            milliseconds(ours),
            f"{milliseconds(kernel)} (os.fork, 1 GiB)",
            f"{statistics.median(ours) / statistics.median(kernel):.2f}",
            "< 1",
        )
    ]
    for what, rate in zip(("zero-filled", "copied", "reused"), measured("batches"), strict=True):
        rows.append(Row(f"  pages {what} in batches", f"{rate / 1e6:.1f} M/s", "", "", "≥ 10 M/s"))
    store, load = measured("lone")
    rows.append(Row("  a store that traps, copies, starts again", f"{store * 1e6:.1f} µs", "", "", "≤ 30 µs"))
    rows.append(Row("  a load that hits", f"{load * 1e6:.1f} µs", "", "", "≤ 3 µs"))
    for mapped in (1, 32, 1024):
        name = f"  fork of 1 GiB touched, {mapped:,} GiB mapped"
        rows.append(Row(name, milliseconds(measured("fork-model", 1, mapped)), "", "", "flat"))
    return rows


def measured(what: str, *arguments: int) -> list[float]:
    """The numbers that `vm_rows.py` prints, from a process of its own."""
    command = [sys.executable, str(HERE / "vm_rows.py"), what, *map(str, arguments)]
    return [
        float(line)
        for line in subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    ]


def milliseconds(times: list[float]) -> str:
    return f"{statistics.median(times) * 1e3:.2f} ms ({min(times) * 1e3:.2f}-{max(times) * 1e3:.2f})"


def start(_: Path) -> list[Row]:
    """How long a person waits for --help."""
    times = in_turn(
        {
            "cowscope": lambda: wall([*COWSCOPE, "--help"]),
            "click": lambda: wall([sys.executable, "-c", "import click"]),
        },
        rounds=20,
    )
    return [ratio("cowscope --help against import click", times, "cowscope", "click", "< 2")]


def in_turn(sides: dict[str, Callable[[], float]], rounds: int = ROUNDS) -> dict[str, list[float]]:
    """Run every side once a round, after one round that does not count."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            spent = run()
            if number:
                times[name].append(spent)
    return times


def ratio(what: str, times: dict[str, list[float]], ours: str, peer: str, promised: str) -> Row:
    a, b = statistics.median(times[ours]), statistics.median(times[peer])
    return Row(what, spread(times[ours]), f"{spread(times[peer])} ({peer})", f"{a / b:.2f}", promised)


def spread(times: list[float]) -> str:
    return f"{statistics.median(times):.3f} s ({min(times):.3f}-{max(times):.3f})"


def recorded(recording: Path, command: list[str], *options: str) -> list[str]:
    shutil.rmtree(recording, ignore_errors=True)
    return [*COWSCOPE, "run", "-q", "--keep-raw", *options, "-o", str(recording), "--", *command]


def seconds(command: list[str]) -> float:
    """What the program itself measured and printed."""
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def wall(command: list[str]) -> float:
    begin = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - begin


def lost(recording: Path) -> int:
    """Events that the last recording of a side lost."""
    meta: dict[str, dict[str, int]] = json.loads((recording / "meta.json").read_text())
    return sum(meta["lost"].values())


def mount_tracefs() -> None:
    """perf looks for its events in a mounted tracefs; cowscope needs none."""
    if not Path("/sys/kernel/tracing/events").exists():
        subprocess.run(["mount", "-t", "tracefs", "nodev", "/sys/kernel/tracing"], check=True)


if __name__ == "__main__":
    main()
