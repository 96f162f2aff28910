"""Faults and page allocations by BPF programs instead of perf samples: the same records, at a fraction of the cost.

A perf sample costs the observed program about a microsecond, nearly all of it for being a sample at all, and a
copy makes two. Programs of our own write the two records into rings that we map, in the layout of perf's
samples, so that nobody who reads them sees a difference.

| program | runs at | does |
|---|---|---|
| fault | page faults, user and kernel | writes a record, if the thread is watched |
| page | page allocations | the same, for a page that need not be zeroed |
| birth | a new task | watches it if its parent is watched, else not: a reused id inherits nothing |
| rename | a task's new name | watches the thread that waits for its exec, as perf's enable_on_exec does |

They see every task of the machine and leave at the first instructions that tell. Who is watched is one byte
for each thread id there can be, in a map that programs and recorder share.

Not here: threads of another pid namespace than the first, whose ids we would have to translate; perf does that.
The kernel passes a program over where one runs already. For the page program that is an interrupt's allocation, never
a user's page; for faults and births it counts, and so do we.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from cowscope.errors import MissingRight
from cowscope.linux.bpf import (
    FIRST_PID_NAMESPACE,
    ProgramType,
    attach_raw,
    create_array,
    load_program,
    missed,
)
from cowscope.linux.bpf_code import Arithmetic, Code, Compare, Helper, Register, Width
from cowscope.linux.perf import HEAD_AT, TAIL_AT, Event, Ring
from cowscope.linux.perf_abi import Attributes, EventType, Flag, RecordType, Sample
from cowscope.linux.perf_records import SAMPLE_RAW_AT
from cowscope.linux.tracefs import TraceEvent
from cowscope.recorder.channels import ALLOCATION_EVENT, FAULT_EVENTS, NEW_TASK_EVENT, Channel
from cowscope.units import PAGE_SIZE

RECORD_BYTES = {Channel.FAULT: 64, Channel.PAGE: 32}
"""Powers of two, so that none wraps around the end of a ring."""

_MOST_THREADS = 4 << 20
"""Thread ids lie below (PID_MAX_LIMIT on 64-bit machines)."""

LOST_AT = 2048
"""Byte of a ring's first page with the number of records that found it full."""

_WRITE, _PRESENT = 2, 1
_MOVABLE, _ZERO = 8, 256

R0, R1, R2, R3, R6, R7, R8, R9, R10 = (Register(n) for n in (0, 1, 2, 3, 6, 7, 8, 9, 10))


def _check_usable(events: Mapping[str, TraceEvent]) -> None:
    """Thread ids must mean the same to us and to the programs. Raises `MissingRight`."""
    if os.stat("/proc/self/ns/pid").st_ino != FIRST_PID_NAMESPACE:
        raise MissingRight(
            "BPF programs see other thread ids than we do", "record from outside the container"
        )
    if NEW_TASK_EVENT not in events:
        raise MissingRight(f"this kernel has no tracepoint {NEW_TASK_EVENT}", "use --source tracepoint")


class FaultPrograms:
    """The programs and their rings: `rings` to drain, `watch` and `watch_at_exec` to begin, `stop` to end."""

    def __init__(
        self,
        events: Mapping[str, TraceEvent],
        *,
        first_touch: bool,
        ring_bytes: Mapping[Channel, int],
        cpus: Sequence[int],
    ) -> None:
        """Load and attach what `events` has; nobody is watched yet.

        Raises `MissingRight`, `OSError`, and leaves nothing then.
        """
        allocations = ALLOCATION_EVENT in events
        _check_usable(events)
        self._sources = ExitStack()
        self._programs: list[tuple[Channel, int]] = []
        with ExitStack() as undo:
            self._rings: dict[tuple[Channel, int], Ring] = {}
            self._watched_fd = _owned(undo, create_array(_MOST_THREADS))
            self._waiting_fd = _owned(undo, create_array(8))
            self._watched = mmap.mmap(self._watched_fd, _MOST_THREADS)
            self._waiting = mmap.mmap(self._waiting_fd, PAGE_SIZE)
            undo.callback(self._watched.close)
            undo.callback(self._waiting.close)
            undo.callback(self._close_rings)
            undo.callback(self._sources.close)
            channels = (Channel.FAULT, Channel.PAGE) if allocations else (Channel.FAULT,)
            maps = {
                channel: self._map_rings(undo, channel, ring_bytes[channel], cpus) for channel in channels
            }
            for name in FAULT_EVENTS:
                if name in events:
                    code = self._fault(
                        maps[Channel.FAULT], ring_bytes[Channel.FAULT], events[name], first_touch
                    )
                    self._attach(undo, events[name], code, Channel.FAULT)
            if allocations:
                self._attach_raw(ALLOCATION_EVENT, self._page(maps[Channel.PAGE], ring_bytes[Channel.PAGE]))
            birth = events[NEW_TASK_EVENT]
            self._attach(undo, birth, self._birth(birth), Channel.TASK)
            self._attach_raw("task:task_rename", self._rename())
            self._undo = undo.pop_all()

    def rings(self) -> Mapping[tuple[Channel, int], Ring]:
        """The ring of each channel and CPU."""
        return self._rings

    def watch(self, tid: int) -> None:
        """Record what thread `tid` does from now on, and what threads and processes do that it will make."""
        self._watched[tid] = 1

    def watch_at_exec(self, tid: int) -> None:
        """The same, from the moment at which `tid` becomes another program."""
        self._waiting[:8] = tid.to_bytes(8, "little")

    def lost(self) -> Mapping[Channel, int]:
        """Records that found their ring full, of each channel, and hits at which a program was not run."""
        lost = dict.fromkeys((Channel.TASK, *(channel for channel, _ in self._rings)), 0)
        for channel, program in self._programs:
            lost[channel] += missed(program)
        for (channel, _), ring in self._rings.items():
            lost[channel] += ring.number(LOST_AT)
        return lost

    def stop(self) -> None:
        """No more records; what waits in the rings stays."""
        self._sources.close()

    def close(self) -> None:
        """Give everything back to the kernel."""
        self._undo.close()

    def _close_rings(self) -> None:
        for ring in self._rings.values():
            ring.close()

    def _map_rings(self, undo: ExitStack, channel: Channel, n_bytes: int, cpus: Sequence[int]) -> int:
        each = PAGE_SIZE + n_bytes
        fd = _owned(undo, create_array(each, max(cpus) + 1))
        for cpu in cpus:
            self._rings[channel, cpu] = Ring(fd, n_bytes, offset=cpu * each)
        return fd

    def _attach(self, undo: ExitStack, event: TraceEvent, code: Code, channel: Channel) -> None:
        """For every CPU: the event only names the tracepoint, and stays disabled. What it misses, `channel` lost."""
        attributes = Attributes(
            type=EventType.TRACEPOINT, config=event.id, sample=Sample(0), flags=Flag.DISABLED
        )
        source = Event(attributes, pid=-1, cpu=0)
        self._sources.callback(source.close)
        program = _owned(undo, load_program(ProgramType.TRACEPOINT, code.build()))
        source.run_program(program)
        self._programs.append((channel, program))

    def _attach_raw(self, event: str, code: Code) -> None:
        program = load_program(ProgramType.RAW_TRACEPOINT, code.build())
        try:
            _owned(self._sources, attach_raw(event.partition(":")[2], program))
        finally:
            os.close(program)

    def _fault(self, rings: int, ring_bytes: int, event: TraceEvent, first_touch: bool) -> Code:
        code, at = Code(), {name: field.offset for name, field in event.fields.items()}
        code.set(R6, R1)
        if not first_touch:
            code.load(Width.U64, R1, R6, at["error_code"])
            code.compute(Arithmetic.AND, R1, _WRITE | _PRESENT)
            code.jump(Compare.NOT_EQUAL, R1, _WRITE | _PRESENT, "out")
        self._unless_watched(code)
        _reserve(code, rings, ring_bytes, RECORD_BYTES[Channel.FAULT])
        code.store(Width.U32, R7, SAMPLE_RAW_AT - 4, RECORD_BYTES[Channel.FAULT] - SAMPLE_RAW_AT)
        for name in ("address", "ip", "error_code"):
            code.load(Width.U64, R1, R6, at[name])
            code.store(Width.U64, R7, SAMPLE_RAW_AT + at[name], R1)
        return _committed(code, RECORD_BYTES[Channel.FAULT])

    def _page(self, rings: int, ring_bytes: int) -> Code:
        code, order, gfp_flags = Code(), 8, 16  # bytes of the second and third argument of mm_page_alloc
        code.load(Width.U64, R2, R1, gfp_flags)
        code.compute(Arithmetic.AND, R2, _MOVABLE | _ZERO)
        code.jump(Compare.NOT_EQUAL, R2, _MOVABLE, "out")
        code.load(Width.U64, R2, R1, order)
        code.jump(Compare.NOT_EQUAL, R2, 0, "out")
        self._unless_watched(code)
        _reserve(code, rings, ring_bytes, RECORD_BYTES[Channel.PAGE])
        return _committed(code, RECORD_BYTES[Channel.PAGE])

    def _birth(self, event: TraceEvent) -> Code:
        code = Code()
        code.load(Width.U32, R6, R1, event.fields["pid"].offset)
        code.jump(Compare.GREATER, R6, _MOST_THREADS - 1, "out")
        code.call(Helper.GET_CURRENT_PID_TGID)
        _thread_id(code, R1, R0)
        code.map_value(R2, self._watched_fd)
        code.compute(Arithmetic.ADD, R1, R2)
        code.load(Width.U8, R1, R1)
        code.compute(Arithmetic.ADD, R2, R6)
        code.store(Width.U8, R2, 0, R1)
        return _ended(code)

    def _rename(self) -> Code:
        code = Code()
        code.call(Helper.GET_CURRENT_PID_TGID)
        _thread_id(code, R1, R0)
        code.map_value(R2, self._waiting_fd)
        code.load(Width.U64, R3, R2)
        code.jump(Compare.NOT_EQUAL, R1, R3, "out")
        code.store(Width.U64, R2, 0, 0)
        code.map_value(R2, self._watched_fd)
        code.compute(Arithmetic.ADD, R2, R1)
        code.store(Width.U8, R2, 0, 1)
        return _ended(code)

    def _unless_watched(self, code: Code) -> None:
        """Leave for threads that are not ours; R8 keeps process and thread id."""
        code.call(Helper.GET_CURRENT_PID_TGID)
        code.set(R8, R0)
        _thread_id(code, R1, R0)
        code.map_value(R2, self._watched_fd)
        code.compute(Arithmetic.ADD, R2, R1)
        code.load(Width.U8, R1, R2)
        code.jump(Compare.EQUAL, R1, 0, "out")


def _thread_id(code: Code, to: Register, source: Register) -> None:
    """The lower half of what GET_CURRENT_PID_TGID gives, if it may be an index of the watched; else leave."""
    if to != source:
        code.set(to, source)
    code.compute(Arithmetic.SHIFT_LEFT, to, 32)
    code.compute(Arithmetic.SHIFT_RIGHT, to, 32)
    code.jump(Compare.GREATER, to, _MOST_THREADS - 1, "out")


def _reserve(code: Code, rings: int, ring_bytes: int, record_bytes: int) -> None:
    """Room for a record in the ring of this CPU, with its first 24 bytes filled in: R7; the ring: R9.

    A ring has one writer: its programs run with interrupts off, or are not entered twice on a CPU.
    """
    code.call(Helper.GET_SMP_PROCESSOR_ID)
    code.store(Width.U32, R10, -4, R0)
    code.map(R1, rings)
    code.set(R2, R10)
    code.compute(Arithmetic.ADD, R2, -4)
    code.call(Helper.MAP_LOOKUP_ELEM)
    code.jump(Compare.EQUAL, R0, 0, "out")
    code.set(R9, R0)
    code.load(Width.U64, R7, R9, HEAD_AT)
    code.set(R1, R7)
    code.load(Width.U64, R2, R9, TAIL_AT)
    code.compute(Arithmetic.SUB, R1, R2)
    code.jump(Compare.GREATER, R1, ring_bytes - record_bytes, "full")
    code.compute(Arithmetic.AND, R7, ring_bytes - record_bytes)
    code.compute(Arithmetic.ADD, R7, PAGE_SIZE)
    code.compute(Arithmetic.ADD, R7, R9)
    code.call(Helper.KTIME_GET_NS)
    code.store(Width.U64, R7, 16, R0)
    code.store(Width.U32, R7, 0, RecordType.SAMPLE)
    code.store(Width.U32, R7, 4, record_bytes << 16)
    code.set(R1, R8)
    code.compute(Arithmetic.SHIFT_RIGHT, R1, 32)
    code.store(Width.U32, R7, 8, R1)
    code.store(Width.U32, R7, 12, R8)


def _committed(code: Code, record_bytes: int) -> Code:
    """Let the reader have the record; or count it as lost."""
    code.load(Width.U64, R1, R9, HEAD_AT)
    code.compute(Arithmetic.ADD, R1, record_bytes)
    code.store(Width.U64, R9, HEAD_AT, R1)
    code.jump(Compare.EQUAL, R10, R10, "out")
    code.label("full")
    code.load(Width.U64, R1, R9, LOST_AT)
    code.compute(Arithmetic.ADD, R1, 1)
    code.store(Width.U64, R9, LOST_AT, R1)
    return _ended(code)


def _ended(code: Code) -> Code:
    """One, not zero: perf events of others at the same tracepoint must not miss the hit."""
    code.label("out")
    code.set(R0, 1)
    code.exit()
    return code


def _owned(stack: ExitStack, fd: int) -> int:
    stack.callback(os.close, fd)
    return fd
