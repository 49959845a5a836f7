"""POST /api/create as a stream of status lines.

The server may be silent for minutes while it rewrites a large file, so there is no read timeout: elapsed time
is reported, the server is asked every 20 seconds whether it still lives, and there is one deadline for all.
Errors arrive inside a stream that began with HTTP 200; only the line `success` means success
(server/routes.go, streamResponse, v0.33.0-rc2).
"""

from __future__ import annotations

import json
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass

import httpx

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.client import OllamaClient, encode_json, explain_transport
from rfctl.ollama.failure import explain_failure, read_error

DEADLINE_SECONDS = 4 * 3600.0
ALIVE_SECONDS = 20.0
MAX_LINES = 10_000
MAX_LINE_BYTES = 1 << 20


@dataclass(frozen=True)
class _Line:
    text: str


@dataclass(frozen=True)
class _End:
    status: int
    body: bytes
    error: httpx.HTTPError | None = None


def create_model(
    client: OllamaClient,
    body: Mapping[str, object],
    reporter: Reporter = SILENT,
    *,
    deadline_seconds: float = DEADLINE_SECONDS,
    alive_seconds: float = ALIVE_SECONDS,
) -> tuple[str, ...]:
    """Send a create request (JSON fields of /api/create) and follow it; returns the status texts.

    Raises UnreachableError when the server is gone or the deadline passes, RfctlError with the cause for an
    error line, and `ollama.create-unfinished` when the stream ends without `success`.
    """
    model = str(body.get("model", ""))
    incoming: queue.SimpleQueue[_Line | _End] = queue.SimpleQueue()
    transport = client.open_transport(None)
    threading.Thread(target=_read_stream, args=(transport, body, incoming), daemon=True).start()
    statuses: list[str] = []
    started = heard = time.monotonic()
    try:
        with reporter.stage("ollama.stage-create", unit="seconds", model=model) as stage:
            while True:
                try:
                    item = incoming.get(timeout=1.0)
                except queue.Empty:
                    now = time.monotonic()
                    stage.update(done=int(now - started), detail=statuses[-1] if statuses else "")
                    if now - started > deadline_seconds:
                        raise UnreachableError(
                            "ollama.create-timeout", url=client.url, seconds=int(now - started), model=model
                        ) from None
                    if now - heard > alive_seconds:
                        client.version()
                        heard = now
                    continue
                heard = time.monotonic()
                if isinstance(item, _Line):
                    status = _read_line(item.text, client.url, model)
                    if status:
                        statuses.append(status)
                        stage.update(done=int(heard - started), detail=status)
                    continue
                if item.error is not None:
                    raise explain_transport(item.error, client.url) from item.error
                if item.status != 200:
                    raise explain_failure(item.status, read_error(item.body), url=client.url, model=model)
                break
    finally:
        transport.close()
    if not statuses or statuses[-1] != "success":
        raise RfctlError(
            "ollama.create-unfinished", url=client.url, model=model, status=statuses[-1] if statuses else "-"
        )
    return tuple(statuses)


def _read_line(text: str, url: str, model: str) -> str:
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise RfctlError("ollama.not-ollama", url=url, path="/api/create")
    if "error" in document:
        raise explain_failure(200, str(document["error"]), url=url, model=model)
    return str(document.get("status", ""))


def _read_stream(
    transport: httpx.Client, body: Mapping[str, object], outgoing: queue.SimpleQueue[_Line | _End]
) -> None:
    """Runs in a thread: puts every line and then the end into the queue."""
    count = 0
    try:
        with transport.stream(
            "POST", "/api/create", content=encode_json(body), headers={"Content-Type": "application/json"}
        ) as answer:
            if answer.status_code != 200:
                said = b""
                for piece in answer.iter_bytes():
                    said += piece
                    if len(said) > MAX_LINE_BYTES:
                        break
                outgoing.put(_End(answer.status_code, said[:65536]))
                return
            rest = b""
            for piece in answer.iter_bytes():
                *lines, rest = (rest + piece).split(b"\n")
                count += len(lines)
                for line in lines:
                    if line.strip():
                        outgoing.put(_Line(line.decode("utf-8", errors="replace")))
                if count > MAX_LINES or len(rest) > MAX_LINE_BYTES:
                    break
            if rest.strip() and len(rest) <= MAX_LINE_BYTES:
                outgoing.put(_Line(rest.decode("utf-8", errors="replace")))
        outgoing.put(_End(200, b""))
    except httpx.HTTPError as error:
        outgoing.put(_End(0, b"", error))
    except RuntimeError:
        # The owner closed the transport because it gave up; nobody reads the queue any more.
        return
