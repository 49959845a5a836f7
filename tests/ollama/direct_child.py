"""A direct registration in a process of its own, killed at the N-th system call that changes a store."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from rfctl.core.gguf_header import GgufHeader
from rfctl.ollama.direct import Description, Direct, place_file, register
from rfctl.ollama.store import ModelStore


def describe(header: GgufHeader) -> Description:
    return Description("1K", "F32")


def kill_at(number: int) -> None:
    """End this process, without any clean-up, before the `number`-th change."""
    left = number

    def guard(name: str) -> None:
        real = getattr(os, name)

        def call(*arguments: object, **options: object) -> object:
            nonlocal left
            left -= 1
            if left == 0:
                os._exit(9)
            return real(*arguments, **options)

        setattr(os, name, call)

    for name in ("link", "replace", "fsync", "unlink", "utime", "mkdir", "open"):
        guard(name)


def main() -> None:
    root, gguf, digest, number, system = sys.argv[1:]
    direct = Direct(ModelStore(Path(root)), True, describe)
    kill_at(int(number))
    place_file(direct, Path(gguf), digest)
    register(direct, "m", digest, Path(gguf), {"system": system, "parameters": {"num_ctx": 64}})


if __name__ == "__main__":
    main()
