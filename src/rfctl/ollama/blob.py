"""Sending a file to the model server's store: what is hashed is what is sent."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from rfctl.core.error import RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.client import OllamaClient, explain_transport
from rfctl.ollama.failure import explain_failure, read_error

PIECE_BYTES = 1 << 20


@dataclass(frozen=True)
class Content:
    """The bytes to upload: `head`, then the file from byte `start` to its end.

    A rewritten GGUF header is sent in front of the unchanged tensor data, so that no second file is written.
    """

    path: Path
    size: int
    head: bytes = b""
    start: int = 0

    @staticmethod
    def of_file(path: Path, head: bytes = b"", start: int = 0) -> Content:
        return Content(path, len(head) + path.stat().st_size - start, head, start)

    def read(self) -> Iterator[bytes]:
        """All bytes in pieces of at most 1 MiB. Raises RfctlError if the file changed its size meanwhile."""
        sent = 0
        for offset in range(0, len(self.head), PIECE_BYTES):
            piece = self.head[offset : offset + PIECE_BYTES]
            sent += len(piece)
            yield piece
        with self.path.open("rb") as file:
            file.seek(self.start)
            while piece := file.read(PIECE_BYTES):
                sent += len(piece)
                if sent > self.size:
                    break
                yield piece
        if sent != self.size:
            raise RfctlError("ollama.source-changed", path=self.path)

    def digest(self, advance: Callable[[int], None] | None = None) -> str:
        """`sha256:<hex>` of all bytes."""
        state = hashlib.sha256()
        for piece in self.read():
            state.update(piece)
            if advance is not None:
                advance(len(piece))
        return f"sha256:{state.hexdigest()}"


def upload_blob(client: OllamaClient, content: Content, digest: str, reporter: Reporter = SILENT) -> int:
    """Send `content` as blob `digest` unless the server has it; returns the bytes sent (0: it was there).

    A broken connection starts again from zero once: the server keeps nothing of a partial upload
    (server/routes.go, CreateBlobHandler, v0.33.0-rc2). Raises UnreachableError, RfctlError.
    """
    if client.has_blob(digest):
        return 0
    for attempt in (1, 2):
        with reporter.stage("ollama.stage-upload", total=content.size, path=content.path.name) as stage:

            def pieces() -> Iterator[bytes]:
                for piece in content.read():
                    yield piece
                    stage.advance(len(piece))

            try:
                answer = client.http.post(
                    f"/api/blobs/{digest}",
                    content=pieces(),
                    headers={
                        "Content-Length": str(content.size),
                        "Content-Type": "application/octet-stream",
                    },
                )
            except httpx.TransportError as error:
                lost = explain_transport(error, client.url)
                if attempt == 2 or lost.id == "ollama.unreachable":
                    raise lost from error
                reporter.warn("ollama.upload-again", path=content.path.name)
                continue
        if answer.status_code in (200, 201):
            return content.size
        raise explain_failure(answer.status_code, read_error(answer.content[:65536]), url=client.url)
    raise AssertionError("unreachable")
