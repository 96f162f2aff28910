"""Which perf events go into which ring.

| channel | ring holds | wakes us |
|---|---|---|
| fault | page faults, user and kernel | when half full |
| page | pages allocated without zeroing: the kernel's own sign of a copy | when half full |
| task | forks, exits, execs and names | at once: a new child wants its census |
| map | mappings made and changed, unmaps and the like, page counts of a fork | when half full |

Each channel has one ring per CPU, so a ring of faults holds records of one size and nothing else. All
times are of one clock, so that rings can be merged.

Not modelled: what the kernel writes on behalf of I/O (no fault), and page-table changes by reclaim, KSM or
userfaultfd. Only a census sees those.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from cowscope.linux.perf_abi import Attributes, EventType, Flag, Sample, SoftwareEvent
from cowscope.linux.tracefs import TraceEvent

KIB, MIB = 1 << 10, 1 << 20

FAULT_EVENTS = ("exceptions:page_fault_user", "exceptions:page_fault_kernel")
ALLOCATION_EVENT = "kmem:mm_page_alloc"
NEW_TASK_EVENT = "task:task_newtask"
FORK_COUNT_EVENT = "kmem:rss_stat"
OPERATION_EVENTS = {
    "syscalls:sys_enter_munmap": None,
    "syscalls:sys_enter_madvise": "behavior == 4",
    "syscalls:sys_enter_mremap": None,
    "syscalls:sys_exit_mremap": None,
    "syscalls:sys_enter_brk": None,
    "syscalls:sys_enter_mmap": "flags & 16",
}
"""System calls that drop or move pages: MADV_DONTNEED is 4, MAP_FIXED is 16."""

WRITE_PROTECT_FAULT = "error_code & 1 && error_code & 2"
COPY_ALLOCATION = "order == 0 && gfp_flags & 8 && !(gfp_flags & 256)"
"""One movable page (a user's, not the kernel's own) that the allocator need not zero: __GFP_MOVABLE is
bit 3, __GFP_ZERO bit 8, both unchanged since Linux 4.4."""
NEW_PROCESS = "!(clone_flags & 65536)"
"""Not CLONE_THREAD."""
OTHER_ADDRESS_SPACE = "curr == 0"
"""Page counts of an address space that is not the running task's: at a fork, the child's."""

NAMES = (*FAULT_EVENTS, ALLOCATION_EVENT, NEW_TASK_EVENT, FORK_COUNT_EVENT, *OPERATION_EVENTS)


class Channel(StrEnum):
    """The rings of a CPU; the value is the stem of the raw file."""

    FAULT = "fault"
    PAGE = "page"
    TASK = "task"
    MAP = "map"


PAGE_RECORD_BYTES = 24
"""A record of the page ring: header, pid and tid, time."""

RING_BYTES = {Channel.FAULT: 8 * MIB, Channel.PAGE: 8 * MIB, Channel.TASK: MIB, Channel.MAP: 2 * MIB}
"""Rings as root. A CPU that does nothing but fault fills the first in some 100 ms, before that of pages is full."""

SMALL_RING_BYTES = {
    Channel.FAULT: 256 * KIB,
    Channel.PAGE: 64 * KIB,
    Channel.TASK: 64 * KIB,
    Channel.MAP: 64 * KIB,
}
"""Rings of a plain user: together below the 516 KiB per CPU that perf_event_mlock_kb grants by default."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """One event of a channel: its attributes and its in-kernel filter."""

    attributes: Attributes
    filter: str | None = None


Plan = Mapping[Channel, Sequence[Spec]]
"""The events of each channel; the first of a channel owns its ring."""

_IDENTITY = Sample.TID | Sample.TIME
_MAPPINGS = Flag.MMAP | Flag.MMAP2 | Flag.MMAP_DATA
_TASKS = Flag.TASK | Flag.COMM | Flag.COMM_EXEC


def tracepoint_plan(
    events: Mapping[str, TraceEvent], *, first_touch: bool, flags: Flag, rings: Mapping[Channel, int]
) -> Plan:
    """Every fault with its error code; what `events` lacks is left out, but for page_fault_user.

    `first_touch` lets faults through that bring new pages in, reads included: a page read first is the zero
    page, and only so a later write to it is understood.
    """

    def trace(
        name: str, expression: str | None, channel: Channel, sample: Sample = _IDENTITY | Sample.RAW
    ) -> Spec:
        wake = 1 if channel is Channel.TASK else rings[channel] // 2
        attributes = Attributes(
            type=EventType.TRACEPOINT, config=events[name].id, sample=sample, flags=flags, wakeup_bytes=wake
        )
        return Spec(attributes=attributes, filter=expression)

    fault_filter = None if first_touch else WRITE_PROTECT_FAULT
    plan: dict[Channel, list[Spec]] = {
        Channel.FAULT: [trace(name, fault_filter, Channel.FAULT) for name in FAULT_EVENTS if name in events],
        Channel.TASK: [_sideband(_TASKS, flags, 1)],
        Channel.MAP: [_sideband(_MAPPINGS, flags, rings[Channel.MAP] // 2)],
    }
    if ALLOCATION_EVENT in events:
        plan[Channel.PAGE] = [trace(ALLOCATION_EVENT, COPY_ALLOCATION, Channel.PAGE, _IDENTITY)]
    if NEW_TASK_EVENT in events:
        plan[Channel.TASK].append(trace(NEW_TASK_EVENT, NEW_PROCESS, Channel.TASK))
    if FORK_COUNT_EVENT in events:
        plan[Channel.MAP].append(trace(FORK_COUNT_EVENT, OTHER_ADDRESS_SPACE, Channel.MAP))
    for name, expression in OPERATION_EVENTS.items():
        if name in events:
            plan[Channel.MAP].append(trace(name, expression, Channel.MAP))
    return plan


def software_plan(*, flags: Flag, rings: Mapping[Channel, int]) -> Plan:
    """Page faults without their error code: what a plain user may see of the own processes."""
    faults = Attributes(
        type=EventType.SOFTWARE,
        config=SoftwareEvent.PAGE_FAULTS,
        sample=Sample.IP | _IDENTITY | Sample.ADDR,
        flags=flags,
        wakeup_bytes=rings[Channel.FAULT] // 2,
    )
    return {
        Channel.FAULT: [Spec(attributes=faults)],
        Channel.TASK: [_sideband(_TASKS, flags, 1)],
        Channel.MAP: [_sideband(_MAPPINGS, flags, rings[Channel.MAP] // 2)],
    }


def _sideband(kinds: Flag, flags: Flag, wake: int) -> Spec:
    attributes = Attributes(
        type=EventType.SOFTWARE,
        config=SoftwareEvent.DUMMY,
        sample=_IDENTITY,
        flags=flags | kinds,
        wakeup_bytes=wake,
    )
    return Spec(attributes=attributes)
