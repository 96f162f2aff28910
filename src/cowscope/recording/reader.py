"""A recording from disk: `open_recording`, then tables as columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import duckdb
import numpy as np

from cowscope.errors import BadRecording
from cowscope.recording.journal import held, raw_directory
from cowscope.recording.meta import FILE_NAME, Meta
from cowscope.recording.schema import SINCE, TABLES, Columns, empty


@dataclass(frozen=True)
class Recording:
    """An opened recording; tables are read when asked for."""

    path: Path
    meta: Meta

    def table(self, name: str) -> Columns:
        """All rows of a table as columns in schema order.

        Raises `KeyError` for a name that the format does not have, `BadRecording` when the file is
        missing, cut off or has other columns.
        """
        if SINCE.get(name, 0) > self.meta.minor:
            return empty(name)
        file = self.path / f"{name}.parquet"
        names = ", ".join(f'"{column.name}"' for column in TABLES[name])
        try:
            with duckdb.connect() as connection:
                found = connection.execute(f"SELECT {names} FROM read_parquet(?)", [str(file)]).fetchnumpy()
        except duckdb.Error as error:
            raise BadRecording(_damage(file, error)) from None
        return {
            column.name: np.ma.filled(found[column.name], None if column.sql == "VARCHAR" else -1)
            if np.ma.isMaskedArray(found[column.name])
            else found[column.name]
            for column in TABLES[name]
        }


def open_recording(path: Path | str) -> Recording:
    """Open the directory `path` as a recording.

    Raises `BadRecording` when it is none, is unfinished, or is of another major version.
    """
    path = Path(path)
    if not path.exists():
        raise BadRecording(f"{path} does not exist")
    if not path.is_dir():
        raise BadRecording(f"{path} is not a recording: a recording is a directory with {FILE_NAME} in it")
    file = path / FILE_NAME
    if not file.exists():
        if raw_directory(path).is_dir():
            with held(raw_directory(path)):
                pass
            raise BadRecording(f"{path} was never finished: run cowscope recover {path}")
        raise BadRecording(f"{path} is not a recording: there is no {FILE_NAME} in it")
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadRecording(f"cannot read {file}: {error}") from None
    return Recording(path, Meta.from_json(text, file))


def _damage(file: Path, error: duckdb.Error) -> str:
    if not file.exists():
        return f"{file.parent} is incomplete: {file.name} is missing"
    return f"{file} is damaged: {str(error).splitlines()[0]}"
