"""The vm against the live kernel: shipped scenarios, random ones, and the command that runs them."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from tests.contract.json_on_paper import problems

from cowscope.lab.kernel import Stage
from cowscope.lab.library import shipped
from cowscope.lab.lockstep import play
from cowscope.lab.search import search
from cowscope.views.page_tables import disagreement

pytestmark = pytest.mark.live

WRONG = """# Wrong on purpose.
A start
A mmap m 2 rw private anonymous
A store m[0] "a"
A fork B
B store m[0] "b" -> reused
"""


def check(*arguments: str) -> subprocess.CompletedProcess[str]:
    """`cowscope check` with these arguments."""
    command = [sys.executable, "-m", "cowscope", "check", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)


def test_all_shipped_scenarios_agree(all_memory_kinds: None) -> None:
    """Every one: swap, hugetlb pages and folios are there for them."""
    with Stage(merge_same_pages=True) as stage:
        reports = [play(scenario, stage, check_laws=True) for scenario in shipped()]
    wrong = ["\n".join(disagreement(report)) for report in reports if report.differences]
    assert wrong == []
    # A scenario is left out where the kernel's answer was chance (it says which), and for that alone.
    left_out = {report.scenario.name: report.not_checked for report in reports if not report.agreed}
    assert all(":" in reason for reason in left_out.values()), left_out
    assert len(left_out) <= len(reports) // 100, left_out


@pytest.mark.slow
def test_fifty_thousand_random_operations_agree(root: None) -> None:
    """Another seed each time: the tests of many days are one long run."""
    seed = int.from_bytes(os.urandom(3), "little")
    with Stage() as stage:
        found = search(stage, seed=seed, operations=50_000)
    told = "\n".join(disagreement(found.report)) if found.report else ""
    assert found.report is None, f"seed {seed}:\n{told}"
    assert found.operations >= 50_000
    seen = {str(word) for word in found.outcomes}
    assert {"no-fault", "copied", "reused", "zero-filled", "from-file", "mapped"} <= seen
    assert {"SEGV_MAPERR", "SEGV_ACCERR", "BUS_ADRERR", "EFAULT"} <= seen


def test_a_seed_gives_the_same_scenarios_again(root: None) -> None:
    """So that a disagreement can be looked at."""
    with Stage() as stage:
        one, other = (search(stage, seed=5, operations=500) for _ in range(2))
    assert (one.by_kind, one.outcomes) == (other.by_kind, other.outcomes)


def test_the_command_says_what_it_compared(root: None) -> None:
    """In words and as JSON; what cannot be checked has a reason."""
    done = check("--operations", "300", "--seed", "1", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    told = json.loads(done.stdout)
    assert list(problems(told, "check")) == []
    assert told["agreed"] is True
    assert told["random"]["operations"] >= 300
    assert told["not_compared"] == []
    for scenario in told["scenarios"]:
        assert scenario["shows"]
        assert scenario["agreed"] or scenario["not_checked"]


def test_a_disagreement_is_shown_whole(root: None, tmp_path: Path) -> None:
    """The scenario, the difference, both page tables, exit status 1."""
    path = tmp_path / "wrong.cow"
    path.write_text(WRONG)
    done = check(str(path))
    assert done.returncode == 1
    assert WRONG in done.stdout
    assert "outcome: the model says copied, the text reused" in done.stdout
    assert "  B  m[0]  Ax f2×1 b  Ax f2×1 b" in done.stdout


def test_merging_same_pages_wants_leave(root: None, tmp_path: Path) -> None:
    """It concerns the whole machine; without leave the scenario is listed as not checked, with the option's name."""
    path = tmp_path / "merge.cow"
    path.write_text('# Equal.\nA start\nA mmap m 2 rw private anonymous\nA store m[0] "a"\nmerge\n')
    done = check(str(path), "--json")
    assert done.returncode == 0
    (scenario,) = json.loads(done.stdout)["scenarios"]
    assert "--merge-same-pages" in scenario["not_checked"]


def test_a_mistake_in_a_scenario_is_told_with_its_place(tmp_path: Path) -> None:
    """Exit status 2, one line."""
    path = tmp_path / "typo.cow"
    path.write_text("A start\nA leap\n")
    done = check(str(path))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"cowscope: {path}:2:3: unknown word leap; expected one of exec, ")
    assert check(str(tmp_path / "none.cow")).returncode != 0


def test_a_time_that_is_no_number_is_refused() -> None:
    """It would never be over."""
    done = check("--minutes", "nan")
    assert (done.returncode, "--minutes" in done.stderr) == (2, True)


def test_ctrl_c_tells_what_was_compared_and_leaves_no_puppet_behind(root: None) -> None:
    """Whenever it comes; Python passes over one that comes while a destructor runs, and a person presses again."""
    interrupt_a_check(attempt=1)


def interrupt_a_check(attempt: int) -> None:
    """In the middle of random scenarios, at a terminal, where all processes of the foreground get it."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "cowscope", "check", "--minutes", "5", "--json"]
    checking = subprocess.Popen(
        command,
        stdin=theirs,
        stdout=subprocess.PIPE,
        stderr=theirs,
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    _read_until(ours, b" random operations, ")
    with open(f"/proc/{checking.pid}/task/{checking.pid}/children") as file:
        (template,) = map(int, file.read().split())
    pidfd = os.pidfd_open(template)
    os.write(ours, b"\x03")
    try:
        printed, _ = checking.communicate(timeout=15)
    except subprocess.TimeoutExpired:
        os.write(ours, b"\x03")
        printed, _ = checking.communicate(timeout=30)
    if not printed and attempt < 3:
        # Python may be in a callback of a library that turns the interrupt into an error of its own.
        os.close(pidfd)
        os.close(ours)
        interrupt_a_check(attempt + 1)
        return
    assert printed, os.read(ours, 1 << 16)
    told = json.loads(printed)
    assert (checking.returncode, told["interrupted"], told["agreed"]) == (130, True, True)
    assert len(told["scenarios"]) == len(shipped())
    assert told["random"]["operations"] > 40  # the batch that stderr told of has at least one a scenario
    assert list(problems(told, "check")) == []
    assert _read_until(ours, b"interrupted\r\n").endswith(b"cowscope: interrupted\r\n")
    assert select.select([pidfd], [], [], 10)[0]
    os.close(pidfd)
    os.close(ours)


def _read_until(terminal: int, text: bytes) -> bytes:
    """What a terminal shows up to `text`."""
    told = b""
    while text not in told:
        assert select.select([terminal], [], [], 60)[0], told
        told += os.read(terminal, 1 << 16)
    return told


def test_a_plain_user_compares_what_there_is_to_see(root: None) -> None:
    """Presence, sharing as far as bit 56 tells, bytes, signals; the rest is listed."""
    code = (
        "import ctypes, os, sys, hypothesis.strategies, numpy.random\n"
        "from cowscope.cli import check, main\n"
        "from cowscope.lab import kernel, library, search\n"
        "from cowscope.views import page_tables, text\n"
        "library.shipped()  # imports what reads files; afterwards the interpreter's own are closed\n"
        "os.setgroups([]); os.setresgid(65534, 65534, 65534); os.setresuid(65534, 65534, 65534)\n"
        "ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE, which setuid took away\n"
        "sys.argv = ['cowscope', 'check', '--operations', '300']\n"
        "main.main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "not compared: frames" in done.stdout
    assert "not compared: faults" in done.stdout


def test_the_live_kernel_tells_the_same_story(root: None) -> None:
    """At every step of what `cowscope explain` tells."""
    command = [sys.executable, "-m", "cowscope", "explain", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    told = json.loads(done.stdout)
    assert list(problems(told, "explain")) == []
    for chapter in told["chapters"]:
        assert chapter["kernel"]["agrees"], chapter["kernel"]["differences"]
        assert chapter["kernel"]["outcome"] == chapter["outcome"]
