"""The parent's side of `pdf_worker`: start it, read its pages, end it in time."""

from __future__ import annotations

import contextlib
import json
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

PAGE_TIMEOUT = 60.0
START_TIMEOUT = 60.0
# As long as RAGFlow v0.27.0 gives a task (`task_executor.py`).
TOTAL_TIMEOUT = 3 * 3600.0
# Bytes of what the child sends: a page of prose takes 8,000. A page may be a reference to another one's text,
# so that a file of some kilobytes can hold more than any memory.
MAX_OUTPUT_BYTES = 256 << 20
MEMORY_BYTES = 4 << 30
_LINE_LIMIT = 64 << 20
_STDERR_KEPT = 2000


class PdfError(Exception):
    """id is the part behind `document.` of a catalog id."""

    def __init__(self, id: str, detail: str = "") -> None:
        super().__init__(f"{id}: {detail}")
        self.id = id
        self.detail = detail


def read_pages(
    path: Path,
    ranges: Sequence[tuple[int, int]] | None,
    page_timeout: float = PAGE_TIMEOUT,
    memory: int = MEMORY_BYTES,
    output: int = MAX_OUTPUT_BYTES,
) -> Iterator[tuple[dict[str, Any], int]]:
    """(page as `pdf_worker` describes it, number of pages to come in all), page by page.

    page_timeout: seconds that one page may take; memory, output: bytes that the child may use and send.
    Raises PdfError (corrupt, encrypted, no-pages, timeout, crashed, too-many-pages, too-much-text). The
    child is gone when this ends, however it ends.
    """
    process = subprocess.Popen(
        # -P: no module out of the folder that the engine happens to run in.
        [sys.executable, "-P", "-m", "rfctl.engine.text.pdf_worker"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # Console children of a windowless engine would flash a window on Windows.
        creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
    )
    assert process.stdin and process.stdout and process.stderr
    lines: queue.Queue[bytes] = queue.Queue(maxsize=16)
    trouble = bytearray()
    done = threading.Event()
    threads = [
        threading.Thread(target=_pump, args=(process.stdout, lines, done), daemon=True),
        threading.Thread(target=_drain, args=(process.stderr, trouble), daemon=True),
    ]
    for thread in threads:
        thread.start()
    try:
        wanted = None if ranges is None else [list(pair) for pair in ranges]
        request = {"path": str(path), "pages": wanted, "memory": memory}
        with contextlib.suppress(OSError):
            # Left open: the child ends when this process does and its stdin with it.
            process.stdin.write(json.dumps(request).encode() + b"\n")
            process.stdin.flush()
        yield from _receive(process, lines, trouble, page_timeout, output)
    finally:
        done.set()
        process.kill()
        process.wait()
        for thread in threads:
            thread.join(timeout=5)
        for stream in (process.stdin, process.stdout, process.stderr):
            with contextlib.suppress(OSError):
                stream.close()


def _receive(
    process: subprocess.Popen[bytes],
    lines: queue.Queue[bytes],
    trouble: bytearray,
    page_timeout: float,
    output: int,
) -> Iterator[tuple[dict[str, Any], int]]:
    total, page, timeout, received = 0, 0, START_TIMEOUT, 0
    deadline = time.monotonic() + TOTAL_TIMEOUT
    while True:
        try:
            line = lines.get(timeout=max(min(timeout, deadline - time.monotonic()), 0.0))
        except queue.Empty:
            raise PdfError("timeout", str(page + 1)) from None
        timeout = page_timeout
        received += len(line)
        if received > output or len(line) >= _LINE_LIMIT:
            raise PdfError("too-much-text", str(page + 1))
        try:
            value = json.loads(line)
        except ValueError:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=5)
            raise PdfError("crashed", _explain(process.returncode, trouble)) from None
        if "error" in value:
            raise PdfError(value["error"], value.get("detail", ""))
        if value.get("done"):
            return
        if "total" in value:
            total = value["total"]
            continue
        page = value["number"]
        yield value, total


def _explain(code: int | None, trouble: bytearray) -> str:
    last = trouble.decode(errors="replace").strip().rpartition("\n")[2]
    return f"exit {code}" + (f": {last}" if last else "")


def _pump(stream: IO[bytes], lines: queue.Queue[bytes], done: threading.Event) -> None:
    """Lines to the queue; an empty one marks the end of the stream."""
    while not done.is_set():
        try:
            line = stream.readline(_LINE_LIMIT)
        except (OSError, ValueError):
            line = b""
        while not done.is_set():
            try:
                lines.put(line, timeout=0.2)
                break
            except queue.Full:
                continue
        if not line:
            return


def _drain(stream: IO[bytes], kept: bytearray) -> None:
    with contextlib.suppress(OSError, ValueError):
        while block := stream.read1(4096):  # type: ignore[attr-defined]
            kept += block
            del kept[:-_STDERR_KEPT]
