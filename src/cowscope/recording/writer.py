"""Tables and meta to disk: one Parquet file each, written by DuckDB, none of them half."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import duckdb
import numpy as np

from cowscope.recording.meta import FILE_NAME, Meta
from cowscope.recording.schema import TABLES, Columns


def write_table(directory: Path, table: str, columns: Columns) -> None:
    """Write `table` into the recording; columns must be those of the schema.

    Raises `OSError` (disk full, no right); then the old file, if any, is still whole.
    """
    target = directory / f"{table}.parquet"
    partial = directory / f".{table}.parquet.partial"
    casts = ", ".join(f'CAST("{c.name}" AS {c.sql}) AS "{c.name}"' for c in TABLES[table])
    try:
        with duckdb.connect() as connection:
            connection.register("rows_to_write", _writable(table, columns))
            connection.execute(
                f"COPY (SELECT {casts} FROM rows_to_write) TO '{_quoted(partial)}' (FORMAT parquet, COMPRESSION zstd)"
            )
    except (duckdb.Error, RuntimeError) as error:
        partial.unlink(missing_ok=True)
        raise _as_os_error(str(error), target) from None
    os.replace(partial, target)


def write_meta(directory: Path, meta: Meta) -> None:
    """Write `meta.json`; it comes last, so a directory that has it has everything."""
    partial = directory / f".{FILE_NAME}.partial"
    partial.write_text(meta.to_json(), encoding="utf-8")
    os.replace(partial, directory / FILE_NAME)


def _writable(table: str, columns: Columns) -> Columns:
    """Columns as DuckDB takes them: contiguous, and text that is valid UTF-8."""
    return {
        c.name: _utf8(columns[c.name])
        if c.sql == "VARCHAR"
        else np.ascontiguousarray(columns[c.name], c.dtype)
        for c in TABLES[table]
    }


def _as_os_error(message: str, target: Path) -> OSError:
    """DuckDB tells the system's error number inside its text, if at all."""
    found = re.search(r'"errno":"(\d+)"', message)
    if found is None and "No space left" in message:
        return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
    if found is not None:
        return OSError(int(found[1]), os.strerror(int(found[1])), str(target))
    return OSError(errno.EIO, message.partition("\n")[0] or "cannot be written", str(target))


def _utf8(
    texts: np.ndarray[tuple[int, ...], np.dtype[np.generic]],
) -> np.ndarray[tuple[int], np.dtype[np.object_]]:
    """Bytes of a process that are no text become the escapes that show them."""
    clean = np.empty(len(texts), object)
    clean[:] = [
        str(text).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace") for text in texts
    ]
    return clean


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")
