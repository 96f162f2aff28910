"""A naive model of the vm: one Python object a frame, one dictionary entry a page, one fault at a time."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from cowscope.vm import Dropped, Kind, Outcome, Protection


@dataclass(eq=False)
class Frame:
    anon: bool = False
    exclusive: bool = False
    value: int = 0


ZERO = Frame()


@dataclass
class Pte:
    frame: Frame
    writable: bool = False
    dirty: bool = False
    inherited: bool = False


@dataclass
class Vma:
    start: int
    end: int
    protection: int
    shared: bool
    kind: Kind
    tag: int
    object: int
    offset: int
    anon_vma: bool = False
    dont_fork: bool = False
    wipe_on_fork: bool = False

    @property
    def backed(self) -> bool:
        return self.shared or self.kind == Kind.FILE

    def key(self, page: int) -> tuple[int, int]:
        return self.object, page - self.start + self.offset


@dataclass
class Space:
    vmas: list[Vma] = field(default_factory=list)
    ptes: dict[int, Pte] = field(default_factory=dict)

    def at(self, page: int) -> Vma | None:
        return next((vma for vma in self.vmas if vma.start <= page < vma.end), None)

    def carve(self, start: int, end: int) -> list[Vma]:
        """Split at both borders; the mappings inside."""
        for border in (start, end):
            vma = self.at(border)
            if vma is not None and vma.start < border:
                tail = replace(vma, start=border, offset=vma.offset + border - vma.start)
                self.vmas.append(tail)
                vma.end = border
        self.vmas.sort(key=lambda vma: vma.start)
        return [vma for vma in self.vmas if start <= vma.start < end]


class Model:
    """All spaces; `limit` bounds the frames in use."""

    def __init__(self, limit: int | None = None) -> None:
        self.limit = limit
        self.spaces: dict[int, Space] = {}
        self.cache: dict[tuple[int, int], Frame] = {}
        self.n_unnamed = 0

    def ptes(self) -> Iterator[Pte]:
        for space in self.spaces.values():
            yield from space.ptes.values()

    def map_count(self, frame: Frame) -> int:
        return 0 if frame is ZERO else sum(pte.frame is frame for pte in self.ptes())

    def in_use(self) -> int:
        frames = {id(pte.frame) for pte in self.ptes()} | {id(frame) for frame in self.cache.values()}
        return len(frames - {id(ZERO)})

    def full(self) -> bool:
        return self.limit is not None and self.in_use() >= self.limit

    def settle(self) -> None:
        """Unnamed objects that no mapping shows are gone."""
        shown = {vma.object for space in self.spaces.values() for vma in space.vmas}
        self.cache = {key: frame for key, frame in self.cache.items() if key[0] > 0 or key[0] in shown}

    # What a process does to its mappings

    def map(self, number: int, new: Vma, *, keep: bool = False) -> Dropped:
        space, dropped = self.spaces[number], Dropped()
        old = space.carve(new.start, new.end)
        alike = [vma for vma in old if keep and vma.shared == new.shared]
        strange = [page for vma in old if vma not in alike for page in range(vma.start, vma.end)]
        dropped = self.drop(number, strange)
        for vma in alike:
            new.anon_vma |= vma.anon_vma
            new.dont_fork |= vma.dont_fork
            new.wipe_on_fork |= vma.wipe_on_fork
        if not new.object and new.backed:
            self.name_object(new, alike)
        space.vmas = [vma for vma in space.vmas if vma not in old] + [new]
        space.vmas.sort(key=lambda vma: vma.start)
        if keep:
            self.reprotect(space, new)
        self.settle()
        return dropped

    def name_object(self, new: Vma, known: list[Vma]) -> None:
        for vma in known:
            if vma.object and vma.offset - vma.start + new.start >= 0:
                new.object, new.offset = vma.object, vma.offset - vma.start + new.start
                return
        self.n_unnamed += 1
        new.object, new.offset = -self.n_unnamed, new.start

    def reprotect(self, space: Space, vma: Vma) -> None:
        for page, pte in space.ptes.items():
            if vma.start <= page < vma.end:
                free = pte.frame.anon and pte.frame.exclusive
                if vma.shared:
                    free = pte.dirty or vma.kind == Kind.ANONYMOUS
                pte.writable = free and bool(vma.protection & Protection.WRITE)

    def protect(self, number: int, start: int, end: int, protection: int) -> None:
        space = self.spaces[number]
        for vma in self.changed(number, start, end, protection=protection):
            self.reprotect(space, vma)

    def changed(self, number: int, start: int, end: int, **values: int) -> list[Vma]:
        """Split off and change what differs; mappings that have the values already stay whole."""
        space, changed = self.spaces[number], []
        for vma in list(space.vmas):
            differs = any(getattr(vma, name) != value for name, value in values.items())
            if differs and vma.start < end and vma.end > start:
                (inside,) = space.carve(max(start, vma.start), min(end, vma.end))
                changed.append(inside)
        for vma in changed:
            for name, value in values.items():
                setattr(vma, name, value)
        return changed

    def drop(self, number: int, pages: list[int]) -> Dropped:
        space = self.spaces[number]
        ptes = [space.ptes[page] for page in pages if page in space.ptes]
        inherited = [self.map_count(pte.frame) for pte in ptes if pte.inherited]
        own = sum(pte.frame.anon and not pte.inherited for pte in ptes)
        space.ptes = {page: pte for page, pte in space.ptes.items() if page not in pages}
        return Dropped(len(ptes), sum(n > 1 for n in inherited), sum(n == 1 for n in inherited), own)

    def unmap(self, number: int, start: int, end: int) -> Dropped:
        space = self.spaces[number]
        dropped = self.drop(number, list(range(start, end)))
        gone = space.carve(start, end)
        space.vmas = [vma for vma in space.vmas if vma not in gone]
        self.settle()
        return dropped

    # What happens to processes

    def fork(self, parent: int, child: int) -> int:
        old, new = self.spaces[parent], Space()
        self.spaces[child] = new
        new.vmas = [replace(vma) for vma in old.vmas if not vma.dont_fork]
        for vma in new.vmas:
            vma.anon_vma &= not vma.wipe_on_fork
            for page in range(vma.start, vma.end):
                if page in old.ptes and vma.anon_vma and not vma.shared:
                    pte = old.ptes[page]
                    pte.writable = pte.frame.exclusive = False
                    new.ptes[page] = Pte(pte.frame, False, pte.dirty, inherited=pte.frame.anon)
        return sum(pte.frame.anon for pte in new.ptes.values())

    def clear(self, number: int) -> Dropped:
        dropped = self.drop(number, list(self.spaces[number].ptes))
        self.spaces[number] = Space()
        self.settle()
        return dropped

    # Faults

    def own_frame(self, space: Space, vma: Vma, page: int, value: int) -> None:
        vma.anon_vma = True
        space.ptes[page] = Pte(Frame(anon=True, exclusive=True, value=value), writable=True, dirty=True)

    def cached(self, vma: Vma, page: int) -> Frame | None:
        key = vma.key(page)
        if key not in self.cache and self.full():
            return None
        return self.cache.setdefault(key, Frame())

    def write(self, number: int, page: int, decided: int = -1) -> Outcome:
        space = self.spaces[number]
        vma, pte = space.at(page), space.ptes.get(page)
        if vma is None or not vma.protection & Protection.WRITE:
            return Outcome.SEGMENTATION_FAULT
        if pte is not None and pte.writable:
            return Outcome.NO_FAULT
        if vma.shared:
            return self.write_shared(space, vma, page)
        if pte is not None and pte.frame.anon and not self.must_copy(pte, decided):
            pte.writable, pte.dirty, pte.inherited = True, True, False
            pte.frame.exclusive = self.map_count(pte.frame) == 1
            return Outcome.REUSED
        if self.full():
            return Outcome.OUT_OF_MEMORY
        return self.fill(space, vma, page)

    def must_copy(self, pte: Pte, decided: int) -> bool:
        if pte.frame.exclusive:
            return False
        return self.map_count(pte.frame) > 1 if decided == -1 else decided == Outcome.COPIED

    def write_shared(self, space: Space, vma: Vma, page: int) -> Outcome:
        pte = space.ptes.get(page)
        if pte is not None:
            pte.writable = pte.dirty = True
            return Outcome.WRITE_TRACKED
        frame = self.cached(vma, page)
        if frame is None:
            return Outcome.OUT_OF_MEMORY
        space.ptes[page] = Pte(frame, writable=True, dirty=True)
        return Outcome.MAPPED

    def fill(self, space: Space, vma: Vma, page: int) -> Outcome:
        pte = space.ptes.get(page)
        if pte is not None and pte.frame is not ZERO:
            outcome = Outcome.COPIED if pte.frame.anon else Outcome.COPIED_FROM_FILE
            self.own_frame(space, vma, page, pte.frame.value)
            return outcome
        if pte is None and vma.kind == Kind.FILE:
            source = self.cache.get(vma.key(page), ZERO)
            self.own_frame(space, vma, page, source.value)
            return Outcome.COPIED_FROM_FILE
        self.own_frame(space, vma, page, 0)
        return Outcome.ZERO_FILLED

    def read(self, number: int, page: int) -> Outcome:
        space = self.spaces[number]
        vma = space.at(page)
        if vma is None or not vma.protection:
            return Outcome.SEGMENTATION_FAULT
        if page in space.ptes:
            return Outcome.NO_FAULT
        if not vma.backed:
            space.ptes[page] = Pte(ZERO)
            return Outcome.MAPPED
        frame = self.cached(vma, page)
        if frame is None:
            return Outcome.OUT_OF_MEMORY
        untracked = vma.shared and vma.kind == Kind.ANONYMOUS and bool(vma.protection & Protection.WRITE)
        space.ptes[page] = Pte(frame, writable=untracked)
        return Outcome.MAPPED

    def install(self, number: int, pages: list[int], exclusive: bool) -> list[bool]:
        space, given = self.spaces[number], []
        for page in pages:
            vma = space.at(page)
            given.append(vma is not None and not vma.shared and page not in space.ptes)
            if vma is not None and given[-1]:
                writable = exclusive and bool(vma.protection & Protection.WRITE)
                space.ptes[page] = Pte(Frame(anon=True, exclusive=exclusive), writable, dirty=True)
                vma.anon_vma = True
        return given
