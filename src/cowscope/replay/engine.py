"""The replay itself: faults in batches between the steps of the schedule.

Between two steps nothing changes but by faults, so they go to the vm as one batch: reads first, then first
writes, then writes to present pages (a page is read before it is written, never the other way round).

| recorded | given to the vm as |
|---|---|
| write to a present page, allocation seen | write, imposed: copied |
| write to a present page, no allocation | write, imposed: not copied |
| write to a present page, not watched | write, the policy decides |
| write to an absent page | whatever stood there dropped, then write |
| read of an absent page | read |
| access not told (software event) | write if the page is read-only or anonymous, else read |

Not modelled: swap, KSM, huge pages as such (their 4 KiB parts are), userfaultfd.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cowscope.recording.reader import Recording
from cowscope.recording.schema import NONE, TABLES, Access, Allocation, Columns, Operation
from cowscope.replay.census import Census, Censuses
from cowscope.replay.forks import Window, shared_pages
from cowscope.replay.schedule import Kind, Step, schedule
from cowscope.replay.verdicts import (
    OF_OUTCOME,
    Fate,
    ForkShare,
    Reconciliation,
    Replay,
    Verdict,
)
from cowscope.units import PAGE_SHIFT
from cowscope.vm import AddressSpace, Dropped, Machine, Outcome, Protection
from cowscope.vm import Kind as Backing

FOREVER = 1 << 62
STACK = "[stack]"
STACK_PAGES = 2048
"""How far a stack may have grown below what was last seen of it: RLIMIT_STACK's 8 MiB."""

_DECIDED = np.array([-1, Outcome.REUSED, Outcome.COPIED], np.int8)
"""What the vm is told, by `Allocation`."""


def replay(recording: Recording, *, policy: str = "linux") -> Replay:
    """Replay a recording from disk; see `replay_tables`."""
    tables = {name: recording.table(name) for name in TABLES if name != "symbols"}
    return replay_tables(tables, policy=policy)


def replay_tables(tables: dict[str, Columns], *, policy: str = "linux") -> Replay:
    """Run the tables of a recording through a machine with that `policy`."""
    return _Engine(tables, Machine(policy)).run()


@dataclass
class _Engine:
    tables: dict[str, Columns]
    machine: Machine
    space_of: NDArray[np.int32] = field(init=False)
    forks: list[ForkShare] = field(default_factory=list)
    dropped: dict[int, int] = field(default_factory=dict)
    ends: dict[int, Dropped] = field(default_factory=dict)
    reconciliations: dict[int, Reconciliation] = field(default_factory=dict)
    copies: NDArray[np.int64] = field(init=False)
    unforeseen: int = 0

    def __post_init__(self) -> None:
        n = len(self.tables["processes"]["process"])
        self.faults = self.tables["faults"]
        self.space_of = np.full(n + 1, NONE, np.int32)
        self.copies = np.zeros(n + 1, np.int64)
        self.censuses = Censuses(self.tables["census"])
        self.verdict = np.zeros(len(self.faults["time_ns"]), np.int8)
        self.mapping = np.full(len(self.verdict), NONE, np.int32)
        self.exec_times = self._times(Operation.EXEC)
        children = self.tables["forks"]["child"][~self.tables["forks"]["before_start"].astype(bool)]
        for process in np.setdiff1d(np.arange(n), children).tolist():
            self.space_of[process] = self.machine.spawn().id
        self._start_groups()

    def run(self) -> Replay:
        times, at = self.faults["time_ns"], 0
        self.starting = True
        for step in schedule(self.tables):
            until = at + int(np.searchsorted(times[at:], step.time_ns)) if at < len(times) else at
            if until > at:
                self._resolve(at, until)
                at = until
            self._apply(step)
        if at < len(times):
            self._resolve(at, len(times))
        self._end_of_recording()
        return Replay(
            verdict=self.verdict,
            mapping=self.mapping,
            forks=tuple(self.forks),
            fates=tuple(self._fates()),
            reconciliations=tuple(self.reconciliations.values()),
            overruled=self.machine.memory.overruled,
            unforeseen=self.unforeseen,
        )

    # --- faults ---

    def _resolve(self, first: int, last: int) -> None:
        part = slice(first, last)
        process = self.faults["process"][part]
        spaces = self.space_of[process]
        pages = (self.faults["address"][part] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        access, decided = self.faults["access"][part], _DECIDED[self.faults["allocation"][part]]
        known = spaces != NONE
        self._find_mappings(spaces, pages, self.mapping[part])
        verdict = self.verdict[part]
        unknown = (access & Access.UNKNOWN) != 0
        if unknown.any():
            access = self._guess(spaces, pages, access, unknown & known)
        write, present = (access & Access.WRITE) != 0, (access & Access.PRESENT) != 0
        if not (write & present).all():
            self._read(np.flatnonzero(known & ~write), spaces, pages, verdict)
            self._first_write(np.flatnonzero(known & write & ~present), spaces, pages, verdict)
        chosen = known & write & present
        self._write(None if chosen.all() else np.flatnonzero(chosen), spaces, pages, decided, verdict)
        copied = process[verdict == Verdict.COPIED]
        self.copies += np.bincount(copied, minlength=len(self.copies))

    def _read(
        self,
        at: NDArray[np.intp],
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        verdict: NDArray[np.int8],
    ) -> None:
        if len(at):
            outcome = self.machine.read_faults(spaces[at], pages[at])
            found = OF_OUTCOME[outcome]
            # The page was not there, whatever the replay believed: an entry for it came into being.
            found[outcome == Outcome.NO_FAULT] = Verdict.FIRST_TOUCH
            verdict[at] = found

    def _first_write(
        self,
        at: NDArray[np.intp],
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        verdict: NDArray[np.int8],
    ) -> None:
        if not len(at):
            return
        for space_id in np.unique(spaces[at]).tolist():
            self.machine.spaces[space_id].zap(pages[at[spaces[at] == space_id]])
        outcome = self.machine.write_faults(spaces[at], pages[at])
        found = OF_OUTCOME[outcome]
        found[outcome == Outcome.NO_FAULT] = Verdict.RACED
        verdict[at] = found

    def _write(
        self,
        at: NDArray[np.intp] | None,
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        decided: NDArray[np.int8],
        verdict: NDArray[np.int8],
    ) -> None:
        if at is not None:
            if not len(at):
                return
            spaces, pages, decided = spaces[at], pages[at], decided[at]
        outcome = self.machine.write_faults(spaces, pages, decided=decided)
        found = OF_OUTCOME[outcome]
        copied = decided == Outcome.COPIED
        surprising = copied & (
            (outcome == Outcome.ZERO_FILLED) | (outcome == Outcome.NO_FAULT) | (outcome == Outcome.REUSED)
        )
        if surprising.any():
            # The kernel copied a page that the replay did not know as shared: its word stands.
            found[surprising] = Verdict.COPIED
            self.unforeseen += int(np.count_nonzero(surprising))
        again = (outcome == Outcome.NO_FAULT) & ~surprising
        if again.any():
            found[again] = _raced(spaces, pages, again)
        if at is None:
            verdict[:] = found
        else:
            verdict[at] = found

    def _find_mappings(
        self, spaces: NDArray[np.int32], pages: NDArray[np.int64], out: NDArray[np.int32]
    ) -> None:
        for space_id in _unique(spaces):
            if space_id == NONE:
                continue
            space = self.machine.spaces[space_id]
            where = (
                slice(None)
                if len(spaces) and (spaces == space_id).all()
                else np.flatnonzero(spaces == space_id)
            )
            rows = space.mappings.lookup(pages[where])
            if (rows < 0).any() and self._grow_stack(space, pages[where][rows < 0]):
                rows = space.mappings.lookup(pages[where])
            tags = space.mappings.tag
            out[where] = np.where(rows < 0, NONE, tags[rows]) if len(tags) else NONE

    def _grow_stack(self, space: AddressSpace, pages: NDArray[np.int64]) -> bool:
        """A stack grows without an event: what lies within its limit below it belongs to it."""
        names = self.tables["mappings"]["name"]
        for start, tag in zip(space.mappings.start.tolist(), space.mappings.tag.tolist(), strict=True):
            if names[tag] != STACK:
                continue
            below = pages[(pages < start) & (pages >= start - STACK_PAGES)]
            if len(below):
                lowest = int(below.min())
                protection = Protection.READ | Protection.WRITE
                space.map(lowest, start - lowest, protection=protection, tag=tag, keep_entries=True)
                return True
        return False

    def _guess(
        self,
        spaces: NDArray[np.int32],
        pages: NDArray[np.int64],
        access: NDArray[np.uint8],
        which: NDArray[np.bool_],
    ) -> NDArray[np.uint8]:
        """Access bits where the event did not tell them, from what the replay knows of the page."""
        access = access.copy()
        for space_id in _unique(spaces[which]):
            at = np.flatnonzero(which & (spaces == space_id))
            space = self.machine.spaces[space_id]
            states, rows = space.page_states(pages[at]), space.mappings.lookup(pages[at])
            anonymous = (
                (rows >= 0) & (space.mappings.kind[rows] == Backing.ANONYMOUS)
                if len(space.mappings)
                else rows < -1
            )
            bits = np.where(
                states.present, Access.PRESENT | Access.WRITE, np.where(anonymous, Access.WRITE, 0)
            )
            access[at] = bits.astype(np.uint8) | Access.USER
        return access

    # --- steps ---

    def _apply(self, step: Step) -> None:
        if step.kind is Kind.CENSUS:
            self._census(step.row)
        elif step.kind is Kind.OPERATION:
            self._operation(step.row)
        elif step.kind is Kind.PLACE:
            self._place(step.row)
        elif step.kind is Kind.REMOVE:
            self._remove(step.row)
        else:
            self._fork(step.row)

    def _space(self, process: int) -> AddressSpace | None:
        return self.machine.spaces.get(int(self.space_of[process]))

    def _place(self, row: int) -> None:
        table = self.tables["mappings"]
        space = self._space(int(table["process"][row]))
        if space is not None:
            start, end = int(table["start_page"][row]), int(table["end_page"][row])
            space.map(
                start,
                end - start,
                protection=int(table["protection"][row]),
                shared=bool(table["shared"][row]),
                kind=Backing(int(table["kind"][row])),
                tag=row,
                keep_entries=True,
            )

    def _remove(self, row: int) -> None:
        """Take away what is left of a mapping that ended; most often another has taken its place."""
        table = self.tables["mappings"]
        process = int(table["process"][row])
        space = self._space(process)
        if space is None:
            return
        start, end = int(table["start_page"][row]), int(table["end_page"][row])
        for record in space.mappings.clipped(start, end):
            if int(self.tables["mappings"]["from_ns"][record.tag]) < int(table["to_ns"][row]):
                self._note_dropped(process, space.unmap(record.start, record.end - record.start))

    def _operation(self, row: int) -> None:
        table = self.tables["operations"]
        process, what = int(table["process"][row]), int(table["operation"][row])
        space = self._space(process)
        if space is None:
            return
        start, n = int(table["start_page"][row]), int(table["n_pages"][row])
        if what == Operation.DISCARD:
            self._note_dropped(process, space.discard(start, n))
        elif what == Operation.UNMAP or what == Operation.MOVE:
            self._note_dropped(process, space.unmap(start, n))
        elif what == Operation.EXEC:
            self._exec(process, space)
        elif what == Operation.EXIT:
            self._exit(process, space)

    def _exec(self, process: int, space: AddressSpace) -> None:
        if self._is_borrowed(process):
            self.space_of[process] = self.machine.spawn().id
        else:
            self._note_dropped(process, self.machine.exec(space.id))

    def _exit(self, process: int, space: AddressSpace) -> None:
        if not self._is_borrowed(process):
            self.ends[process] = self.machine.exit(space.id)
        self.space_of[process] = NONE

    def _is_borrowed(self, process: int) -> bool:
        """Whether the space is also another's (CLONE_VM): then only the last to leave ends it."""
        return int(np.count_nonzero(self.space_of == self.space_of[process])) > 1

    def _note_dropped(self, process: int, dropped: Dropped) -> None:
        if dropped.inherited:
            self.dropped[process] = self.dropped.get(process, 0) + dropped.inherited

    # --- forks ---

    def _fork(self, row: int) -> None:
        table = self.tables["forks"]
        parent, child, time = (int(table[name][row]) for name in ("parent", "child", "time_ns"))
        if table["before_start"][row]:
            return
        space = self._space(parent)
        if space is None:
            return
        if table["shares_memory"][row]:
            self.space_of[child] = space.id
            return
        seen = self._install_shared(parent, child, time, space)
        born = self.machine.fork(space.id)
        self.space_of[child] = born.id
        self.forks.append(
            ForkShare(
                parent=parent,
                child=child,
                time_ns=time,
                kernel_pages=int(table["anonymous_pages"][row]),
                replay_pages=born.shared_at_fork,
                seen=seen,
                before_start=False,
            )
        )

    def _install_shared(self, parent: int, child: int, time: int, space: AddressSpace) -> bool:
        """Bring the parent's space to what it must have held at the fork; whether the child was seen."""
        census = self.censuses.first_after(child, time, self._next_exec(child, time))
        if census is None:
            beside = self.censuses.first_after(parent, time, self._next_exec(parent, time))
            if beside is not None:
                space.install(beside.pages, exclusive=True)
            return False
        present = space.present_pages()
        known = present[space.page_states(present).anon] if len(present) else present
        window = self._window(parent, child, time, census)
        shared, vanished = shared_pages(census, known, window)
        if len(vanished):
            space.zap(vanished)
        space.install(shared, exclusive=True)
        return True

    def _next_exec(self, process: int, time: int) -> int:
        later = [at for at in self.exec_times.get(process, []) if at > time]
        return min(later, default=FOREVER)

    def _window(self, parent: int, child: int, time: int, census: Census) -> Window:
        """What happened between a fork and the census of its child."""
        times = self.faults["time_ns"]
        part = slice(*np.searchsorted(times, (time, census.until_ns)).tolist())
        process, allocation = self.faults["process"][part], self.faults["allocation"][part]
        pages = (self.faults["address"][part] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        mine = process == child
        operations = self.tables["operations"]
        within = (operations["time_ns"] >= time) & (operations["time_ns"] <= census.until_ns)
        own, others = within & (operations["process"] == child), within & (operations["process"] != child)
        left = others & np.isin(operations["operation"], (Operation.EXEC, Operation.EXIT))
        return Window(
            written=pages[mine],
            copied=pages[mine & (allocation == Allocation.PAGE)],
            written_by_others=pages[~mine],
            dropped=_ranges(operations, own),
            dropped_by_others=_ranges(operations, others & ~left),
            others_left=bool(left.any()),
        )

    def _times(self, operation: Operation) -> dict[int, list[int]]:
        table = self.tables["operations"]
        chosen = table["operation"] == operation
        found: dict[int, list[int]] = {}
        for process, time in zip(
            table["process"][chosen].tolist(), table["time_ns"][chosen].tolist(), strict=True
        ):
            found.setdefault(process, []).append(time)
        return found

    # --- censuses ---

    def _start_groups(self) -> None:
        """Trees that had forked before the recording began are set up at their first census."""
        forks = self.tables["forks"]
        self.initial = set(np.flatnonzero(self.space_of[:-1] != NONE).tolist())
        before = forks["before_start"].astype(bool)
        self.relatives = {
            int(child): (int(parent), int(time))
            for parent, child, time in zip(
                forks["parent"][before], forks["child"][before], forks["time_ns"][before], strict=True
            )
        }
        self.pending: list[Census] = []

    def _census(self, row: int) -> None:
        census = self.censuses.at_row(row)
        space = self._space(census.process)
        if space is None:
            return
        if (census.group != NONE).any() or (self.relatives and not len(space.present_pages())):
            self._set_up(census, space)
        else:
            self._reconcile(census, space)

    def _set_up(self, census: Census, space: AddressSpace) -> None:
        """The first census of a process that was there before: what it has, and with whom."""
        self._map_from_table(census, space)
        space.install(census.pages[census.exclusive], exclusive=True)
        self.pending.append(census)
        expected = {int(p) for p in self.initial if self.censuses.last_row(int(p)) != NONE}
        if {each.process for each in self.pending} >= expected:
            self._share(self.pending)
            self.pending = []

    def _map_from_table(self, census: Census, space: AddressSpace) -> None:
        """Mappings of the same instant are placed by later steps; the pages need them now."""
        table = self.tables["mappings"]
        mine = (table["process"] == census.process) & (table["from_ns"] == census.time_ns)
        for row in np.flatnonzero(mine).tolist():
            self._place(row)

    def _share(self, censuses: list[Census]) -> None:
        pages = [census.pages[~census.exclusive] for census in censuses]
        groups = [
            np.where(group == NONE, -2 - page, group)
            for group, page in (
                (census.group[~census.exclusive], census.pages[~census.exclusive]) for census in censuses
            )
        ]
        spaces = [
            np.full(len(page), self.space_of[census.process], np.int32)
            for page, census in zip(pages, censuses, strict=True)
        ]
        self.machine.install_shared(np.concatenate(spaces), np.concatenate(pages), np.concatenate(groups))
        for child, (parent, time) in self.relatives.items():
            space = self._space(child)
            if space is not None:
                present = space.present_pages()
                count = int(np.count_nonzero(space.page_states(present).inherited)) if len(present) else 0
                self.forks.append(
                    ForkShare(
                        parent=parent,
                        child=child,
                        time_ns=time,
                        kernel_pages=NONE,
                        replay_pages=count,
                        seen=True,
                        before_start=True,
                    )
                )

    def _reconcile(self, census: Census, space: AddressSpace) -> None:
        """Compare with a census, but for pages that changed while it was taken; the last one counts."""
        known = space.present_pages()
        if not len(known) or self._forks_during(census):
            return
        states = space.page_states(known)
        known, count = known[states.anon], states.map_count[states.anon]
        known_now = ~np.isin(known, self._written_during(census))
        known, count = known[known_now], count[known_now]
        both, in_known, in_census = np.intersect1d(
            known, census.pages, assume_unique=True, return_indices=True
        )
        self.reconciliations[census.process] = Reconciliation(
            process=census.process,
            time_ns=census.time_ns,
            pages=len(both),
            replay_private=int(np.count_nonzero(count[in_known] == 1)),
            census_private=int(np.count_nonzero(census.exclusive[in_census])),
            replay_copies=int(self.copies[census.process]),
            vanished=len(known) - len(both),
        )

    def _written_during(self, census: Census) -> NDArray[np.int64]:
        part = slice(*np.searchsorted(self.faults["time_ns"], (census.time_ns, census.until_ns)).tolist())
        pages: NDArray[np.int64] = (self.faults["address"][part] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        return pages

    def _forks_during(self, census: Census) -> bool:
        """A fork or an exit while pages were looked at: no instant that the replay could be compared with."""
        for table, names in (("forks", ("parent", "child")), ("operations", ("process",))):
            columns = self.tables[table]
            within = (columns["time_ns"] >= census.time_ns) & (columns["time_ns"] <= census.until_ns)
            if table == "operations":
                return bool((within & np.isin(columns["operation"], (Operation.EXEC, Operation.EXIT))).any())
            if any((within & (columns[name] == census.process)).any() for name in names):
                return True
        return False

    # --- the end ---

    def _end_of_recording(self) -> None:
        """Processes that outlive the recording end with it, all at once: nobody leaves first."""
        for process in np.flatnonzero(self.space_of[:-1] != NONE).tolist():
            space = self.machine.spaces[int(self.space_of[process])]
            present = space.present_pages()
            if not len(present) or process in self.ends:
                continue
            states = space.page_states(present)
            shared = states.inherited & (states.map_count > 1)
            self.ends[process] = Dropped(
                entries=len(present),
                inherited_shared=int(np.count_nonzero(shared)),
                inherited_alone=int(np.count_nonzero(states.inherited & ~shared)),
            )

    def _fates(self) -> list[Fate]:
        return [
            Fate(
                process=process,
                dropped=self.dropped.get(process, 0),
                still_shared=self.ends[process].inherited_shared if process in self.ends else 0,
                alone=self.ends[process].inherited_alone if process in self.ends else 0,
            )
            for process in sorted({share.child for share in self.forks})
        ]


def _raced(spaces: NDArray[np.int32], pages: NDArray[np.int64], again: NDArray[np.bool_]) -> NDArray[np.int8]:
    """Faults that found nothing to do: RACED where the batch has an earlier one of the same page."""
    key = (spaces.astype(np.int64) << 52) | pages
    _, first = np.unique(key, return_index=True)
    repeated = np.ones(len(pages), bool)
    repeated[first] = False
    return np.where(repeated[again], np.int8(Verdict.RACED), np.int8(Verdict.UNKNOWN))


def _unique(spaces: NDArray[np.int32]) -> list[int]:
    if not len(spaces):
        return []
    return [int(spaces[0])] if (spaces == spaces[0]).all() else np.unique(spaces).tolist()


def _ranges(operations: Columns, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Start and end pages of the chosen operations, as rows."""
    start = operations["start_page"][chosen]
    return np.stack([start, start + operations["n_pages"][chosen]], axis=1).astype(np.int64)
