"""The machine: all address spaces over one memory, and what happens between processes.

| operation | effect |
|---|---|
| spawn | a new, empty space |
| fork | a child that shares the parent's private pages (`cowscope.vm.processes`) |
| exec | the space drops everything and stays |
| exit | the space drops everything and is gone; its number is never used again |
| write_faults, read_faults | page faults, in batches across spaces (`cowscope.vm.faults`) |

Programs with pids live one floor higher, in `cowscope.vm.process`; a space ends when its last process leaves it.
Not modelled: scheduling; time is the order of the calls.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from cowscope.errors import InvalidArgument, NotModelled
from cowscope.vm import faults, installing, processes, same_page
from cowscope.vm.architecture import ARCHITECTURES, Architecture
from cowscope.vm.arguments import batch, checked, column, decisions, number
from cowscope.vm.columns import Outcomes
from cowscope.vm.events import Event
from cowscope.vm.files import File
from cowscope.vm.folios import Pool
from cowscope.vm.frames import Frames
from cowscope.vm.hugetlb import GIGANTIC, HUGE
from cowscope.vm.memory import Memory
from cowscope.vm.policies import POLICIES, Policy
from cowscope.vm.process import Process
from cowscope.vm.spaces import AddressSpace
from cowscope.vm.states import Dropped
from cowscope.vm.tables import LEAF_SHIFT


class Machine:
    """Processes' address spaces, by number, over one memory.

    `policy` is a name in `POLICIES` or a policy; `frame_limit` bounds the frames in use.

    >>> machine = Machine()
    >>> parent = machine.spawn()
    >>> parent.map(16, 1, protection=3).entries
    0
    >>> parent.store(16 * 4096, b"mine")
    >>> child = machine.fork(parent.id)
    >>> child.shared_at_fork, machine.memory.frames.in_use
    (1, 1)
    >>> child.store(16 * 4096, b"ours")
    >>> parent.load(16 * 4096, 4), child.load(16 * 4096, 4), machine.memory.frames.in_use
    (b'mine', b'ours', 2)
    """

    @checked
    def __init__(
        self,
        policy: Policy | str = "linux",
        frame_limit: int | None = None,
        *,
        swap_pages: int = 0,
        huge_pages: bool = False,
        folio_orders: Iterable[int] = (),
        advised_orders: Iterable[int] = (),
        hugetlb_pages: Mapping[int, int] | None = None,
        n_cpus: int = 1,
        architecture: Architecture | str = "x86-64",
    ) -> None:
        """Start with no process; `InvalidArgument` for a name that nothing has, and for numbers that cannot be.

        Without `swap_pages` there is no swap. `huge_pages`: mappings marked HUGEPAGE get them; `folio_orders` (1 to
        8): all private anonymous memory gets folios of so many pages (powers of two) where they fit;
        `advised_orders`: mappings marked HUGEPAGE do.
        `hugetlb_pages`: how many pages each pool has, by base pages in one (512: 2 MiB, 262144: 1 GiB).
        Huge pages of both kinds are modelled for base pages of 4 KiB alone (`NotModelled`).
        Threads are spread over `n_cpus` processors, which cost shootdowns.
        """
        chosen = policy if isinstance(policy, Policy) else _named(POLICIES, "policy", policy)
        built = architecture
        if not isinstance(built, Architecture):
            built = _named(ARCHITECTURES, "architecture", built)
        pools = _pools(hugetlb_pages or {})
        always, advised = _orders("folio_orders", folio_orders), _orders("advised_orders", advised_orders)
        if min(frame_limit or 0, swap_pages, n_cpus - 1) < 0:
            raise InvalidArgument("no machine has so few frames, pages or processors")
        if built.table_shift != LEAF_SHIFT and (huge_pages or pools):
            raise NotModelled(f"huge pages of {built.name}")
        self.memory = Memory(Frames(frame_limit, built.page_size), chosen, built)
        self.spaces = self.memory.spaces
        self.memory.swap_pages = swap_pages
        self.memory.pools = pools
        self.memory.huge_pages = huge_pages
        self.memory.folio_orders, self.memory.advised_orders = always, advised
        self._n_spaces = 0
        self.processes: dict[int, Process] = {}
        """All processes by pid, zombies too."""
        self._n_pids = 0
        self.n_cpus = n_cpus

    def start(self) -> Process:
        """A new process with an empty address space, and no parent."""
        return self.adopt(None, self.spawn())

    @checked
    def file(self, n_bytes: int = 0, *, tracked: bool = False) -> File:
        """A new file of `n_bytes` bytes; `tracked` if a file system wants to know of first writes (see `File`)."""
        return File(self.memory, n_bytes, tracked=tracked)

    def new_pid(self) -> int:
        """A number that no process or thread has had."""
        self._n_pids += 1
        return self._n_pids

    def adopt(self, parent: Process | None, space: AddressSpace) -> Process:
        """A new process in `space`, as a child of `parent`."""
        process = Process(self, self.new_pid(), space, parent)
        self.processes[process.pid] = process
        if parent is not None:
            parent.children.append(process)
        return process

    def leave(self, space: AddressSpace) -> None:
        """A process went out of `space`; it ends with the last."""
        if not any(process.lives_in(space) for process in self.processes.values()):
            self.exit(space.id)

    def bury(self, process: Process) -> None:
        """Nobody can ask for this process any more."""
        self.processes.pop(process.pid, None)

    @property
    def table_bytes(self) -> int:
        """Bytes that the page tables of all spaces take, every level counted, shared leaf tables once."""
        architecture = self.memory.architecture
        n_tables = 0
        for space in self.spaces.values():
            leaves = np.fromiter(space.table.leaves, np.int64, len(space.table.leaves))
            n_tables += sum(architecture.n_tables(leaves << LEAF_SHIFT))
        n_tables -= sum(n_sharers - 1 for n_sharers in self.memory.tables.sharers.values())
        return n_tables * architecture.page_size

    def merge_same_pages(self) -> int:
        """Let KSM look at all marked mappings until nothing more merges; how many frames that freed.

        Raises `NotModelled` where it would meet what `cowscope.vm.same_page` has no rule for.
        """
        return same_page.merge_equal(self.memory)

    def listen(self, listener: Callable[[Event], None]) -> None:
        """Have `listener` called with each event of each trapped `load` and `store`, once the trap is resolved."""
        if not callable(listener):
            raise InvalidArgument(f"listen: listener must be a function, not {listener!r}")
        self.memory.listeners.append(listener)

    def spawn(self) -> AddressSpace:
        """A new space with nothing in it."""
        return self._enter(AddressSpace(self.memory, self._n_spaces))

    @checked
    def fork(self, parent_id: int) -> AddressSpace:
        """A child of space `parent_id`; its `shared_at_fork` is how many anonymous pages both share."""
        return self._enter(processes.fork(self._space(parent_id), self._n_spaces))

    def _enter(self, space: AddressSpace) -> AddressSpace:
        self.spaces[space.id] = space
        self._n_spaces += 1
        return space

    @checked
    def exec(self, space_id: int) -> Dropped:
        """Drop all that space `space_id` has, and say what stood there."""
        return self._space(space_id).clear()

    @checked
    def exit(self, space_id: int) -> Dropped:
        """End space `space_id`, and say what stood there."""
        gone = self._space(space_id)
        del self.spaces[space_id]
        return gone.clear()

    def _space(self, number: int) -> AddressSpace:
        if number not in self.spaces:
            raise InvalidArgument(f"there is no space {number}")
        return self.spaces[number]

    def write_faults(
        self,
        spaces: npt.ArrayLike,
        pages: npt.ArrayLike,
        *,
        decided: npt.ArrayLike | None = None,
    ) -> Outcomes:
        """Resolve a write fault on page `pages[i]` of space `spaces[i]`, in this order; int8[n] `Outcome`.

        `decided[i]` imposes what the policy would be asked: `Outcome.COPIED`, `Outcome.REUSED` ("not
        copied"), or -1 for the policy. It holds only where the policy would be asked: for anonymous pages
        that are not marked exclusive. An imposed reuse of a frame that others map makes the page writable
        but not exclusive, and the frame DISPUTED.

        Raises `InvalidArgument` for a space that is not there, a number that no page has, and columns of other
        types or of different lengths.

        >>> from cowscope.vm import Outcome
        >>> machine = Machine()
        >>> space = machine.spawn()
        >>> _ = space.map(0, 8, protection=3)
        >>> [Outcome(o).name for o in machine.write_faults([0, 0, 0], [3, 3, 9])]
        ['ZERO_FILLED', 'NO_FAULT', 'SEGMENTATION_FAULT']
        """
        ids, numbers = batch(spaces, pages, self.spaces, self._n_spaces)
        imposed = None if decided is None else decisions(decided, len(ids))
        return faults.write_faults(self.memory, self.spaces, ids, numbers, imposed)

    def read_faults(self, spaces: npt.ArrayLike, pages: npt.ArrayLike) -> Outcomes:
        """Resolve a read fault on page `pages[i]` of space `spaces[i]`, in this order; int8[n] `Outcome`.

        Raises as `write_faults`.
        """
        ids, numbers = batch(spaces, pages, self.spaces, self._n_spaces)
        return faults.read_faults(self.memory, self.spaces, ids, numbers)

    def install_shared(self, spaces: npt.ArrayLike, pages: npt.ArrayLike, groups: npt.ArrayLike) -> int:
        """Let pages with the same number in `groups` share one anonymous frame each; how many entries.

        For a tree of processes that forked before anybody looked. The first of a group stands for the
        process that wrote the page, the others count as inherited. Pages that cannot take a frame
        (see `AddressSpace.install`) are left out. Raises as `write_faults`.
        """
        ids, numbers = batch(spaces, pages, self.spaces, self._n_spaces)
        members = column("groups", groups)
        if len(members) != len(ids):
            raise InvalidArgument(f"there are {len(members)} groups for {len(ids)} pages")
        return installing.install_shared(self.memory, ids, numbers, members.astype(np.int64, copy=False))


_Named = TypeVar("_Named")


def _named(known: Mapping[str, _Named], what: str, name: str) -> _Named:
    if name not in known:
        raise InvalidArgument(f"no {what} is called {name!r}; there are {', '.join(known)}")
    return known[name]


def _orders(name: str, given: Iterable[int]) -> frozenset[int]:
    if not isinstance(given, Iterable):
        raise InvalidArgument(f"{name} must be several integers, not {given!r}")
    orders = frozenset(number(f"{name}: each", order) for order in given)
    if not orders <= set(range(1, 9)):
        raise InvalidArgument("folios have orders from 1 to 8")
    return orders


def _pools(given: Mapping[int, int]) -> dict[int, Pool]:
    if not isinstance(given, Mapping):
        raise InvalidArgument(f"hugetlb_pages must be a number of pages by their size, not {given!r}")
    free = {unit: number("hugetlb_pages: each number", n_pages) for unit, n_pages in given.items()}
    if not set(free) <= {HUGE, GIGANTIC} or min(free.values(), default=0) < 0:
        raise InvalidArgument("hugetlb pages are of 512 or 262144 base pages, and not fewer than none")
    return {unit: Pool(n_pages) for unit, n_pages in free.items()}
