"""`meta.json`: what holds for the whole recording, and how exactly it can be known."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from cowscope.errors import BadRecording
from cowscope.recording.schema import FORMAT_MAJOR, FORMAT_MINOR

FILE_NAME = "meta.json"


@dataclass(frozen=True, kw_only=True)
class Host:
    """The machine of the recording, as far as it bears on the figures."""

    kernel: str = ""
    machine: str = ""
    page_size: int = 4096
    cpus: int = 0
    thp_enabled: str = ""
    ksm_running: bool = False
    swap_on: bool = False
    exact_map_counts: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Meta:
    """Everything that is not a table. Times in ns of CLOCK_MONOTONIC, sizes in bytes.

    `source` is "tracepoint" (every fault with its error code) or "software" (page-fault software event,
    states guessed); `lost` counts the records of each channel that the kernel could not deliver; `ended`
    says in words why the recording ended; `unclaimed_pages` were allocated by
    sharing processes without a recorded fault that accounts for them.
    """

    host: Host = field(default_factory=Host)
    minor: int = FORMAT_MINOR
    """The minor version of the recording's format."""
    cowscope: str = ""
    source: str = "tracepoint"
    first_touch: bool = False
    attached: bool = False
    started_at: str = ""
    started_ns: int = 0
    ended_ns: int = 0
    ended: str = ""
    recovered: bool = False
    command: tuple[str, ...] = ()
    exit_status: int | None = None
    kernel_allocations: bool = False
    kernel_fork_counts: bool = False
    operations_seen: bool = False
    lost: dict[str, int] = field(default_factory=dict)
    missed_census: int = 0
    unclaimed_pages: int = 0
    recorder_cpu_s: float = 0.0
    raw_bytes: int = 0

    @property
    def lost_events(self) -> int:
        """Records lost in all channels."""
        return sum(self.lost.values())

    def to_json(self) -> str:
        """The text of `meta.json`."""
        told = asdict(self)
        version = {"major": FORMAT_MAJOR, "minor": told.pop("minor")}
        return json.dumps({"format": version, **told}, indent=2) + "\n"

    @classmethod
    def from_json(cls, text: str, path: Path) -> Self:
        """Parse `meta.json`; an unknown major version is refused, unknown keys of a later minor are not.

        Raises `BadRecording`.
        """
        try:
            data = json.loads(text)
            major, minor = int(data["format"]["major"]), int(data["format"]["minor"])
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise BadRecording(f"{path} is damaged: no format version in it ({error})") from None
        if major != FORMAT_MAJOR:
            raise BadRecording(
                f"{path.parent} has format {major}.{minor}, and this cowscope reads {FORMAT_MAJOR}.x: "
                f"read it with a cowscope of that format"
            )
        try:
            return cls(**_known(cls, data) | {"minor": minor, "host": Host(**_known(Host, data["host"]))})
        except (AttributeError, TypeError, ValueError, KeyError) as error:
            raise BadRecording(f"{path} is damaged: {error}") from None


def _known(kind: type, data: dict[str, Any]) -> dict[str, Any]:
    """The keys of `data` that are fields of `kind`, lists as tuples."""
    names = {item.name for item in fields(kind)}
    return {
        key: tuple(value) if isinstance(value, list) else value for key, value in data.items() if key in names
    }
