"""Recordings made by hand: short rows in, the tables of the schema out."""

from __future__ import annotations

from dataclasses import dataclass, field

from cowscope.recording.schema import (
    NONE,
    TABLES,
    Access,
    Allocation,
    Columns,
    Operation,
    PageState,
    from_rows,
)
from cowscope.replay.engine import replay_tables
from cowscope.replay.verdicts import Replay, Verdict

PAGE = 4096
WRITE_PRESENT = Access.PRESENT | Access.WRITE | Access.USER
WRITE_ABSENT = Access.WRITE | Access.USER
READ_ABSENT = Access.USER
UNTOLD = Access.UNKNOWN | Access.USER
OWN, SHARED = PageState.PRESENT | PageState.EXCLUSIVE, PageState.PRESENT
LATE = 1_000_000


@dataclass
class Recorded:
    """Rows in the making. Process 0 is there from time 0 on, and maps pages 16 to 31 read-write."""

    processes: list[tuple[object, ...]] = field(default_factory=list)
    mappings: list[tuple[object, ...]] = field(default_factory=list)
    forks: list[tuple[object, ...]] = field(default_factory=list)
    faults: list[tuple[object, ...]] = field(default_factory=list)
    operations: list[tuple[object, ...]] = field(default_factory=list)
    censuses: list[tuple[object, ...]] = field(default_factory=list)
    symbols: list[tuple[object, ...]] = field(default_factory=list)
    looks: int = 0

    @classmethod
    def start(cls) -> Recorded:
        """With process 0 and its mapping."""
        recorded = cls()
        recorded.process(0)
        recorded.map(0, 0)
        return recorded

    def process(self, key: int, *, parent: int = NONE, time: int = 0, name: str = "worker") -> None:
        """A process; its pid is 100 and its key."""
        row = (key, 100 + key, parent, time, NONE, NONE, NONE, name, f"/bin/{name}", f"{name} --number {key}")
        self.processes.append(row)

    def map(
        self,
        process: int,
        time: int,
        start: int = 16,
        end: int = 32,
        *,
        to: int = NONE,
        protection: int = 3,
        shared: bool = False,
        file: bool = False,
        name: str = "[anon]",
    ) -> None:
        """A mapping from `time` on."""
        row = (len(self.mappings), process, time, to, start, end, protection, shared, int(file), 0, name)
        self.mappings.append(row)

    def fork(
        self,
        time: int,
        parent: int,
        child: int,
        *,
        pages: int = NONE,
        vfork: bool = False,
        before: bool = False,
        inherit: bool = True,
    ) -> None:
        """A fork; the child's row and its inherited mappings come with it."""
        self.process(child, parent=parent, time=time)
        self.forks.append((time, parent, child, vfork, pages, NONE, NONE, before))
        if inherit:
            for row in [row for row in self.mappings if row[1] == parent and row[3] == NONE]:
                self.mappings.append((len(self.mappings), child, time, *row[3:]))

    def fault(
        self,
        time: int,
        process: int,
        page: int,
        access: int = WRITE_PRESENT,
        allocation: Allocation = Allocation.NOT_WATCHED,
        *,
        tid: int = 0,
        code: int = 0,
    ) -> None:
        """A fault, by default a write to a present page."""
        self.faults.append((time, process, tid, page * PAGE + 8, code, int(access), int(allocation)))

    def operation(
        self, time: int, process: int, what: Operation, start: int = 0, n: int = 0, to: int = NONE
    ) -> None:
        """Something other than a fault."""
        self.operations.append((time, process, int(what), start, n, to))

    def census(
        self, time: int, process: int, *runs: tuple[int, int, int] | tuple[int, int, int, int], lasts: int = 0
    ) -> None:
        """A look; a run is first page, length, state and group."""
        for start, n, state, *group in runs:
            row = (self.looks, process, time, time + lasts, start, n, int(state), *(group or [NONE]))
            self.censuses.append(row)
        self.looks += 1

    def tables(self) -> dict[str, Columns]:
        """All tables, as the reader gives them."""
        rows = {
            "processes": self.processes,
            "mappings": self.mappings,
            "forks": self.forks,
            "faults": sorted(self.faults, key=lambda row: int(str(row[0]))),
            "operations": self.operations,
            "census": self.censuses,
            "symbols": self.symbols or [(0, "/bin/worker", 64, "work")],
        }
        return {name: from_rows(name, rows.get(name, [])) for name in TABLES}

    def replay(self) -> Replay:
        """What the replay says to it."""
        return replay_tables(self.tables())

    def verdicts(self) -> list[Verdict]:
        """The verdict for each fault, in order of time."""
        return [Verdict(int(verdict)) for verdict in self.replay().verdict]
