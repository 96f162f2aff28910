"""What this machine and this user allow: facts are read once, and judged by a pure function.

Three levels, each giving all that the next one gives:

    TRACEPOINT   CAP_PERFMON (or root, or perf_event_paranoid -1), and a readable tracefs
    SOFTWARE     perf_event_paranoid at most 2 (or CAP_PERFMON), or 3 and more on a kernel that makes nothing of it
    STATES       nothing but the right to look at one's own processes

Source: perf_event_open(2); Documentation/admin-guide/perf-security.rst; in the kernel kernel/trace/
trace_event_perf.c (perf_trace_event_perm: raw tracepoint records want paranoid -1 of a plain user).
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from cowscope.errors import MissingRight
from cowscope.linux import bpf, capabilities, pagemap, pagemap_scan, tracefs
from cowscope.linux.boot import BootFacts, boot_facts
from cowscope.linux.capabilities import Capability

FAULT_EVENT = ("exceptions", "page_fault_user")
"""The tracepoint of page faults taken by user code; it is there on x86-64."""

_ATTACH_AS_ROOT = 'sudo "$(command -v cowscope)" attach PID'
_UNTIL_BOOT = "holds for every user, until the next boot"
_NO_FRAMES = (
    "in a tree that had forked before the recording began, pages of one address are taken for one page"
)
_NO_SYMBOLS = "writes by kernel code come without the name of the function"
_IN_CONTAINER = "docker run --cap-add=PERFMON --cap-add=SYS_ADMIN --security-opt seccomp=unconfined IMAGE"


class Level(IntEnum):
    """What can be recorded here; a higher one includes the lower."""

    STATES = 0
    SOFTWARE = 1
    TRACEPOINT = 2

    @property
    def meaning(self) -> str:
        """One clause for people."""
        return _MEANINGS[self]


_MEANINGS = {
    Level.TRACEPOINT: "every write fault with its error code, any process",
    Level.SOFTWARE: "own processes, by the page-fault software event and page states: an estimate",
    Level.STATES: "sharing of own processes only",
}


@dataclass(frozen=True)
class PerfSupport:
    """Whether perf events really open, as tried: a sandbox may refuse what every setting allows."""

    tracepoint: bool
    software: bool
    detail: str
    """What the kernel answered."""


PerfProbe = Callable[[], PerfSupport]


@dataclass(frozen=True)
class Host:
    """What was read from this machine, before any judgement."""

    boot: BootFacts
    capabilities: frozenset[Capability]
    is_root: bool
    paranoid: int | None
    mlock_kb: int | None
    kptr_restrict: int | None
    ptrace_scope: int | None
    scan: pagemap_scan.Category
    frames_visible: bool
    kallsyms_visible: bool
    fault_event: tracefs.TraceEvent | MissingRight | None
    """The tracepoint, or why it cannot be read, or None if this kernel has none."""
    bpf: str = ""
    """Why there are no BPF programs, as tried; empty if there are."""
    python: str = ""
    """The interpreter's own file, which can be given capabilities."""


@dataclass(frozen=True)
class Check:
    """One line of the answer; `ok` is None for a plain fact that is neither good nor bad."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""
    """One command that gives more; empty if nothing is missing or no command would help."""
    caution: str = ""
    """What else the remedy does."""
    without: str = ""
    """What holds as long as nobody does it."""


@dataclass(frozen=True)
class Abilities:
    """The level that holds here, and every check that led to it."""

    level: Level
    checks: tuple[Check, ...]


def read_host() -> Host:
    """Ask the kernel everything that `judge` wants to know. Changes nothing and needs no right."""
    return Host(
        boot=boot_facts(),
        capabilities=capabilities.effective(),
        is_root=os.geteuid() == 0,
        paranoid=capabilities.perf_event_paranoid(),
        mlock_kb=capabilities.perf_event_mlock_kb(),
        kptr_restrict=capabilities.kptr_restrict(),
        ptrace_scope=capabilities.ptrace_scope(),
        scan=pagemap_scan.supported(),
        frames_visible=pagemap.zero_frame() != 0,
        kallsyms_visible=parse_kallsyms_visible(_read_kallsyms_start()),
        fault_event=_fault_event(),
        bpf=bpf.refusal(),
        python=os.path.realpath(sys.executable),
    )


def _fault_event() -> tracefs.TraceEvent | MissingRight | None:
    try:
        return tracefs.event(*FAULT_EVENT)
    except MissingRight as error:
        return error


def _read_kallsyms_start() -> bytes:
    try:
        with open("/proc/kallsyms", "rb", buffering=0) as file:
            return file.read(4096) or b""
    except OSError:
        return b""


def parse_kallsyms_visible(data: bytes) -> bool:
    r"""Whether any whole line has an address other than zero, which is what those get who may not see it.

    >>> [parse_kallsyms_visible(text) for text in (b"0000 A a\n0000 A b\n", b"ff10 T c\n")]
    [False, True]
    """
    addresses = (line.split(b" ", 1)[0] for line in data.split(b"\n")[:-1])
    return any(address.strip(b"0") for address in addresses)


def abilities(probe_perf: PerfProbe | None = None) -> Abilities:
    """What this machine and user allow. `probe_perf` tries to open events; without it, settings alone
    decide."""
    return judge(read_host(), None if probe_perf is None else probe_perf())


def judge(host: Host, perf: PerfSupport | None = None) -> Abilities:
    """The level and the checks that follow from `host` and, if events were tried, from `perf`. Pure."""
    tracepoint, software = _tracepoint(host, perf), _software(host, perf)
    level = Level.TRACEPOINT if tracepoint.ok else Level.SOFTWARE if software.ok else Level.STATES
    return Abilities(level, (tracepoint, software, *_interfaces(host), *_settings(host)))


def _may_perf(host: Host) -> bool:
    return bool(host.capabilities & {Capability.CAP_PERFMON, Capability.CAP_SYS_ADMIN})


def _tracepoint(host: Host, perf: PerfSupport | None) -> Check:
    name = "write faults with error code"
    if host.fault_event is None:
        return Check(name, False, f"this kernel has no tracepoint {':'.join(FAULT_EVENT)}")
    unreadable = isinstance(host.fault_event, tracefs.Unreadable)
    if isinstance(host.fault_event, MissingRight) and (host.is_root or not unreadable):
        return Check(name, False, host.fault_event.what, host.fault_event.remedy)
    by_settings = _may_perf(host) or (host.paranoid is not None and host.paranoid < 0)
    if perf.tracepoint if perf is not None else by_settings and not unreadable:
        return Check(name, True, f"tracepoint {':'.join(FAULT_EVENT)}" if perf is None else perf.detail)
    detail = perf.detail if perf is not None else "raw tracepoints need CAP_PERFMON"
    if host.is_root:
        return Check(name, False, detail, _IN_CONTAINER)
    return _with_capabilities(host, name, detail)


def _with_capabilities(host: Host, name: str, detail: str) -> Check:
    """The rings want CAP_IPC_LOCK, a tracefs that is root's alone CAP_DAC_READ_SEARCH (both tried)."""
    rights = ["cap_perfmon", "cap_ipc_lock"]
    if isinstance(host.fault_event, tracefs.Unreadable):
        rights.append("cap_dac_read_search")
    python = shlex.quote(host.python)
    files = " and reads any file" if len(rights) > 2 else ""
    return Check(
        name,
        False,
        detail,
        f"sudo setcap {','.join(rights)}+ep {python}",
        f"whatever this Python runs then traces any process{files}; undo: sudo setcap -r {python}",
        "faults are those of own processes, what each did is inferred, and figures are estimates",
    )


def _software(host: Host, perf: PerfSupport | None) -> Check:
    name = "page faults of own processes"
    if host.paranoid is None:
        return Check(name, False, "this kernel has no perf events")
    allowed = _may_perf(host) or host.paranoid <= 2
    if perf.software if perf is not None else allowed:
        return Check(name, True, "software event page-faults")
    if allowed and perf is not None:
        return Check(name, False, f"settings allow it, but: {perf.detail}", _IN_CONTAINER)
    return Check(
        name,
        False,
        f"kernel.perf_event_paranoid is {host.paranoid}",
        "sudo sysctl kernel.perf_event_paranoid=2",
        _UNTIL_BOOT,
        "nothing can be recorded; recordings can be read, and the library works",
    )


def _interfaces(host: Host) -> tuple[Check, ...]:
    scan = host.scan
    guard = "with guard pages" if scan & pagemap_scan.Category.GUARD else "without guard pages"
    return (
        _bpf(host),
        _tracefs(host),
        Check("PAGEMAP_SCAN", bool(scan), guard if scan else "absent: a census of sparse memory is slow"),
        _frames(host),
        _symbols(host),
        _others(host),
    )


def _bpf(host: Host) -> Check:
    name = "BPF programs"
    if not host.bpf:
        return Check(name, True, "record faults at a third of the cost of perf events")
    remedy = "" if host.is_root else _ATTACH_AS_ROOT
    return Check(
        name, False, host.bpf, remedy, without="faults come from perf events, where those are allowed"
    )


def _tracefs(host: Host) -> Check:
    event = host.fault_event
    if not isinstance(event, MissingRight):
        return Check("tracefs", True, "readable")
    opens = event.remedy.startswith("sudo mount")
    caution = "your group may then read all that the kernel traces, until the next boot" if opens else ""
    without = "not needed with CAP_DAC_READ_SEARCH; without either no write fault has its error code"
    return Check("tracefs", False, event.what, event.remedy, caution, without if opens else "")


def _frames(host: Host) -> Check:
    name = "frame numbers"
    if host.frames_visible:
        return Check(name, True, "visible")
    remedy = "" if host.is_root else _ATTACH_AS_ROOT
    return Check(name, False, "hidden: needs CAP_SYS_ADMIN", remedy, without=_NO_FRAMES)


def _symbols(host: Host) -> Check:
    name = "kernel symbols"
    if host.kallsyms_visible:
        return Check(name, True, "visible")
    detail = "hidden: needs CAP_SYSLOG, or kptr_restrict 0 and perf_event_paranoid 1 or less"
    if host.is_root:
        return Check(name, False, detail, without=_NO_SYMBOLS)
    remedy = "sudo sysctl kernel.kptr_restrict=0 kernel.perf_event_paranoid=1"
    return Check(name, False, detail, remedy, f"helps attackers of the kernel; {_UNTIL_BOOT}", _NO_SYMBOLS)


def _others(host: Host) -> Check:
    name = "other users' processes"
    if Capability.CAP_SYS_PTRACE in host.capabilities:
        return Check(name, True, "may be looked into")
    scope = "" if host.ptrace_scope is None else f", kernel.yama.ptrace_scope is {host.ptrace_scope}"
    remedy = _IN_CONTAINER if host.is_root else _ATTACH_AS_ROOT
    return Check(
        name,
        False,
        f"closed: needs CAP_SYS_PTRACE{scope}",
        remedy,
        without="your own can be recorded",
    )


def _settings(host: Host) -> tuple[Check, ...]:
    boot = host.boot
    counts = {True: "exact", False: "averages inside large folios", None: "unknown: no kernel configuration"}
    return (
        Check("kernel", None, f"{boot.kernel} {boot.machine}"),
        Check("page size", None, f"{boot.page_size} bytes"),
        Check("huge pages", None, f"anonymous {boot.thp_enabled}, shared memory {boot.thp_shmem}"),
        Check("KSM", None, "runs: it shares pages that no fork shared" if boot.ksm_running else "off"),
        Check("swap", None, "on: swapped pages have no frame to compare" if boot.swap_on else "off"),
        Check("page map counts", None, counts[boot.exact_map_counts]),
        Check("perf_event_paranoid", None, _shown(host.paranoid)),
        Check("perf_event_mlock_kb", None, _shown(host.mlock_kb)),
        Check("kptr_restrict", None, _shown(host.kptr_restrict)),
    )


def _shown(value: int | None) -> str:
    return "absent" if value is None else str(value)
