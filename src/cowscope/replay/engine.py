"""The replay itself: the steps of the schedule, and the faults between them as batches (`batch`).

Not modelled: swap, KSM, huge pages as such (their 4 KiB parts are), userfaultfd.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from cowscope.recording.reader import Recording
from cowscope.recording.schema import NONE, TABLES, Allocation, Columns, Operation
from cowscope.replay.batch import Faults
from cowscope.replay.census import Census, Censuses
from cowscope.replay.forks import Window, among, shared_pages
from cowscope.replay.schedule import Kind, Step, schedule
from cowscope.replay.verdicts import (
    Fate,
    ForkShare,
    Reconciliation,
    Replay,
)
from cowscope.units import PAGE_SHIFT
from cowscope.vm import AddressSpace, Dropped, Machine
from cowscope.vm import Kind as Backing

FOREVER = 1 << 62


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

    def __post_init__(self) -> None:
        n = len(self.tables["processes"]["process"])
        self.faults = self.tables["faults"]
        self.batch = Faults(self.tables, self.machine)
        self.space_of = np.full(n + 1, NONE, np.int32)
        self.censuses = Censuses(self.tables["census"])
        self.exec_times = self._times(Operation.EXEC)
        self.last_usable = self.censuses.last_undisturbed(_disturbances(self.tables))
        children = self.tables["forks"]["child"][~self.tables["forks"]["before_start"].astype(bool)]
        for process in np.setdiff1d(np.arange(n), children).tolist():
            self.space_of[process] = self.machine.spawn().id
        self._start_groups()

    def run(self) -> Replay:
        times, at = self.faults["time_ns"], 0
        for step in schedule(self.tables):
            until = at + int(np.searchsorted(times[at:], step.time_ns)) if at < len(times) else at
            if until > at:
                self.batch.resolve(at, until, self.space_of)
                at = until
            self._apply(step)
        if at < len(times):
            self.batch.resolve(at, len(times), self.space_of)
        self._end_of_recording()
        return Replay(
            verdict=self.batch.verdict,
            mapping=self.batch.mapping,
            forks=tuple(self.forks),
            fates=tuple(self._fates()),
            reconciliations=tuple(self.reconciliations.values()),
            overruled=self.machine.memory.overruled,
            silent=self.machine.memory.spared,
            unforeseen=self.batch.unforeseen,
            assumed=self.batch.assumed,
        )

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
        elif what == Operation.UNMAP:
            self._note_dropped(process, space.unmap(start, n))
        elif what == Operation.MOVE:
            self._note_dropped(process, space.move(start, n, int(table["to_page"][row])))
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
        counted = int(table["anonymous_pages"][row])
        seen = self._install_shared(parent, child, time, space, counted)
        born = self.machine.fork(space.id)
        self.space_of[child] = born.id
        unseen = max(counted - born.shared_at_fork, 0)
        self.batch.unseen.pop(space.id, None)
        if unseen:
            self.batch.unseen |= {space.id: unseen, born.id: unseen}
        self.forks.append(
            ForkShare(
                parent=parent,
                child=child,
                time_ns=time,
                kernel_pages=counted,
                replay_pages=born.shared_at_fork,
                seen=seen,
                before_start=False,
            )
        )

    def _install_shared(self, parent: int, child: int, time: int, space: AddressSpace, counted: int) -> bool:
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
        rows = space.mappings.lookup(census.pages)
        in_file = (
            (space.mappings.kind[rows] == Backing.FILE) & (rows >= 0) if len(space.mappings) else rows >= 0
        )
        found = shared_pages(census, known, in_file, window)
        if len(found.vanished):
            space.zap(found.vanished)
        space.install(found.certain, exclusive=True)
        total = len(known) - len(found.vanished) + int(np.count_nonzero(~among(found.certain, known)))
        # As many of the doubtful as the kernel counted: how many is certain then, which of them is not.
        wanted = len(found.doubtful) if counted == NONE else max(counted - total, 0)
        space.install(found.doubtful[:wanted], exclusive=True)
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
            copied_late=pages[mine & (allocation == Allocation.LATE)],
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
        elif row in self.last_usable:
            self._reconcile(census, space)

    def _set_up(self, census: Census, space: AddressSpace) -> None:
        """The first census of a process that was there before: what it has, and with whom."""
        self._map_from_table(census, space)
        space.install(census.pages[census.exclusive], exclusive=True)
        self.pending.append(census)
        expected = {int(p) for p in self.initial if self.censuses.has(int(p))}
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
        """Compare with a census, but for pages that changed while it was taken."""
        known = space.present_pages()
        if not len(known):
            return
        states = space.page_states(known)
        known, count = known[states.anon], states.map_count[states.anon]
        known_now = ~among(known, np.sort(self._written_during(census)))
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
            replay_copies=int(self.batch.copies[census.process]),
            vanished=len(known) - len(both),
        )

    def _written_during(self, census: Census) -> NDArray[np.int64]:
        part = slice(*np.searchsorted(self.faults["time_ns"], (census.time_ns, census.until_ns)).tolist())
        pages: NDArray[np.int64] = (self.faults["address"][part] >> np.uint64(PAGE_SHIFT)).astype(np.int64)
        return pages

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


def _disturbances(tables: dict[str, Columns]) -> NDArray[np.int64]:
    """Times of forks, execs and exits, ascending: at those, pages change hands without a fault."""
    operations = tables["operations"]
    ends = np.isin(operations["operation"], (Operation.EXEC, Operation.EXIT))
    return np.sort(np.concatenate([tables["forks"]["time_ns"], operations["time_ns"][ends]]).astype(np.int64))


def _ranges(operations: Columns, chosen: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Start and end pages of the chosen operations, as rows."""
    start = operations["start_page"][chosen]
    return np.stack([start, start + operations["n_pages"][chosen]], axis=1).astype(np.int64)
