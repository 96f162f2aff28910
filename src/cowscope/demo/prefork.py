"""A small prefork server's memory in one file: a parent loads a catalogue, forked workers walk it.

    python -m cowscope.demo.prefork [--items N] [--workers N] [--freeze]

Nothing is ever changed by the workers; that pages are copied all the same is what cowscope is about.
"""

from __future__ import annotations

import argparse
import gc
import multiprocessing

CATALOGUE: list[dict[str, object]] = []


def load(n_items: int) -> None:
    """Fill the catalogue with `n_items` dicts."""
    CATALOGUE.extend({"id": n, "name": f"item {n}", "price": n % 1000 / 100} for n in range(n_items))


def serve(request: int) -> int:
    """Read every tenth item, as a handler would; now and then the collector runs."""
    found = sum(1 for item in CATALOGUE[request::10] if item["price"])
    if request % 4 == 0:
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
