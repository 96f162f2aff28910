"""A Flask application with a catalogue in memory; its one page reads every item and changes none."""

from __future__ import annotations

from flask import Flask

CATALOGUE: list[dict[str, float]] = [{"id": n, "price": n * 1.5} for n in range(200_000)]
app = Flask(__name__)


@app.get("/")
def total() -> str:
    """How many items cost more than a hundred."""
    return str(sum(1 for item in CATALOGUE if item["price"] > 100))
