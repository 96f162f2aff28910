"""A WSGI application with a catalogue in memory that every request walks, and nobody changes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

CATALOGUE: list[dict[str, object]] = [{"id": n, "name": f"item {n}"} for n in range(200_000)]


def app(
    environ: dict[str, object], start_response: Callable[[str, list[tuple[str, str]]], object]
) -> Iterable[bytes]:
    """Count the items with an even number."""
    found = sum(1 for item in CATALOGUE if isinstance(item["id"], int) and item["id"] % 2 == 0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [str(found).encode()]
