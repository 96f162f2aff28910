"""Everything that talks to Linux: /proc, pagemap, tracefs, perf events, rights.

Reading and parsing are separate functions: readers return bytes, parsers take them, so that a parser is
tested on bytes alone. An `OSError` becomes an error of `cowscope.errors` once, at this border (`border.py`).
"""
