"""A small prefork server's memory in one file: a parent loads a catalogue, forked workers walk it.

    python -m cowscope.demo.prefork [--items N] [--workers N] [--freeze]

Nothing is ever changed by the workers; that pages are copied all the same is what cowscope is about: reading an
object counts a reference in it, and the collector writes into the head of every object that can hold others, unless
the parent has called gc.freeze() before the fork (--freeze).
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing

CATALOGUE: list[dict[str, object]] = []


def load(n_items: int) -> None:
    """Fill the catalogue with `n_items` dicts."""
    CATALOGUE.extend(
        {"id": n, "name": f"item {n}", "price": n % 1000 / 100, "tags": [n % 7, n % 11]}
        for n in range(n_items)
    )


def serve(request: int) -> int:
    """Read a tenth of the catalogue, as a handler would; then the collector runs, as it does now and then."""
    tenth = len(CATALOGUE) // 10
    first = request % 10 * tenth
    found = sum(1 for item in CATALOGUE[first : first + tenth] if item["price"])
    gc.collect()
    return found


def main() -> None:
    """Load, maybe freeze, fork workers, let them serve."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--items", type=int, default=300_000)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--requests", type=int, default=8)
    parser.add_argument("--freeze", action="store_true", help="call gc.freeze() before the fork")
    options = parser.parse_args()
    load(options.items)
    if options.freeze:
        gc.collect()
        gc.freeze()
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        served = sum(pool.map(serve, range(options.requests), chunksize=1))
    print(f"{options.workers} workers served {served:,} items")


if __name__ == "__main__":
    main()
