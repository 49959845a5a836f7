"""A push into the embedded engine: by HTTP, and without copying.

    python benchmarks/push.py [--size BYTES] [--work DIR]

The file is a tiny model followed by zeros, which are written out. Both ways begin with a known digest
(as after `rfctl model push DIR`, which hashes while it converts). Bytes written are those of this process and
of the engine, from /proc/PID/io.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests" / "engine"))

from rfctl.core.file import sha256_file
from rfctl.core.gguf_header import GgufHeader, read_header
from rfctl.engine import daemon
from rfctl.engine.home import Home
from rfctl.engine.ollama.model import file_type, human_number
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.direct import Description, Direct, find_store
from rfctl.ollama.ledger import Ledger
from rfctl.ollama.push import Push, Wishes, push_file

PIECE = 8 << 20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", type=int, default=1_100_000_000)
    parser.add_argument("--work", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rfctl-push-", dir=arguments.work) as folder:
        measure(Path(folder), arguments.size)


def measure(folder: Path, size: int) -> None:
    path = write_file(folder / "big.gguf", size)
    ledger = folder / "ledger.json"
    start = time.perf_counter()
    digest = f"sha256:{sha256_file(path)}"
    print(f"{path.stat().st_size:,} bytes; hashing alone {time.perf_counter() - start:.2f} s")
    directory = folder / "engine"
    status = daemon.start(directory)
    state = Home(directory).read_state()
    assert state is not None
    try:
        with OllamaClient(status.url) as client:
            for name in ("http", "direct"):
                Ledger(ledger).record_digest(path, "as-is", digest)
                direct = Direct(find_store(client, directory / "models"), True, describe)
                before = written(os.getpid()) + written(state.pid)
                start = time.perf_counter()
                result: Push = push_file(
                    client,
                    path,
                    name,
                    Wishes(num_ctx=512),
                    direct=direct if name == "direct" else None,
                    ledger_path=ledger,
                    verify=False,
                )
                seconds = time.perf_counter() - start
                bytes_written = written(os.getpid()) + written(state.pid) - before
                print(f"{name} ({result.via}): {seconds:.3f} s, {bytes_written:,} bytes written")
                entry = client.find(name)
                assert entry is not None
                assert entry.digest == result.digest
                client.delete(name)
    finally:
        daemon.stop(directory)


def describe(header: GgufHeader) -> Description:
    return Description(human_number(header.parameter_count), file_type(header))


def written(pid: int) -> int:
    """Bytes that the process gave to write calls so far."""
    lines = Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def write_file(path: Path, size: int) -> Path:
    """A GGUF of `size` bytes: a tiny model that loads, and zeros behind its last tensor."""
    from tiny_model import write_chat_model

    small = write_chat_model(path.with_name("small.gguf"))
    header = read_header(small)
    with small.open("rb") as source, path.open("wb") as target:
        target.write(source.read())
        left = size - header.file_size
        while left > 0:
            target.write(bytes(min(PIECE, left)))
            left -= PIECE
    return path


if __name__ == "__main__":
    main()
