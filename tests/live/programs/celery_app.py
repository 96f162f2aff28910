"""A Celery application whose workers read a catalogue that was there before they were forked."""

from __future__ import annotations

import os

from celery import Celery

CATALOGUE = [{"id": n} for n in range(200_000)]
BROKER = os.environ.get("BROKER", "memory://")
app = Celery("catalogue", broker=BROKER, backend=BROKER)


@app.task  # type: ignore[untyped-decorator]
def count() -> int:
    """Read every item."""
    return sum(1 for item in CATALOGUE if item["id"] >= 0)
