"""The text of `cowscope dump`: goldens of tables made by hand, and hostile text in them."""

from __future__ import annotations

from tests.replay.recorded import SHARED, Recorded

from cowscope.recording.schema import TABLES, Allocation, Columns, Operation, Part, from_rows
from cowscope.views.dump import lines


def tables() -> dict[str, Columns]:
    """A fork, one copy in the child, an unmap, and a name that tries to steer the terminal."""
    recorded = Recorded.start()
    recorded.fork(100, 0, 1, pages=4)
    recorded.process(2, name="\x1b[2J\n")
    recorded.census(110, 1, (16, 4, SHARED))
    recorded.fault(200, 1, 17, allocation=Allocation.PAGE)
    recorded.operation(300, 0, Operation.UNMAP, 16, 4)
    made = recorded.tables()
    made["objects"] = from_rows("objects", [(0, int(Part.DICT_KEYS), 0, -16, 232)])
    made["types"] = from_rows("types", [(0, "di\x1bct")])
    made["interpreters"] = from_rows("interpreters", [(0, "3.11.7", "", "", -1)])
    made["lines"] = from_rows("lines", [(0, 0)])
    made["stacks"] = from_rows("stacks", [(0, 0, "a\n.py", "f", 3)])
    return made


GOLDEN = {
    "processes": """\
process pid parent start_ns exec_ns end_ns status name executable command_line
0 100 -1 0 -1 -1 -1 worker /bin/worker worker --number 0
1 101 0 100 -1 -1 -1 worker /bin/worker worker --number 1
2 102 -1 0 -1 -1 -1 \\x1b[2J\\n /bin/\\x1b[2J\\n \\x1b[2J\\n --number 2""",
    "mappings": """\
mapping process from_ns to_ns start_page end_page protection shared kind file_offset name
0 0 0 -1 0x10 0x20 read|write no anonymous 0 [anon]
1 1 100 -1 0x10 0x20 read|write no anonymous 0 [anon]""",
    "forks": """\
time_ns parent child shares_memory anonymous_pages file_pages swapped_pages before_start
100 0 1 no 4 -1 -1 no""",
    "faults": """\
time_ns process tid address code access allocation
200 1 0 0x11008 0 present|write|user page""",
    "operations": """\
time_ns process operation start_page n_pages to_page
300 0 unmap 0x10 4 -1""",
    "census": """\
census process time_ns until_ns start_page n_pages state group
0 1 110 110 0x10 4 present -1""",
    "symbols": """\
code file offset function
0 /bin/worker 64 work""",
    "objects": """\
fault part type offset bytes
0 dict_keys 0 -16 232""",
    "types": """\
type name
0 di\\x1bct""",
    "interpreters": """\
process version refused no_lines shutdown_ns
0 3.11.7   -1""",
    "lines": """\
fault stack
0 0""",
    "stacks": """\
stack depth file function line
0 0 a\\n.py f 3""",
}


def test_every_table_as_text() -> None:
    """A line of names, then a line a row; addresses in hex, text escaped, tabs between."""
    made = tables()
    assert set(GOLDEN) == set(TABLES)
    for name, golden in GOLDEN.items():
        assert "\n".join(lines(name, made[name])).replace("\t", " ") == golden


def test_a_limit_cuts_rows() -> None:
    """And keeps the line of names."""
    assert len(list(lines("processes", tables()["processes"], limit=1))) == 2


def test_codes_as_they_are_stored() -> None:
    """On request, for who reads them by a program."""
    text = "\n".join(lines("faults", tables()["faults"], codes=True)).replace("\t", " ")
    assert text.endswith("200 1 0 0x11008 0 7 2")


def test_a_code_of_a_later_version_stays_a_number() -> None:
    """Beside those that are known."""
    columns = tables()["operations"]
    columns["operation"][:] = 77
    assert list(lines("operations", columns))[1].split("\t")[2] == "77"
