"""The prefork workload with a clock in it: prints the seconds from the fork to the last answer.

The first walk of each worker copies what it reads; after that they serve, as servers do. Some seconds are long enough
for the second part to be seen at all, and short beside any real server.
"""

from __future__ import annotations

import gc
import multiprocessing
import time

from cowscope.demo import prefork

REQUESTS = 600


def answer(request: int) -> int:
    """Read the catalogue as the demo does, then do what a handler does most: work on its own data."""
    found = sum(1 for item in prefork.CATALOGUE[request % 10 :: 10] if item["price"])
    return found + sum(n * n % 7 for n in range(100_000))


def main() -> None:
    prefork.load(300_000)
    gc.collect()
    begin = time.monotonic()
    with multiprocessing.get_context("fork").Pool(4) as pool:
        pool.map(answer, range(REQUESTS), chunksize=1)
    print(f"{time.monotonic() - begin:.6f}")


if __name__ == "__main__":
    main()
