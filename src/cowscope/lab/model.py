"""A scenario on the vm: one side of the comparison.

Every step becomes the call on `cowscope.vm` that means the same. What the vm has no rule for raises
`NotChecked` with the reason, and nothing of the step is done: the scenario is then listed as not checked.

The bytes of a page are looked at behind the back of the machine (its frame's contents), so that looking never
traps.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cowscope.errors import CallRefused, NotModelled
from cowscope.lab.result import NotChecked, Result, Word
from cowscope.lab.scenario import Line, Scenario
from cowscope.lab.steps import (
    LABEL_BYTES,
    Access,
    Advice,
    Exec,
    Exit,
    File,
    Folios,
    Fork,
    Hold,
    Holder,
    Load,
    Madvise,
    Merge,
    Mlock,
    Mmap,
    Mprotect,
    Mremap,
    Munmap,
    Range,
    Read,
    Release,
    Remote,
    Start,
    Store,
    Truncate,
    Way,
    Write,
)
from cowscope.lab.view import EVERYTHING, Border, Ints, Sight, State, States, View, readable_pages
from cowscope.units import PAGE_SHIFT, PAGE_SIZE
from cowscope.vm import (
    AccessFault,
    Classified,
    Event,
    FrameFlag,
    Machine,
    Outcome,
    PageStates,
    Policy,
    Process,
    SegmentationFault,
    Trapped,
    kernel_access,
)
from cowscope.vm import File as MachineFile
from cowscope.vm.hugetlb import HUGE
from cowscope.vm.kernel_access import Hold as MachineHold

_WORDS = {
    Outcome.NO_FAULT: Word.NO_FAULT,
    Outcome.COPIED: Word.COPIED,
    Outcome.REUSED: Word.REUSED,
    Outcome.ZERO_FILLED: Word.ZERO_FILLED,
    Outcome.COPIED_FROM_FILE: Word.FROM_FILE,
    Outcome.MAPPED: Word.MAPPED,
    Outcome.WRITE_TRACKED: Word.TRACKED,
}
_USER_BIT = 4
_SWAP_PAGES = 4096
"""More than any scenario can fill."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What of a machine its administrator chooses; the defaults can do all that there are words for."""

    hugetlb_pages: int = 64
    """Free pages of 2 MiB in the pool."""
    swap: bool = True
    folio_orders: frozenset[int] = frozenset()
    """Sizes of folios, as powers of two, that memory marked HUGEPAGE may get beside 2 MiB."""


class Model:
    """One side: the vm under a policy.

    >>> from cowscope.lab.parser import parse
    >>> scenario = parse('A start\\nA mmap heap 1 rw private anonymous\\nA store heap "hi"')
    >>> model = Model(scenario)
    >>> [str(model.do(line).outcome) for line in scenario]
    ['ok', 'ok', 'zero-filled']
    """

    sight: Sight = EVERYTHING

    def __init__(
        self, scenario: Scenario, policy: Policy | str = "linux", settings: Settings | None = None
    ) -> None:
        """An empty machine for the steps of `scenario`, set up as that of the live kernel is."""
        self.scenario = scenario
        settings = settings or Settings()
        self.machine = Machine(
            policy,
            huge_pages=True,
            advised_orders=settings.folio_orders,
            hugetlb_pages={HUGE: settings.hugetlb_pages},
            swap_pages=_SWAP_PAGES * settings.swap,
        )
        self.processes: dict[str, Process] = {}
        self._files: dict[str, MachineFile] = {}
        self._told: list[Event] = []
        self._pages_out = False
        self._holds: dict[tuple[str, Range, Holder], MachineHold] = {}
        self.machine.listen(self._told.append)

    def do(self, line: Line) -> Result:
        """Do one step and say what came of it. Raises `NotChecked`."""
        step = line.step
        self._told.clear()
        try:
            match step:
                case File():
                    self._make(step)
                case Folios():
                    self.machine.memory.advised_orders |= {step.order}
                case Merge():
                    self.machine.merge_same_pages()
                case Start():
                    self.processes[step.process] = self.machine.start()
                case Load() | Store():
                    return self._access(step)
                case Read():
                    return self._read(step)
                case Remote():
                    return self._remote(step)
                case _:
                    self._call(step, self.processes[step.process])
        except NotModelled as refusal:
            raise NotChecked(f"the vm has no rule for it: {refusal.reason}") from refusal
        except CallRefused as refusal:
            return Result(refusal.errno_name)
        return Result("ok")

    @property
    def events(self) -> list[Event]:
        """What the machine told of the last step: trap, classification, allocation, copy, mapping, resumption."""
        return list(self._told)

    def _make(self, file: File) -> None:
        made = self.machine.file(file.pages * PAGE_SIZE, tracked=file.kind == "disk")
        self._files[file.name] = made
        for page in range(0 if file.sparse else file.pages):
            made.write(page * PAGE_SIZE, file.label(page))

    def _call(self, step: object, process: Process) -> None:
        match step:
            case Fork():
                self.processes[step.child] = process.fork()
            case Exit():
                process.exit()
                del self.processes[step.process]
            case Exec():
                process.exec()
            case Mmap():
                self._mmap(step, process)
            case Munmap():
                process.munmap(*self._span(step.range))
            case Mprotect():
                process.mprotect(*self._span(step.range), step.protection)
            case Mremap():
                to = None if step.to is None else self._span(step.to)[0]
                size = step.pages << PAGE_SHIFT
                process.mremap(*self._span(step.range), size, may_move=to is not None, new_address=to)
            case Madvise():
                self._pages_out |= step.advice is Advice.PAGEOUT
                process.madvise(*self._span(step.range), step.advice.number)
            case Hold():
                address, length = self._span(step.range)
                pin = step.holder is Holder.PIN
                held = process.pin(address, length) if pin else process.splice(address, length)
                self._holds[step.process, step.range, step.holder] = held
            case Release():
                kept = self._holds.pop((step.process, step.range, step.holder), None)
                if kept is not None:
                    kept.release()
            case Mlock():
                (process.munlock if step.unlock else process.mlock)(*self._span(step.range))
            case Write():
                data = step.data.ljust(LABEL_BYTES, b"\0")
                self._files[step.at.name].write(step.at.first * PAGE_SIZE, data)
            case Truncate():
                self._files[step.file].truncate(step.pages * PAGE_SIZE)
            case _:
                raise AssertionError(step)

    def _span(self, area: Range) -> tuple[int, int]:
        return self.scenario.page(area) << PAGE_SHIFT, area.count << PAGE_SHIFT

    def _mmap(self, step: Mmap, process: Process) -> None:
        address, length = self._span(Range(step.name, 0, step.pages))
        process.mmap(
            length,
            step.protection,
            shared=step.shared,
            file=self._files[step.file] if step.file else None,
            offset=step.offset << PAGE_SHIFT,
            address=address,
            fixed=True,
            populate="populate" in step.options,
            locked="locked" in step.options,
            reserve="noreserve" not in step.options,
            huge=HUGE if "hugetlb" in step.options else 1,
        )

    def _access(self, step: Load | Store) -> Result:
        process, (address, _) = self.processes[step.process], self._span(step.at)
        data, was_out = None, self._is_out(step)
        try:
            if isinstance(step, Load):
                data = process.load(address, LABEL_BYTES)
            else:
                process.store(address, step.data.ljust(LABEL_BYTES, b"\0"))
        except AccessFault as fault:
            return Result(_signal(fault), self._codes())
        return Result(Word.SWAPPED_IN if was_out else self._classified(), self._codes(), data)

    def _read(self, step: Read) -> Result:
        address, _ = self._span(step.at)
        data, was_out = step.data.ljust(LABEL_BYTES, b"\0"), self._is_out(step)
        try:
            kernel_access.copy_to_user(self.processes[step.process].space, address, data)
        except CallRefused as refusal:
            return Result(refusal.errno_name, self._codes())
        return Result(Word.SWAPPED_IN if was_out else self._classified(), self._codes())

    def _is_out(self, step: Access) -> bool:
        """Whether the page is on swap now."""
        if not self._pages_out:
            return False
        page = np.array([self.scenario.page(step.at)])
        return bool(self.processes[step.process].space.page_states(page).swapped[0])

    def _remote(self, step: Remote) -> Result:
        space, (address, _) = self.processes[step.process].space, self._span(step.at)
        if step.data is None:
            read = kernel_access.read_pinned if step.way is Way.VM_READV else kernel_access.read_forced
            return Result("ok", (), read(space, address, LABEL_BYTES))
        write = kernel_access.write_pinned if step.way is Way.VM_WRITEV else kernel_access.write_forced
        write(space, address, step.data.ljust(LABEL_BYTES, b"\0"))
        return Result("ok")

    def _classified(self) -> Word:
        outcomes = [event.outcome for event in self._told if isinstance(event, Classified)]
        return _WORDS[outcomes[-1]] if outcomes else Word.NO_FAULT

    def _codes(self) -> tuple[int, ...]:
        return tuple(event.error_code & ~_USER_BIT for event in self._told if isinstance(event, Trapped))

    def views(self, pages: Ints) -> dict[str, View]:
        """What there is to see of each live process at `pages`."""
        return {name: self._view(process, pages) for name, process in self.processes.items()}

    def _large(self, found: PageStates, state: States) -> None:
        """Pages of large folios: /proc/kpageflags shows the mark of the first page for all of them."""
        folios, frames = self.machine.memory.folios, self.machine.memory.frames
        if not folios:
            return
        for at in np.flatnonzero(found.present & ~found.zero).tolist():
            folio = folios.of(int(found.frame[at]))
            if folio is not None:
                marked = int(frames.flags[folio.frames[0]]) & int(FrameFlag.EXCLUSIVE)
                state[at] &= ~np.uint16(State.EXCLUSIVE)
                state[at] |= np.uint16(State.HUGE | (State.EXCLUSIVE if marked else 0))

    def _view(self, process: Process, pages: Ints) -> View:
        borders = _borders(process)
        found, frames = process.space.page_states(pages), self.machine.memory.frames
        state = _states(found) | _state_of(found, frames.flags[found.frame])
        self._large(found, state)
        readable = found.present & readable_pages(borders, pages)
        state[readable] |= int(State.READABLE)
        label = np.zeros(len(pages), np.uint64)
        written = readable & ((frames.flags[found.frame] & int(FrameFlag.WRITTEN)) != 0)
        for at in written.nonzero()[0].tolist():
            label[at] = int.from_bytes(frames.read(int(found.frame[at]), 0, LABEL_BYTES), "little")
        counts = np.where(found.present, found.map_count, 0)
        return View(state, np.where(found.present, found.frame, 0), counts, label, borders)


def _states(found: PageStates) -> States:
    state: States = (
        found.present * np.uint16(State.PRESENT)
        | found.anon * np.uint16(State.ANON)
        | (found.present & ~found.anon & ~found.zero) * np.uint16(State.FILE)
        | found.exclusive * np.uint16(State.EXCLUSIVE)
        | found.zero * np.uint16(State.ZERO)
        | found.guard * np.uint16(State.GUARD)
        | found.swapped * np.uint16(State.SWAPPED)
        | (found.present & (found.map_count == 1)) * np.uint16(State.ONCE)
    )
    return state


def _state_of(found: PageStates, flags: np.typing.NDArray[np.uint8]) -> States:
    merged = found.present & ((flags & int(FrameFlag.SAME_PAGE)) != 0)
    state: States = merged * np.uint16(State.KSM)
    return state


def _borders(process: Process) -> tuple[Border, ...]:
    mappings = process.space.mappings
    columns = (mappings.start, mappings.end, mappings.protection, mappings.shared)
    rows = zip(*(column.tolist() for column in columns), strict=True)
    return tuple(Border(*row) for row in rows)


def _signal(fault: AccessFault) -> str:
    if not isinstance(fault, SegmentationFault):
        return Word.BUS_ADRERR
    return Word.SEGV_ACCERR if fault.signal_code == 2 else Word.SEGV_MAPERR
