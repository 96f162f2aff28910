"""The text form of scenarios, read: one operation a line, words with blanks between, `#` to the end of a line.

    memfd NAME PAGES [sparse]                 disk NAME PAGES [sparse]                   folios PAGES     merge
    P start          P fork Q                 P exit                    P exec
    P mmap NAME PAGES rwx|none private|shared anonymous|FILE[i] [at RANGE] [OPTION]…
    P munmap RANGE   P mprotect RANGE rwx|none                          P mremap RANGE PAGES [to RANGE]
    P madvise RANGE ADVICE                    P truncate FILE PAGES
    P load RANGE ["bytes"]                    P store RANGE "bytes"     P read RANGE "bytes"
    P vm_readv RANGE   P vm_writev RANGE "bytes"   P mem_read RANGE   P mem_write RANGE "bytes"   P mlock RANGE
    P munlock RANGE  P pin RANGE  P unpin RANGE  P splice RANGE  P unsplice RANGE
    P write FILE[i] "bytes"                   … each with [-> OUTCOME]

OPTION is populate, locked, noreserve or hugetlb. P and Q are processes: names that begin with a capital letter.
RANGE is NAME, NAME[i] or NAME[i..j]. At `merge` the kernel's daemon merges equal pages of memory that was advised to be
mergeable, in all processes. The comment before the first line, up to an empty line, is the sentence that
the scenario shows; one before a later line tells that step's story. A mistake raises `BadScenario` with file,
line, column and what was expected.

Not here: what a step means, and whether it can be taken (`scenario`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from cowscope.errors import UsageError
from cowscope.lab.result import OUTCOMES
from cowscope.lab.scenario import Scenario, ScenarioError
from cowscope.lab.steps import (
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
    Step,
    Store,
    Truncate,
    Way,
    Write,
)

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|#.*|[^\s"#]+')
_PROCESS = re.compile(r"[A-Z][A-Za-z0-9_]*\Z")
_NAME = re.compile(r"[a-z][a-z0-9_]*\Z")
_RANGE = re.compile(r"([a-z][a-z0-9_]*)(?:\[([0-9]{1,9})(?:\.\.([0-9]{1,9}))?\])?\Z")
_PROTECTION = re.compile(r"(?=.)r?w?x?\Z")
_MOST_PAGES = 1 << 22
_FOLIO_PAGES = tuple(1 << order for order in range(1, 9))


class BadScenario(UsageError):
    """Text that is no scenario: where it is wrong, and what was expected there."""

    def __init__(self, name: str, line: int, column: int, problem: str, expected: str) -> None:
        """Keep the parts; lines and columns count from 1."""
        super().__init__(f"{name}:{line}:{column}: {problem}; expected {expected}")
        self.line, self.column, self.problem, self.expected = line, column, problem, expected


@dataclass(frozen=True, slots=True)
class _Word:
    text: str
    column: int


def parse(text: str, name: str = "scenario") -> Scenario:
    """The scenario in `text`. Raises `BadScenario`.

    >>> print(parse('# Zeros.\\nA start\\nA mmap m 1 rw private anonymous # one page\\nA load m'))
    # Zeros.
    A start
    A mmap m 1 rw private anonymous
    A load m[0]
    >>> parse('A start\\nA leap')
    Traceback (most recent call last):
    cowscope.lab.parser.BadScenario: scenario:2:3: unknown word leap; expected one of exec, exit, fork, load, \
madvise, mem_read, mem_write, mlock, mmap, mprotect, mremap, munlock, munmap, pin, read, splice, start, store, truncate, \
unpin, unsplice, vm_readv, vm_writev, write
    """
    lines = text.splitlines()
    sentence, head = _sentence(lines)
    scenario = Scenario(sentence, name)
    said: list[str] = []
    for number, line in enumerate(lines, 1):
        if number > head and line.lstrip().startswith("#"):
            said.append(line.strip().lstrip("#").strip())
        words = [_Word(m[0], m.start() + 1) for m in _TOKEN.finditer(line) if not m[0].startswith("#")]
        if words:
            _Line(scenario, number, words, len(line.rstrip()) + 1).take(" ".join(said))
            said = []
    if not scenario.lines:
        raise BadScenario(name, len(lines) + 1, 1, "nothing happens", "a line like: A start")
    return scenario


def parse_file(path: Path) -> Scenario:
    """The scenario in a file. Raises `BadScenario`, and `OSError` when the file cannot be read."""
    try:
        return parse(path.read_text(encoding="utf-8"), str(path))
    except UnicodeDecodeError as error:
        before = error.object[: error.start]
        line, column = before.count(b"\n") + 1, error.start - (before.rfind(b"\n") + 1) + 1
        problem = f"byte {error.object[error.start]:#x} is no text"
        raise BadScenario(str(path), line, column, problem, "UTF-8") from error


def _sentence(lines: list[str]) -> tuple[str, int]:
    """The comment before the first line that does something, up to an empty line; and how many lines it takes."""
    said: list[str] = []
    for number, line in enumerate(lines):
        if line.strip().startswith("#"):
            said.append(line.strip().lstrip("#").strip())
        elif line.strip() or said:
            return "\n".join(said), number
    return "\n".join(said), len(lines)


class _Line:
    """One line, taken word by word."""

    def __init__(self, scenario: Scenario, number: int, words: list[_Word], end: int) -> None:
        self.scenario, self.number, self.words, self.end = scenario, number, words, end
        self.at = 0

    def take(self, said: str) -> None:
        """Add the step that the line means to the scenario; `said` is the comment before it."""
        step = self._step()
        expected = self._expected()
        if self.at < len(self.words):
            self._fail(f"{self._peek()} is too much", "the end of the line, or -> and an outcome")
        try:
            self.scenario.add(step, expected=expected, number=self.number, said=said)
        except ScenarioError as error:
            column = next((w.column for w in self.words if error.word and w.text.startswith(error.word)), 1)
            raise self._bad(column, error.problem, error.expected) from error

    def _bad(self, column: int, problem: str, expected: str) -> BadScenario:
        return BadScenario(self.scenario.name, self.number, column, problem, expected)

    def _fail(self, problem: str, expected: str) -> NoReturn:
        column = self.words[self.at].column if self.at < len(self.words) else self.end
        raise self._bad(column, problem, expected)

    def _peek(self) -> str | None:
        return self.words[self.at].text if self.at < len(self.words) else None

    def _next(self, expected: str) -> str:
        if self.at == len(self.words):
            self._fail("the line ends here", expected)
        self.at += 1
        return self.words[self.at - 1].text

    def _match(self, pattern: re.Pattern[str], expected: str) -> re.Match[str]:
        match = pattern.match(self._next(expected))
        if match is None:
            self.at -= 1
            self._fail(f"{self._peek()} does not fit here", expected)
        return match

    def _one_of(
        self, words: dict[str, object] | list[str] | type[Advice], problem: str = "unknown word"
    ) -> str:
        known = sorted(str(word) for word in words)
        word = self._next(f"one of {', '.join(known)}")
        if word not in known:
            self.at -= 1
            self._fail(f"{problem} {word}", f"one of {', '.join(known)}")
        return word

    def _expected(self) -> str | None:
        if self._peek() != "->":
            return None
        self.at += 1
        return self._one_of(list(OUTCOMES), "unknown outcome")

    def _step(self) -> Step:
        word = self._peek()
        if word in ("memfd", "disk"):
            self.at += 1
            return self._file(word)
        if word == "folios":
            self.at += 1
            return self._folios()
        if word == "merge":
            self.at += 1
            return Merge()
        process = self._process(
            "a process (its name begins with a capital letter), memfd, disk, folios or merge"
        )
        verb = self._one_of(dict(_VERBS))
        return _VERBS[verb](self, process)

    def _file(self, kind: str) -> File:
        name, pages = self._name(), self._pages()
        sparse = self._peek() == "sparse"
        self.at += sparse
        return File(name, pages, kind, sparse)

    def _folios(self) -> Folios:
        pages = self._pages()
        if pages not in _FOLIO_PAGES:
            self.at -= 1
            self._fail(f"there are no folios of {pages} pages", f"one of {', '.join(map(str, _FOLIO_PAGES))}")
        return Folios(pages)

    def _process(self, expected: str = "a process (its name begins with a capital letter)") -> str:
        return self._match(_PROCESS, expected)[0]

    def _name(self) -> str:
        return self._match(_NAME, "a name in small letters")[0]

    def _pages(self) -> int:
        pages = int(self._match(re.compile(r"[0-9]{1,9}\Z"), "a number of pages")[0])
        if not 0 <= pages <= _MOST_PAGES:
            self.at -= 1
            self._fail(f"{pages} pages are too many", f"at most {_MOST_PAGES}")
        return pages

    def _some_pages(self) -> int:
        pages = self._pages()
        if pages == 0:
            self.at -= 1
            self._fail("no pages", "a number from 1 on")
        return pages

    def _range(self) -> Range:
        name, first, last = self._match(_RANGE, "pages, like heap[0] or heap[1..2]").groups()
        if first is None:
            place = self.scenario.places.get(name)
            return Range(name, 0, place.pages if place else 1)
        count = 1 if last is None else int(last) - int(first) + 1
        if count < 1:
            self.at -= 1
            self._fail(f"{self._peek()} ends before it begins", "pages, like heap[1..2]")
        return Range(name, int(first), count)

    def _place(self) -> Range:
        """Where something goes: a range's first page."""
        at = self._range()
        return Range(at.name, at.first)

    def _page(self) -> Range:
        said, at = self.at, self._range()
        if ".." in self.words[said].text:
            self.at = said
            self._fail(f"{self._peek()} is more than a page", f"one page, like {at.name}[{at.first}]")
        return Range(at.name, at.first)

    def _protection(self) -> int:
        if self._peek() == "none":
            self.at += 1
            return 0
        text = self._match(_PROTECTION, "none, or some of rwx in this order")[0]
        return sum(1 << bit for bit, letter in enumerate("rwx") if letter in text)

    def _data(self) -> bytes:
        text = self._next('bytes, like "mine"')
        if not (text.startswith('"') and text.endswith('"') and len(text) > 1):
            self.at -= 1
            self._fail(f"{text} is no string", 'bytes, like "mine"')
        return self._unescaped(text[1:-1])

    def _unescaped(self, text: str) -> bytes:
        try:
            raw = text.encode("ascii")
            if re.search(rb"\\(?!x[0-9a-fA-F]{2})", raw):
                self.at -= 1
                self._fail("a backslash that begins nothing", r"two hexadecimal digits after \x, like \x5c")
            return re.sub(rb"\\x([0-9a-fA-F]{2})", lambda m: bytes([int(m[1], 16)]), raw)
        except UnicodeEncodeError:
            self.at -= 1
            self._fail("a letter beyond ASCII", r"ASCII, or bytes like \xff")

    def _mmap(self, process: str) -> Mmap:
        name, pages, protection = self._name(), self._some_pages(), self._protection()
        shared = self._one_of(["private", "shared"]) == "shared"
        file, offset = None, 0
        if self._peek() == "anonymous":
            self.at += 1
        else:
            match = self._match(_RANGE, "anonymous, or a file's page like data[0]")
            file, offset = match[1], int(match[2] or 0)
        at, options = None, set()
        while self._peek() not in (None, "->"):
            word = self._one_of(["at", *OPTIONS])
            if word == "at":
                at = self._place()
            else:
                options.add(word)
        return Mmap(process, name, pages, protection, shared, file, offset, at, frozenset(options))

    def _mremap(self, process: str) -> Mremap:
        area, pages = self._range(), self._some_pages()
        if self._peek() != "to":
            return Mremap(process, area, pages)
        self.at += 1
        return Mremap(process, area, pages, self._place())

    def _load(self, process: str) -> Load:
        at = self._page()
        return Load(process, at, None if self._peek() in (None, "->") else self._data())

    def _madvise(self, process: str) -> Madvise:
        return Madvise(process, self._range(), Advice(self._one_of(Advice, "unknown advice")))


_VERBS: dict[str, Callable[[_Line, str], Step]] = {
    "start": lambda line, process: Start(process),
    "fork": lambda line, process: Fork(process, line._process()),
    "exit": lambda line, process: Exit(process),
    "exec": lambda line, process: Exec(process),
    "mmap": _Line._mmap,
    "munmap": lambda line, process: Munmap(process, line._range()),
    "mprotect": lambda line, process: Mprotect(process, line._range(), line._protection()),
    "mremap": _Line._mremap,
    "madvise": _Line._madvise,
    "load": _Line._load,
    "store": lambda line, process: Store(process, line._page(), line._data()),
    "read": lambda line, process: Read(process, line._page(), line._data()),
    "mlock": lambda line, process: Mlock(process, line._range()),
    "munlock": lambda line, process: Mlock(process, line._range(), unlock=True),
    "pin": lambda line, process: Hold(process, line._range(), Holder.PIN),
    "unpin": lambda line, process: Release(process, line._range(), Holder.PIN),
    "splice": lambda line, process: Hold(process, line._range(), Holder.SPLICE),
    "unsplice": lambda line, process: Release(process, line._range(), Holder.SPLICE),
    "vm_readv": lambda line, process: Remote(process, line._page(), Way.VM_READV),
    "mem_read": lambda line, process: Remote(process, line._page(), Way.MEM_READ),
    "vm_writev": lambda line, process: Remote(process, line._page(), Way.VM_WRITEV, line._data()),
    "mem_write": lambda line, process: Remote(process, line._page(), Way.MEM_WRITE, line._data()),
    "write": lambda line, process: Write(process, line._page(), line._data()),
    "truncate": lambda line, process: Truncate(process, line._name(), line._pages()),
}
