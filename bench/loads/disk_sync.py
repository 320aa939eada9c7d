#!/usr/bin/env python3
"""How long the disk takes to make octets durable, alone: percentiles of `fdatasync` as JSON.

    disk_sync.py FOLDER SECONDS SIZE_BYTES

Writes `SIZE_BYTES` after what is there and syncs, again and again, into a file whose room was written before:
the best case, as a journal's is that uses its files again.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time

FILE_BYTES = 32 << 20


def main() -> None:
    folder, seconds, size_bytes = sys.argv[1], float(sys.argv[2]), int(sys.argv[3])
    octets = os.urandom(size_bytes)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        os.pwrite(file.fileno(), bytes(FILE_BYTES), 0)
        os.fsync(file.fileno())
        took, at, until = [], 0, time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.perf_counter()
            os.pwrite(file.fileno(), octets, at)
            os.fdatasync(file.fileno())
            took.append((time.perf_counter() - begun) * 1000)
            at = (at + size_bytes) % (FILE_BYTES - size_bytes)
    took.sort()
    shares = {"p50": 0.5, "p99": 0.99, "p999": 0.999}
    found = {name: took[min(len(took) - 1, int(len(took) * share))] for name, share in shares.items()}
    print(json.dumps({"syncs": len(took), **found, "max": took[-1]}))


if __name__ == "__main__":
    main()
