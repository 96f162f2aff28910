"""What this user may do: effective capabilities, and the kernel settings that widen or narrow them.

Source: capabilities(7), proc(5), Documentation/admin-guide/sysctl/kernel.rst (perf_event_paranoid,
perf_event_mlock_kb, kptr_restrict), Documentation/admin-guide/LSM/Yama.rst.
"""

from __future__ import annotations

from enum import IntEnum

from cowscope.linux.border import read_setting


class Capability(IntEnum):
    """The capabilities that cowscope can make use of, by their bit number
    (include/uapi/linux/capability.h)."""

    CAP_DAC_READ_SEARCH = 2
    CAP_IPC_LOCK = 14
    CAP_SYS_PTRACE = 19
    CAP_SYS_ADMIN = 21
    CAP_SYSLOG = 34
    CAP_PERFMON = 38


def parse_effective(status: bytes) -> int:
    r"""The bit mask of the `CapEff` line of a `status` file; 0 if there is none.

    >>> hex(parse_effective(b"Name:\tx\nCapPrm:\t00000000000000ff\nCapEff:\t0000004000200000\n"))
    '0x4000200000'
    """
    for line in status.split(b"\n"):
        key, _, value = line.partition(b":")
        if key == b"CapEff":
            try:
                return int(value, 16)
            except ValueError:
                return 0
    return 0


def effective() -> frozenset[Capability]:
    """The capabilities that this thread has now, in the user namespace that it is in.

    >>> effective() <= set(Capability)
    True
    """
    mask = parse_effective(read_own_status())
    return frozenset(capability for capability in Capability if mask >> capability & 1)


def read_own_status() -> bytes:
    """`/proc/thread-self/status`, unparsed: capabilities belong to a thread."""
    with open("/proc/thread-self/status", "rb", buffering=0) as file:
        return file.readall()


def perf_event_paranoid() -> int | None:
    """How far perf events are closed to plain users; None if the kernel has no perf events.

    -1 nothing is closed, 0 raw tracepoints, 1 whole-CPU events too, 2 kernel profiling too; 3 and 4 on
    Debian, Ubuntu and Android everything, elsewhere the same as 2. Whoever has CAP_PERFMON is not asked.
    """
    return _number("/proc/sys/kernel/perf_event_paranoid")


def perf_event_mlock_kb() -> int | None:
    """KiB of ring buffer that a plain user may lock per CPU, on top of RLIMIT_MEMLOCK; None without perf
    events."""
    return _number("/proc/sys/kernel/perf_event_mlock_kb")


def kptr_restrict() -> int | None:
    """Who sees kernel addresses: 0 who may read kallsyms, 1 who has CAP_SYSLOG, 2 nobody; None if absent."""
    return _number("/proc/sys/kernel/kptr_restrict")


def ptrace_scope() -> int | None:
    """Yama's limit on looking into other processes: 0 same user, 1 descendants, 2 root, 3 nobody; None if
    absent."""
    return _number("/proc/sys/kernel/yama/ptrace_scope")


def _number(path: str) -> int | None:
    text = read_setting(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None
