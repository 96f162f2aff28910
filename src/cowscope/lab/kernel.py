"""A scenario on the live kernel: the other side of the comparison.

Every step becomes one command to one puppet. What came of an access is said by the kernel: its fault records,
the frame that the page has before and after, and whether that frame was allocated for it, zeroed or not.

| fault | page afterwards | frame | outcome |
|---|---|---|---|
| none | | | no-fault |
| any | on swap before, there now | | swapped-in |
| read | | | mapped; zero-filled out of the hugetlb pool |
| write | file or shared | the same as before | tracked |
| write | file or shared | another | mapped |
| write | anonymous | the same as before | reused |
| write | anonymous | allocated zeroed | zero-filled |
| write | anonymous | allocated; the page was anonymous before | copied |
| write | anonymous | allocated; it was not | from-file |
| write | anonymous, hugetlb | another, without an allocation: from the pool | zero-filled, or copied |

What could make this depend on chance is kept away: all run on one CPU (`puppet`), huge pages are off for a
puppet unless asked for, files are written page by page so that their folios are single pages, nobody looks at
memory by ways that take references (`observe`).
"""

from __future__ import annotations

import errno
import os
import signal
import sys
import tempfile
from types import TracebackType

from cowscope.errors import CowscopeError, MissingRight
from cowscope.lab import holds, ksm, remote, stub
from cowscope.lab.model import Settings
from cowscope.lab.observe import Observer, read_borders
from cowscope.lab.puppet import Call, Puppet, Reply, Troupe
from cowscope.lab.result import NotChecked, Result, Word
from cowscope.lab.scenario import END_PAGE, FIRST_PAGE, Line, Scenario
from cowscope.lab.steps import (
    LABEL_BYTES,
    OPTIONS,
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
from cowscope.lab.trace import Seen, Trace
from cowscope.lab.view import Border, Ints, Sight, State, View
from cowscope.units import PAGE_SHIFT, PAGE_SIZE

_FIXED, _ANONYMOUS, _SHARED, _PRIVATE = 0x10, 0x20, 0x1, 0x2
_MREMAP_MAYMOVE, _MREMAP_FIXED = 1, 2
_UPSETS = {
    b"pgmigrate_success": "migration: the kernel moved pages meanwhile",
    b"thp_fault_fallback": "fallback: the kernel had no huge page left",
    b"thp_collapse_alloc": "collapse: khugepaged made a huge page meanwhile",
}
"""Counters of /proc/vmstat, and the rule that leaves a disagreement out if they rose."""
_MERGING = "merging: somebody had ksmd merge same pages meanwhile"
"""The same for `pages_scanned` of /sys/kernel/mm/ksm, our own merging left aside."""
_POOL = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages"
_SCRATCH = "read(2)"
_FAILED = -1
"""Stands in a reply for the signal when a call of ours failed: any value may be read."""
_BATCHED = (Advice.FREE, Advice.COLD, Advice.PAGEOUT)
_SIGNALS = {
    (signal.SIGSEGV, 1): Word.SEGV_MAPERR,
    (signal.SIGSEGV, 2): Word.SEGV_ACCERR,
    (signal.SIGBUS, 2): Word.BUS_ADRERR,
}


class Stage:
    """What scenarios on this kernel have in common: puppets, eyes, and the trace where it is allowed."""

    def __init__(self, cpu: int | None = None, *, merge_same_pages: bool = False) -> None:
        """Start the template. Raises `MissingRight` where there can be no puppets.

        With `merge_same_pages` the line `merge` is carried out, which concerns the whole machine (`ksm`).
        """
        if not sys.platform.startswith("linux"):
            raise MissingRight("there is no Linux kernel to compare with", "run on Linux")
        self.thp = b"[madvise]" in _read("/sys/kernel/mm/transparent_hugepage/enabled")
        self.troupe = Troupe(cpu, small_pages=not self.thp)
        self.observer = Observer()
        self.merges, self._scanned = merge_same_pages, 0
        self._vmstat = os.open("/proc/vmstat", os.O_RDONLY | os.O_CLOEXEC)
        try:
            self.trace: Trace | None = Trace(
                self.troupe.cpu, FIRST_PAGE << PAGE_SHIFT, END_PAGE << PAGE_SHIFT
            )
            self.untraced = ""
        except MissingRight as error:
            self.trace, self.untraced = None, str(error)
        self.settings = Settings(
            hugetlb_pages=int(_read(_POOL) or 0),
            swap=b"\n/" in _read("/proc/swaps"),
            folio_orders=frozenset(order for order in range(1, 9) if self.thp and _is_advised(order)),
        )
        seen = self.observer.sight
        self.sight = Sight(seen.states, seen.frames, self.trace is not None and seen.frames, seen.borders)

    def __enter__(self) -> Stage:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End all puppets."""
        self.close()

    def upsets(self) -> dict[str, int]:
        """How often since boot something happened that makes the kernel's answer depend on chance."""
        data = os.pread(self._vmstat, 1 << 16, 0)
        counted = {rule: _counter(data, name) for name, rule in _UPSETS.items()}
        return {**counted, _MERGING: ksm.scanned() - self._scanned}

    def upset_since(self, before: dict[str, int]) -> str:
        """The rule that leaves out what happened since `before`, or nothing."""
        now = self.upsets()
        return next((rule for rule, count in now.items() if count != before[rule]), "")

    def not_merging(self) -> str:
        """Why the line `merge` is not carried out here, or nothing."""
        if not self.merges:
            return "it has ksmd look at the memory of the whole machine (--merge-same-pages allows that)"
        return ksm.missing()

    def merge(self) -> None:
        """Have the kernel merge same pages."""
        before = ksm.scanned()
        ksm.merge()
        self._scanned += ksm.scanned() - before

    def close(self) -> None:
        """End all puppets and close everything."""
        os.close(self._vmstat)
        if self.trace:
            self.trace.close()
        self.observer.close()
        self.troupe.close()


class Kernel:
    """One side: puppets on a stage that do the steps of `scenario`; a context manager that ends them."""

    def __init__(self, scenario: Scenario, stage: Stage) -> None:
        """No puppet yet."""
        self.scenario, self.stage, self.sight = scenario, stage, stage.sight
        self.puppets: dict[str, Puppet] = {}
        self._ticks: int | None = None
        self._files = {_SCRATCH: os.memfd_create("cowscope-read")}
        self._pagemaps: dict[str, int] = {}
        self._opened: dict[str, dict[str, int]] = {}
        self._borders: dict[str, tuple[Border, ...]] = {}
        self._pages_out = False
        self._holds: dict[tuple[str, Range, Holder], holds.Hold] = {}

    def __enter__(self) -> Kernel:
        """Itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the puppets of this scenario."""
        for fd in (*self._pagemaps.values(), *self._files.values()):
            os.close(fd)
        self.stage.troupe.disband()

    def check(self, line: Line) -> None:
        """Raise `NotChecked` if this machine cannot show what `line` is about."""
        step = line.step
        if isinstance(step, Madvise) and step.advice is Advice.PAGEOUT and not self.stage.settings.swap:
            raise NotChecked("this machine has no swap")
        if isinstance(step, Merge) and (reason := self.stage.not_merging()):
            raise NotChecked(reason)
        if isinstance(step, Folios) and step.order not in self.stage.settings.folio_orders:
            size = f"{PAGE_SIZE * step.pages >> 10}kB"
            raise NotChecked(
                f"folios of {size} are not set to madvise here (transparent_hugepage/hugepages-{size})"
            )
        if isinstance(step, Mmap) and "hugetlb" in step.options and not self.stage.settings.hugetlb_pages:
            raise NotChecked("this machine has no free hugetlb pages (sysctl vm.nr_hugepages=32 gives some)")
        if isinstance(step, Madvise) and step.advice is Advice.HUGEPAGE and not self.stage.thp:
            raise NotChecked("huge pages are not set to madvise on this machine")
        if isinstance(step, Madvise) and step.advice is Advice.HUGEPAGE and not self.sight.frames:
            raise NotChecked("pagemap alone shows the map count of a huge page's first page for all of it")

    def do(self, line: Line, pages: Ints, before: dict[str, View]) -> tuple[Result, dict[str, View]]:
        """Do one step; say what came of it, and what there is to see afterwards at `pages`.

        `before` is what was to be seen, at the same pages.
        """
        step = line.step
        if self.stage.trace:
            self.stage.trace.skip()
        self._ticks = None
        if isinstance(step, File | Folios | Merge):
            if isinstance(step, File):
                self._make(step)
            elif isinstance(step, Merge):
                self.stage.merge()
            return Result("ok"), self.views(pages)
        puppet = self.puppets.get(step.process)
        reply = self._play(step, puppet)
        if puppet is not None and not isinstance(step, Remote | Exit | Exec):
            self._ticks = puppet.ticks
        seen = self._seen(puppet)
        self._look_at_maps(step)
        views = self.views(pages)
        if isinstance(step, Load | Store | Read):
            return self._judged(step, reply, seen, before, views, pages), views
        if isinstance(step, Remote):
            failed = reply.signal == _FAILED
            data = None if failed or step.data is not None else reply.value.to_bytes(LABEL_BYTES, "little")
            return Result(errno.errorcode[reply.error] if failed else "ok", (), data), views
        if isinstance(step, Madvise | Mmap) and reply.signal:
            raise CowscopeError(f"a puppet met signal {reply.signal} in: {step}")
        return Result(errno.errorcode[reply.error] if reply.error else "ok"), views

    def spent_ns(self) -> float | None:
        """How long the last step took in the process itself; None where it did nothing, or did not come back."""
        return None if self._ticks is None else self._ticks * self.stage.troupe.tick_ns()

    def _seen(self, puppet: Puppet | None) -> Seen | None:
        trace = self.stage.trace
        return trace.take(puppet.pid) if trace and puppet and puppet.name in self.puppets else None

    def views(self, pages: Ints) -> dict[str, View]:
        """What there is to see of each live process at `pages`."""
        names = list(self.puppets)
        found = self.stage.observer.look(
            [self.puppets[name] for name in names],
            [self._borders[name] for name in names],
            [self._pagemaps[name] for name in names],
            pages,
        )
        return dict(zip(names, found, strict=True))

    def _make(self, file: File) -> None:
        if file.kind == "memfd":
            fd = os.memfd_create("cowscope-file")
        else:
            fd = os.open(tempfile.gettempdir(), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        os.ftruncate(fd, file.pages * PAGE_SIZE)
        for page in range(0 if file.sparse else file.pages):
            os.pwrite(fd, file.label(page).ljust(PAGE_SIZE, b"\0"), page * PAGE_SIZE)
        self._files[file.name] = fd

    def _play(self, step: object, puppet: Puppet | None) -> Reply:
        if isinstance(step, Start):
            self._enter(step.process, self.stage.troupe.start(step.process), {})
            return Reply(0)
        assert puppet is not None
        match step:
            case Fork():
                child = puppet.fork(step.child)
                self._enter(step.child, child, dict(self._opened[step.process]))
                return Reply(0)
            case Exit():
                puppet.exit()
                self._leave(step.process)
                return Reply(0)
            case Exec():
                puppet.exec()
                os.close(self._pagemaps[step.process])
                self._pagemaps[step.process] = _open_pagemap(puppet.pid)
                return Reply(0)
            case Mmap():
                return self._mmap(step, puppet)
            case Munmap():
                return puppet.do(Call.MUNMAP, *self._span(step.range))
            case Mprotect():
                return puppet.do(Call.MPROTECT, *self._span(step.range), step.protection)
            case Mremap():
                return self._mremap(step, puppet)
            case Madvise():
                reply = puppet.do(Call.MADVISE, *self._span(step.range), step.advice.number)
                self._pages_out |= step.advice is Advice.PAGEOUT
                if step.advice in _BATCHED:
                    self._drain(puppet)
                return reply
            case Load():
                return self._drained(puppet, puppet.do(stub.LOAD, self._address(step.at)))
            case Store():
                reply = puppet.do(stub.STORE, self._address(step.at), _word(step.data))
                return self._drained(puppet, reply)
            case Read():
                os.pwrite(self._files[_SCRATCH], step.data.ljust(LABEL_BYTES, b"\0"), 0)
                scratch = self._open(puppet, _SCRATCH)
                if self.stage.trace:
                    self.stage.trace.skip()
                reply = puppet.do(Call.PREAD64, scratch, self._address(step.at), LABEL_BYTES, 0)
                return self._drained(puppet, reply)
            case Remote():
                reply = self._remote(step, puppet)
                self._drain(puppet)
                return reply
            case Hold():
                hold = holds.pin if step.holder is Holder.PIN else holds.splice
                reply, held = hold(puppet, *self._span(step.range))
                if not reply.error:
                    self._holds[step.process, step.range, step.holder] = held
                self._drain(puppet)
                return reply
            case Release():
                kept = self._holds.pop((step.process, step.range, step.holder), None)
                return holds.release(puppet, kept, self._span(step.range)[1]) if kept else Reply(0)
            case Mlock():
                number = Call.MUNLOCK if step.unlock else Call.MLOCK
                return puppet.do(number, *self._span(step.range))
            case Write():
                fd, at = self._open(puppet, step.at.name), step.at.first * PAGE_SIZE
                tail = step.data.ljust(LABEL_BYTES, b"\0")
                return puppet.do(Call.PWRITE64, fd, puppet.tail_address, LABEL_BYTES, at, tail=tail)
            case Truncate():
                return puppet.do(Call.FTRUNCATE, self._open(puppet, step.file), step.pages * PAGE_SIZE)
        raise AssertionError(step)

    def _remote(self, step: Remote, puppet: Puppet) -> Reply:
        address = self._address(step.at)
        try:
            if step.data is None:
                read = remote.vm_read if step.way is Way.VM_READV else remote.mem_read
                return Reply(_word(read(puppet.pid, address, LABEL_BYTES)))
            write = remote.vm_write if step.way is Way.VM_WRITEV else remote.mem_write
            write(puppet.pid, address, step.data.ljust(LABEL_BYTES, b"\0"))
        except OSError as error:
            return Reply((1 << 64) - (error.errno or errno.EIO), signal=_FAILED)
        return Reply(0)

    def _drained(self, puppet: Puppet, reply: Reply) -> Reply:
        """The reply of an access: a page that came back from swap with it stands in this CPU's batch."""
        if self._pages_out:
            self._drain(puppet)
        return reply

    def _drain(self, puppet: Puppet) -> None:
        """Empty this CPU's batches, whose references would make the next writes copy: any such advice does."""
        ticks = puppet.ticks
        puppet.do(Call.MADVISE, stub.buffer_address(stub.N_SLOTS - 1), PAGE_SIZE, Advice.COLD.number)
        puppet.ticks = ticks

    def _enter(self, name: str, puppet: Puppet, opened: dict[str, int]) -> None:
        self.puppets[name] = puppet
        self._pagemaps[name] = _open_pagemap(puppet.pid)
        self._opened[name] = opened
        self._borders[name] = ()

    def _leave(self, name: str) -> None:
        del self.puppets[name], self._borders[name], self._opened[name]
        os.close(self._pagemaps.pop(name))

    def _open(self, puppet: Puppet, name: str) -> int:
        """The descriptor of a file in a puppet, opened there when it is first needed."""
        opened = self._opened[puppet.name]
        if name not in opened:
            path = f"/proc/{os.getpid()}/fd/{self._files[name]}".encode()
            reply = puppet.do(Call.OPEN, puppet.tail_address, os.O_RDWR, 0, tail=path)
            if reply.error:
                raise OSError(reply.error, f"a puppet opens {name}: {os.strerror(reply.error)}")
            opened[name] = reply.value
        return opened[name]

    def _address(self, at: Range) -> int:
        return self.scenario.page(at) << PAGE_SHIFT

    def _span(self, area: Range) -> tuple[int, int]:
        return self._address(area), area.count << PAGE_SHIFT

    def _mmap(self, step: Mmap, puppet: Puppet) -> Reply:
        flags = _FIXED | (_SHARED if step.shared else _PRIVATE) | sum(OPTIONS[o] for o in step.options)
        fd = -1
        if step.file:
            fd = self._open(puppet, step.file)
        else:
            flags |= _ANONYMOUS
        address, length = self._span(Range(step.name, 0, step.pages))
        return puppet.do(Call.MMAP, address, length, step.protection, flags, fd, step.offset << PAGE_SHIFT)

    def _mremap(self, step: Mremap, puppet: Puppet) -> Reply:
        old, new = self._span(step.range), step.pages << PAGE_SHIFT
        if step.to is None:
            return puppet.do(Call.MREMAP, *old, new, 0)
        flags = _MREMAP_MAYMOVE | _MREMAP_FIXED
        return puppet.do(Call.MREMAP, *old, new, flags, self._address(step.to))

    def _look_at_maps(self, step: object) -> None:
        if isinstance(step, Load | Store | Read | Write | Truncate | Exit):
            return
        for name in {getattr(step, "process", ""), getattr(step, "child", "")} & set(self.puppets):
            self._borders[name] = read_borders(self.puppets[name].pid)

    def _judged(
        self,
        step: Load | Store | Read,
        reply: Reply,
        seen: Seen | None,
        before: dict[str, View],
        after: dict[str, View],
        pages: Ints,
    ) -> Result:
        page = self.scenario.page(step.at)
        codes = None
        if seen is not None and self.sight.faults:
            codes = tuple(f.error_code & 3 for f in seen.faults if f.address >> PAGE_SHIFT == page)
        if reply.signal:
            word = _SIGNALS.get((signal.Signals(reply.signal), reply.code))
            return Result(word or f"signal {reply.signal} code {reply.code}", codes)
        if isinstance(step, Read) and reply.error:
            return Result(errno.errorcode[reply.error], codes)
        data = reply.value.to_bytes(LABEL_BYTES, "little") if isinstance(step, Load) else None
        if codes is None or seen is None:
            return Result("", None, data)
        at = int(pages.searchsorted(page))
        outcome = _outcome(codes, seen, before[step.process], after[step.process], at)
        return Result(outcome, codes, data)


def _outcome(codes: tuple[int, ...], seen: Seen, before: View, after: View, at: int) -> str:
    if not codes:
        return Word.NO_FAULT
    frame, state, old = int(after.frame[at]), int(after.state[at]), int(before.state[at])
    if old & State.SWAPPED and state & State.PRESENT:
        return Word.SWAPPED_IN
    if not codes[-1] & 2:
        from_pool = state & State.HUGE and state & State.ANON and not old & State.PRESENT
        return Word.ZERO_FILLED if from_pool else Word.MAPPED
    same = frame == int(before.frame[at]) and bool(old & State.PRESENT)
    if not state & State.ANON:
        return Word.TRACKED if same else Word.MAPPED
    zeroed = seen.zeroed(frame)
    if zeroed is None and not same and state & State.HUGE:
        # Out of the hugetlb pool, which no event tells.
        return Word.COPIED if old & State.PRESENT else Word.ZERO_FILLED
    if zeroed is None:
        return Word.REUSED if same else Word.MAPPED
    if zeroed:
        return Word.ZERO_FILLED
    return Word.COPIED if old & State.ANON else Word.FROM_FILE


def _is_advised(order: int) -> bool:
    """Whether folios of so many pages go to memory marked HUGEPAGE. Those set to "always" are taken from puppets."""
    chosen = _read(f"/sys/kernel/mm/transparent_hugepage/hugepages-{PAGE_SIZE >> 10 << order}kB/enabled")
    return any(word in chosen for word in (b"[madvise]", b"[inherit]"))


def _word(data: bytes) -> int:
    return int.from_bytes(data.ljust(LABEL_BYTES, b"\0"), "little")


def _open_pagemap(pid: int) -> int:
    return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)


def _read(path: str) -> bytes:
    try:
        with open(path, "rb", buffering=0) as file:
            return file.readall() or b""
    except OSError:
        return b""


def _counter(data: bytes, name: bytes) -> int:
    at = data.find(b"\n" + name + b" ")
    return int(data[at + len(name) + 2 : data.index(b"\n", at + 1)]) if at >= 0 else 0
