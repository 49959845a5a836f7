"""Uploads one file through the client in a process of its own and prints what that took of its memory.

Arguments: URL, file. Prints JSON: bytes of memory at the peak beyond those before the upload.
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from rfctl.ragflow_client.transport import Api


def peak() -> int:
    """Highest resident memory so far in bytes (Linux counts in KiB, macOS in bytes)."""
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale


def main() -> None:
    url, path = sys.argv[1], Path(sys.argv[2])
    sent = 0

    def advance(amount: int) -> None:
        nonlocal sent
        sent += amount

    with Api(url, "ragflow-test", read_seconds=120) as api:
        before = peak()
        data = api.upload("/datasets/d/documents", path, path.name, advance)
        print(json.dumps({"grown": peak() - before, "sent": sent, "data": data}))


if __name__ == "__main__":
    main()
