"""What this machine and this user allow: facts are read once, and judged by a pure function.

Three levels, each giving all that the next one gives:

    TRACEPOINT   CAP_PERFMON (or root, or perf_event_paranoid -1), and a readable tracefs
    SOFTWARE     perf_event_paranoid at most 2 (or CAP_PERFMON)
    STATES       nothing but the right to look at one's own processes

Source: perf_event_open(2); Documentation/admin-guide/perf-security.rst; in the kernel kernel/trace/
trace_event_perf.c (perf_trace_event_perm: raw tracepoint records want paranoid -1 of a plain user).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from cowscope.errors import MissingRight
from cowscope.linux import capabilities, pagemap, pagemap_scan, tracefs
from cowscope.linux.boot import BootFacts, boot_facts
from cowscope.linux.capabilities import Capability

FAULT_EVENT = ("exceptions", "page_fault_user")
"""The tracepoint of page faults taken by user code; it is there on x86-64."""

_AS_ROOT = 'sudo "$(command -v cowscope)" doctor'
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


@dataclass(frozen=True)
class Check:
    """One line of the answer; `ok` is None for a plain fact that is neither good nor bad."""

    name: str
    ok: bool | None
    detail: str
    remedy: str = ""
    """One command that gives more; empty if nothing is missing or no command would help."""


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


def _more_rights(host: Host) -> str:
    return _IN_CONTAINER if host.is_root else _AS_ROOT


def _tracepoint(host: Host, perf: PerfSupport | None) -> Check:
    name = "write faults with error code"
    if host.fault_event is None:
        return Check(name, False, f"this kernel has no tracepoint {':'.join(FAULT_EVENT)}")
    if isinstance(host.fault_event, MissingRight):
        return Check(name, False, host.fault_event.what, host.fault_event.remedy)
    if perf is not None:
        return Check(name, perf.tracepoint, perf.detail, "" if perf.tracepoint else _more_rights(host))
    if _may_perf(host) or (host.paranoid is not None and host.paranoid < 0):
        return Check(name, True, f"tracepoint {':'.join(FAULT_EVENT)}, number {host.fault_event.id}")
    return Check(name, False, "raw tracepoints need CAP_PERFMON", _more_rights(host))


def _software(host: Host, perf: PerfSupport | None) -> Check:
    name = "page faults of own processes"
    if host.paranoid is None:
        return Check(name, False, "this kernel has no perf events")
    allowed = _may_perf(host) or host.paranoid <= 2
    if allowed and perf is not None and perf.software:
        return Check(name, True, perf.detail)
    if allowed and perf is None:
        return Check(name, True, "software event page-faults")
    if allowed and perf is not None:
        return Check(name, False, f"settings allow it, but: {perf.detail}", _IN_CONTAINER)
    detail = f"kernel.perf_event_paranoid is {host.paranoid}"
    return Check(name, False, detail, "sudo sysctl kernel.perf_event_paranoid=2")


def _interfaces(host: Host) -> tuple[Check, ...]:
    event, scan = host.fault_event, host.scan
    readable = not isinstance(event, MissingRight)
    guard = "with guard pages" if scan & pagemap_scan.Category.GUARD else "without guard pages"
    root = "" if host.is_root else _AS_ROOT
    return (
        Check(
            "tracefs",
            readable,
            event.what if isinstance(event, MissingRight) else "readable",
            event.remedy if isinstance(event, MissingRight) else "",
        ),
        Check("PAGEMAP_SCAN", bool(scan), guard if scan else "absent: a census of sparse memory is slow"),
        Check("frame numbers", host.frames_visible, *_seen(host.frames_visible, "CAP_SYS_ADMIN", root)),
        Check("kernel symbols", host.kallsyms_visible, *_seen(host.kallsyms_visible, "CAP_SYSLOG", root)),
        _others(host),
    )


def _seen(visible: bool, capability: str, remedy: str) -> tuple[str, str]:
    return ("visible", "") if visible else (f"hidden: needs {capability}", remedy)


def _others(host: Host) -> Check:
    scope = "" if host.ptrace_scope is None else f", kernel.yama.ptrace_scope is {host.ptrace_scope}"
    allowed = Capability.CAP_SYS_PTRACE in host.capabilities
    detail = "may be looked into" if allowed else f"closed: needs CAP_SYS_PTRACE{scope}"
    return Check("other users' processes", allowed, detail, "" if allowed else _more_rights(host))


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
