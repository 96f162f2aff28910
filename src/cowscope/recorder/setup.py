"""Before the first event: which source of faults this user may have, and where the recording goes."""

from __future__ import annotations

import os
import re
import resource
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cowscope import __version__
from cowscope.errors import CowscopeError, MissingRight
from cowscope.linux import tracefs
from cowscope.linux.boot import boot_facts
from cowscope.linux.capabilities import Capability, effective, perf_event_paranoid
from cowscope.linux.perf_abi import Flag
from cowscope.linux.perf_probe import software_refusal
from cowscope.linux.tracefs import TraceEvent
from cowscope.recorder.channels import (
    ALLOCATION_EVENT,
    FAULT_EVENTS,
    NAMES,
    PAGE_RECORD_BYTES,
    RING_BYTES,
    SMALL_RING_BYTES,
    Channel,
    Plan,
    software_plan,
    tracepoint_plan,
)
from cowscope.recorder.probes import Probes, online_cpus
from cowscope.recorder.programs import RECORD_BYTES, FaultPrograms
from cowscope.recording.journal import Note, raw_directory

FAULT_BYTES = {"tracepoint": 64, "software": 40}
"""Bytes of a fault's record in each kind of source; the replay takes them from the records themselves."""

MAX_SOFTWARE_PARANOID = 2
"""The highest perf_event_paranoid at which every kernel lets a plain user observe own processes."""


@dataclass(frozen=True)
class Source:
    """Where the faults come from: "tracepoint" or "software", with what either needs."""

    kind: str
    plan: Plan
    rings: Mapping[Channel, int]
    events: Mapping[str, TraceEvent]
    programs: FaultPrograms | None = None
    """What brings faults and pages at a tracepoint; None: perf events of the plan do."""

    def probes(self, raw: Path) -> Probes:
        """What observes, with its raw files in `raw`; it closes the programs with itself."""
        sizes = {Channel.FAULT: FAULT_BYTES[self.kind], Channel.PAGE: PAGE_RECORD_BYTES}
        sizes |= RECORD_BYTES if self.programs else {}
        return Probes(self.plan, self.rings, raw, programs=self.programs, record_bytes=sizes)

    def close(self) -> None:
        """Take the programs out of the kernel, if no probes have done so."""
        if self.programs is not None:
            self.programs.close()

    def describe(self) -> Note:
        """What the raw files cannot tell by themselves: ids and field offsets of the tracepoints."""
        return {
            "source": self.kind,
            "events": {
                name: {"id": event.id, "fields": {key: field.offset for key, field in event.fields.items()}}
                for name, event in self.events.items()
            },
        }


def choose_source(*, first_touch: bool, flags: Flag, allocations: bool = True, kind: str = "auto") -> Source:
    """The best source that this user may have; `kind` forces one of "bpf", "tracepoint" and "software".

    Raises `MissingRight` with what to do when there is none.
    """
    if kind == "software":
        return _software(flags)
    try:
        return _tracepoint(first_touch, allocations, flags, kind)
    except MissingRight:
        if kind != "auto":
            raise
    return _software(flags)


def _tracepoint(first_touch: bool, allocations: bool, flags: Flag, kind: str) -> Source:
    wanted = (name for name in NAMES if allocations or name != ALLOCATION_EVENT)
    found = {name: tracefs.event(*name.split(":")) for name in wanted}
    events = {name: event for name, event in found.items() if event is not None}
    if FAULT_EVENTS[0] not in events:
        raise MissingRight(f"this kernel has no tracepoint {FAULT_EVENTS[0]}", "use --source software")
    capabilities = effective()
    if (
        not capabilities & {Capability.CAP_SYS_ADMIN, Capability.CAP_PERFMON}
        and (perf_event_paranoid() or 0) > -1
    ):
        raise MissingRight("tracepoints are refused to this user", "run as root or with CAP_PERFMON")
    rings = fitting_rings(RING_BYTES if Capability.CAP_IPC_LOCK in capabilities else SMALL_RING_BYTES)
    plan = tracepoint_plan(events, first_touch=first_touch, flags=flags, rings=rings)
    programs = None if kind == "tracepoint" else _programs(events, rings, first_touch, must=kind == "bpf")
    if programs is not None:
        plan = {channel: specs for channel, specs in plan.items() if channel not in RECORD_BYTES}
    return Source("tracepoint", plan, rings, events, programs)


def _programs(
    events: Mapping[str, TraceEvent], rings: Mapping[Channel, int], first_touch: bool, *, must: bool
) -> FaultPrograms | None:
    """The programs, or None where this kernel or user cannot have them; then raises, if they `must` be."""
    try:
        return FaultPrograms(events, first_touch=first_touch, ring_bytes=rings, cpus=online_cpus())
    except (MissingRight, OSError) as error:
        if not must:
            return None
        if isinstance(error, MissingRight):
            raise
        raise MissingRight(f"no BPF programs here: {error.strerror}", "use --source tracepoint") from error


def _software(flags: Flag) -> Source:
    capabilities = effective()
    privileged = bool(capabilities & {Capability.CAP_SYS_ADMIN, Capability.CAP_PERFMON})
    paranoid = perf_event_paranoid()
    if paranoid is None:
        raise MissingRight("this kernel has no perf events", "use a kernel with CONFIG_PERF_EVENTS")
    if not privileged and paranoid > MAX_SOFTWARE_PARANOID and software_refusal():
        raise MissingRight(
            f"kernel.perf_event_paranoid is {paranoid}, so this user may observe nothing",
            "run as root, or as root: sysctl kernel.perf_event_paranoid=2",
        )
    rings = fitting_rings(RING_BYTES if Capability.CAP_IPC_LOCK in capabilities else SMALL_RING_BYTES)
    limits = Flag(0) if privileged else Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV
    return Source("software", software_plan(flags=flags | limits, rings=rings), rings, {})


def fitting_rings(sizes: Mapping[Channel, int], *, at_most: int = 512 << 20) -> dict[Channel, int]:
    """Ring sizes of one CPU, halved until those of all CPUs fit into `at_most` bytes."""
    cpus = os.cpu_count() or 1
    rings = dict(sizes)
    while cpus * sum(rings.values()) > at_most and min(rings.values()) > 64 << 10:
        rings = {channel: max(n // 2, 64 << 10) for channel, n in rings.items()}
    return rings


def make_directory(output: Path | None, name: str) -> Path:
    """Create the recording's directory with its raw part; the default name tells program and time.

    Raises `CowscopeError` when it exists already or cannot be made.
    """
    if output is None:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(name).name).strip("-.") or "command"
        output = Path(f"{stem}-{datetime.now():%Y%m%d-%H%M%S}-{os.getpid()}.cow")
    try:
        str(output).encode()
        output.mkdir(parents=True)
        raw_directory(output).mkdir(mode=0o700)
    except UnicodeEncodeError:
        raise CowscopeError("the recording's name is not UTF-8: choose another with -o") from None
    except FileExistsError:
        raise CowscopeError(f"{output} exists already: choose another name with -o, or remove it") from None
    except OSError as error:
        raise CowscopeError(
            f"cannot create {output}: {error.strerror}; choose another place with -o"
        ) from None
    return output


def start_note(source: Source, *, command: Sequence[str], attached: bool, first_touch: bool) -> Note:
    """The journal's first chunk."""
    facts = asdict(boot_facts())
    host = {key: facts[key] for key in facts if key != "thp_shmem"} | {"cpus": os.cpu_count() or 0}
    return {
        "kind": "start",
        "cowscope": __version__,
        "time": time.monotonic_ns(),
        "started_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": list(command),
        "attached": attached,
        "first_touch": first_touch,
        "host": host,
        **source.describe(),
    }


def raise_file_limit() -> None:
    """As many open files as we may have: events take one per thread, CPU and kind."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
