"""A scenario on the vm: one side of the comparison.

Every step becomes the calls on `cowscope.vm` that mean the same. What the vm has no rule for raises
`NotModelled` with the reason, and nothing of the step is done: the scenario is then listed as not checked.

The bytes of a page are looked at behind the back of the machine (its frame's contents), so that looking never
traps. A system call that meets a hole does what the kernel does: mprotect stops there, madvise goes on, and
both return ENOMEM.
"""

from __future__ import annotations

import numpy as np

from cowscope.lab.result import Result, Word
from cowscope.lab.scenario import Line, Scenario
from cowscope.lab.steps import (
    LABEL_BYTES,
    Advice,
    Exec,
    Exit,
    File,
    Fork,
    Load,
    Madvise,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Range,
    Read,
    Start,
    Store,
    Truncate,
    Write,
)
from cowscope.lab.view import EVERYTHING, Border, Ints, Sight, State, View
from cowscope.units import PAGE_SHIFT
from cowscope.vm import (
    AccessFault,
    AddressSpace,
    BusError,
    Classified,
    Event,
    FrameFlag,
    Kind,
    Machine,
    Outcome,
    Trapped,
)
from cowscope.vm.entry import USER, frames_of
from cowscope.vm.policies import Policy

_WORDS = {
    Outcome.NO_FAULT: Word.NO_FAULT,
    Outcome.COPIED: Word.COPIED,
    Outcome.REUSED: Word.REUSED,
    Outcome.ZERO_FILLED: Word.ZERO_FILLED,
    Outcome.COPIED_FROM_FILE: Word.FROM_FILE,
    Outcome.MAPPED: Word.MAPPED,
    Outcome.WRITE_TRACKED: Word.TRACKED,
}
_FORK_ADVICE = {
    Advice.DONTFORK: {"dont_fork": True},
    Advice.DOFORK: {"dont_fork": False},
    Advice.WIPEONFORK: {"wipe_on_fork": True},
    Advice.KEEPONFORK: {"wipe_on_fork": False},
}
_NOT_YET = {
    Advice.FREE: "MADV_FREE",
    Advice.REMOVE: "holes punched into files (MADV_REMOVE)",
    Advice.HUGEPAGE: "transparent huge pages",
    Advice.NOHUGEPAGE: "transparent huge pages",
    Advice.MERGEABLE: "KSM",
    Advice.UNMERGEABLE: "KSM",
    Advice.COLD: "MADV_COLD",
    Advice.PAGEOUT: "swap",
    Advice.POPULATE_READ: "MADV_POPULATE_READ",
    Advice.POPULATE_WRITE: "MADV_POPULATE_WRITE",
    Advice.GUARD_INSTALL: "guard regions",
    Advice.GUARD_REMOVE: "guard regions",
}
_USER_BIT = 4


class NotModelled(Exception):
    """The vm has no rule for a step; the message names what it lacks."""


class Model:
    """One side: the vm under a policy.

    >>> from cowscope.lab.parser import parse
    >>> scenario = parse('A start\\nA mmap heap 1 rw private anonymous\\nA store heap "hi"')
    >>> model = Model(scenario)
    >>> [model.do(line).outcome for line in scenario]
    ['ok', 'ok', <Word.ZERO_FILLED: 'zero-filled'>]
    """

    sight: Sight = EVERYTHING

    def __init__(self, scenario: Scenario, policy: Policy | str = "linux") -> None:
        """An empty machine on which the steps of `scenario` can be done."""
        self.scenario = scenario
        self.machine = Machine(policy)
        self.spaces: dict[str, AddressSpace] = {}
        self._files: dict[str, int] = {}
        self._told: list[Event] = []
        self.machine.listen(self._told.append)

    def do(self, line: Line) -> Result:
        """Do one step and say what came of it. Raises `NotModelled`."""
        step = line.step
        match step:
            case File():
                self._make(step)
            case Start():
                self.spaces[step.process] = self.machine.spawn()
            case Fork():
                self.spaces[step.child] = self.machine.fork(self.spaces[step.process].id)
            case Exit():
                self.machine.exit(self.spaces.pop(step.process).id)
            case Exec():
                self.machine.exec(self.spaces[step.process].id)
            case Mmap():
                self._mmap(step)
            case Munmap():
                self.spaces[step.process].unmap(self.scenario.page(step.range), step.range.count)
            case Mprotect():
                return self._mprotect(step)
            case Mremap():
                return self._mremap(step)
            case Madvise():
                return self._madvise(step)
            case Load() | Store() | Read():
                return self._access(step)
            case Write():
                self._write(step)
            case Truncate():
                raise NotModelled("the vm has no ends of files")
        return Result("ok")

    def _make(self, file: File) -> None:
        if file.sparse:
            raise NotModelled("the vm has no holes in files")
        self._files[file.name] = len(self._files) + 1
        for page in range(file.pages):
            self._write_page(file.name, page, file.label(page))

    def _write(self, step: Write) -> None:
        self._write_page(step.at.name, step.at.first, step.data)

    def _write_page(self, name: str, page: int, data: bytes) -> None:
        memory = self.machine.memory
        objects, offsets = np.atleast_1d(self._files[name]), np.atleast_1d(page)
        frame = int(memory.cache.fetch(objects, offsets)[0])
        memory.frames.write(frame, 0, data.ljust(LABEL_BYTES, b"\0"))

    def _mmap(self, step: Mmap) -> None:
        if step.options:
            raise NotModelled(f"the vm has no option {', '.join(sorted(step.options))} of mmap")
        file = self.scenario.files[step.file] if step.file else None
        if file and step.offset + step.pages > file.pages:
            raise NotModelled("the vm has no ends of files")
        tracked = file is not None and (not step.shared or file.kind == "disk")
        self.spaces[step.process].map(
            self.scenario.page(Range(step.name, 0)),
            step.pages,
            protection=step.protection,
            shared=step.shared,
            kind=Kind.FILE if tracked else Kind.ANONYMOUS,
            file=self._files[file.name] if file else 0,
            offset=step.offset,
        )

    def _mapped(self, process: str, area: Range) -> tuple[int, int, bool]:
        """First page, how many are mapped without a hole from there on, and whether that is all."""
        start = self.scenario.page(area)
        at = start
        for record in self.spaces[process].mappings.clipped(start, start + area.count):
            if record.start > at:
                break
            at = record.end
        return start, at - start, at == start + area.count

    def _mprotect(self, step: Mprotect) -> Result:
        start, count, whole = self._mapped(step.process, step.range)
        self.spaces[step.process].protect(start, count, step.protection)
        return Result("ok" if whole else "ENOMEM")

    def _mremap(self, step: Mremap) -> Result:
        start, _, whole = self._mapped(step.process, step.range)
        space = self.spaces[step.process]
        if not whole:
            return Result("EFAULT")
        if len(space.mappings.clipped(start, start + step.range.count)) > 1:
            raise NotModelled("mremap over several mappings")
        if step.to is None and step.pages <= step.range.count:
            space.unmap(start + step.pages, step.range.count - step.pages)
            return Result("ok")
        if step.to is None or step.pages != step.range.count:
            raise NotModelled("the vm has no mremap that grows a mapping")
        to = self.scenario.page(step.to)
        if start < to + step.pages and to < start + step.range.count:
            return Result("EINVAL")
        space.move(start, step.pages, to)
        return Result("ok")

    def _madvise(self, step: Madvise) -> Result:
        if step.advice in _NOT_YET:
            raise NotModelled(f"the vm has no {_NOT_YET[step.advice]}")
        start, _, whole = self._mapped(step.process, step.range)
        space = self.spaces[step.process]
        if step.advice is Advice.DONTNEED:
            space.discard(start, step.range.count)
        else:
            records = space.mappings.clipped(start, start + step.range.count)
            if step.advice is Advice.WIPEONFORK and any(record.object for record in records):
                raise NotModelled("which errors madvise returns")
            space.advise(start, step.range.count, **_FORK_ADVICE[step.advice])
        return Result("ok" if whole else "ENOMEM")

    def _access(self, step: Load | Store | Read) -> Result:
        space, page = self.spaces[step.process], self.scenario.page(step.at)
        self._told.clear()
        data = None
        try:
            if isinstance(step, Load):
                data = space.load(page << PAGE_SHIFT, LABEL_BYTES)
            else:
                space.store(page << PAGE_SHIFT, step.data.ljust(LABEL_BYTES, b"\0"))
        except AccessFault as fault:
            outcome = "EFAULT" if isinstance(step, Read) else _signal(space, page, fault)
        else:
            classified = [event.outcome for event in self._told if isinstance(event, Classified)]
            outcome = _WORDS[classified[-1]] if classified else Word.NO_FAULT
        codes = tuple(event.error_code & ~_USER_BIT for event in self._told if isinstance(event, Trapped))
        return Result(outcome, codes, data)

    def views(self, pages: Ints) -> dict[str, View]:
        """What there is to see of each live process at `pages`."""
        return {name: self._view(space, pages) for name, space in self.spaces.items()}

    def _view(self, space: AddressSpace, pages: Ints) -> View:
        frames, entries = self.machine.memory.frames, space.memory.tables.entries[space.table.slots(pages)]
        states, numbers = space.page_states(pages), frames_of(entries)
        state = (
            states.present * int(State.PRESENT)
            | states.anon * int(State.ANON)
            | (states.present & ~states.anon & ~states.zero) * int(State.FILE)
            | states.exclusive * int(State.EXCLUSIVE)
            | states.zero * int(State.ZERO)
            | (states.present & (states.map_count == 1)) * int(State.ONCE)
        )
        readable = states.present & ((entries & USER) != 0)
        state |= readable * int(State.READABLE)
        label = np.zeros(len(pages), np.uint64)
        written = readable & ((frames.flags[numbers] & int(FrameFlag.WRITTEN)) != 0)
        for at in written.nonzero()[0].tolist():
            label[at] = int.from_bytes(frames.read(int(numbers[at]), 0, LABEL_BYTES), "little")
        return View(
            state.astype(np.uint16),
            numbers,
            np.where(states.present, states.map_count, 0),
            label,
            self._borders(space),
        )

    def _borders(self, space: AddressSpace) -> tuple[Border, ...]:
        mappings = space.mappings
        columns = (mappings.start, mappings.end, mappings.protection, mappings.shared)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return tuple(Border(*row) for row in rows)


def _signal(space: AddressSpace, page: int, fault: AccessFault) -> str:
    if isinstance(fault, BusError):
        return Word.BUS_ADRERR
    held = space.mappings.lookup(np.atleast_1d(page))[0] >= 0
    return Word.SEGV_ACCERR if held else Word.SEGV_MAPERR
