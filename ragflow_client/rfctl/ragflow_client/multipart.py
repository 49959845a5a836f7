"""A multipart body that reads its file while it is sent, so that any file needs 256 KiB of memory."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

from rfctl.core.error import RfctlError

PIECE_BYTES = 256 << 10


class Multipart:
    """One file part of `multipart/form-data` (RFC 7578), with a known length; can be iterated again.

    field      name of the form field
    path       the file; its size is taken now and must stay
    filename   name that the server is told, any Unicode text (sent as UTF-8, quotes and line ends escaped as
               the WHATWG form encoding does)
    advance    gets the number of file bytes of every piece handed out
    """

    def __init__(
        self, field: str, path: Path, filename: str, advance: Callable[[int], None] | None = None
    ) -> None:
        self._path = path
        self._advance = advance
        self._size = path.stat().st_size
        boundary = f"rfctl-{secrets.token_hex(16)}"
        self.content_type = f"multipart/form-data; boundary={boundary}"
        head = (
            f"--{boundary}\r\n"
            f'Content-Disposition: form-data; name="{_escape(field)}"; filename="{_escape(filename)}"\r\n'
            "Content-Type: application/octet-stream\r\n\r\n"
        )
        self._head = head.encode("utf-8")
        self._tail = f"\r\n--{boundary}--\r\n".encode()

    def __len__(self) -> int:
        return len(self._head) + self._size + len(self._tail)

    def __iter__(self) -> Iterator[bytes]:
        """Pieces that add up to `len(self)`. Raises RfctlError `upload.file-changed` when the file shrank."""
        yield self._head
        left = self._size
        try:
            with self._path.open("rb", buffering=0) as file:
                while left:
                    piece = file.read(min(PIECE_BYTES, left))
                    if not piece:
                        raise RfctlError("upload.file-changed", name=self._path.name)
                    left -= len(piece)
                    yield piece
                    if self._advance is not None:
                        self._advance(len(piece))
            size = self._path.stat().st_size
        except OSError as error:
            raise RfctlError("upload.unreadable", name=self._path.name, detail=error.strerror) from error
        if size != self._size:
            raise RfctlError("upload.file-changed", name=self._path.name)
        yield self._tail


def _escape(text: str) -> str:
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
