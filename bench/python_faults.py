"""Python's worst case: a child that does nothing but walk a list that it shares, and so copies a page every 170 items.

Prints the children's own seconds, in all rounds.
"""

from __future__ import annotations

import gc
import os
import struct
import time

ITEMS, ROUNDS = 3_000_000, 3


def main() -> None:
    gc.disable()
    data = [float(n) for n in range(ITEMS)]
    spent = 0.0
    for _ in range(ROUNDS):
        reader, writer = os.pipe()
        pid = os.fork()
        if not pid:
            begin = time.monotonic()
            for _item in data:
                pass
            os.write(writer, struct.pack("d", time.monotonic() - begin))
            os._exit(0)
        spent += struct.unpack("d", os.read(reader, 8))[0]
        os.waitpid(pid, 0)
    print(f"{spent:.6f}")


if __name__ == "__main__":
    main()
