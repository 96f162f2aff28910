"""Whether perf events really open: tried on ourselves, since a sandbox may refuse what every setting allows."""

from __future__ import annotations

from cowscope.errors import MissingRight
from cowscope.linux import tracefs
from cowscope.linux.facts import FAULT_EVENT, PerfSupport
from cowscope.linux.perf import Event
from cowscope.linux.perf_abi import Attributes, EventType, Flag, Sample, SoftwareEvent


def probe() -> PerfSupport:
    """Open one event of each source on this very thread, disabled, and close it again.

    >>> probe().tracepoint in (True, False)
    True
    """
    software = software_refusal()
    tracepoint = _tracepoint_refusal()
    detail = "; ".join(text for text in (tracepoint, software) if text) or "events of both sources opened"
    return PerfSupport(tracepoint=not tracepoint, software=not software, detail=detail)


def software_refusal() -> str:
    """What the kernel says against observing own processes by software events, empty when it lets us.

    perf_event_paranoid does not tell: 3 and more close perf events altogether on Debian, Ubuntu and Android, and
    mean the same as 2 to a kernel without their patch.
    """
    return _refusal(
        Attributes(
            type=EventType.SOFTWARE,
            config=SoftwareEvent.PAGE_FAULTS,
            sample=Sample.TID,
            flags=Flag.DISABLED | Flag.EXCLUDE_KERNEL | Flag.EXCLUDE_HV,
        )
    )


def _tracepoint_refusal() -> str:
    try:
        event = tracefs.event(*FAULT_EVENT)
    except MissingRight as error:
        return f"tracepoint: {error.what}"
    if event is None:
        return f"tracepoint: this kernel has no {':'.join(FAULT_EVENT)}"
    wanted = Sample.TID | Sample.TIME | Sample.RAW
    refusal = _refusal(
        Attributes(type=EventType.TRACEPOINT, config=event.id, sample=wanted, flags=Flag.DISABLED)
    )
    return f"tracepoint: {refusal}" if refusal else ""


def _refusal(attributes: Attributes) -> str:
    """What the kernel says against the event, empty when it opens."""
    try:
        Event(attributes, pid=0, cpu=-1).close()
    except MissingRight as error:
        return error.what
    except OSError as error:
        return error.strerror or str(error)
    return ""
