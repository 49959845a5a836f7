"""Receiving multipart bodies piece by piece, so that memory does not grow with the files."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import unquote

from python_multipart.exceptions import MultipartParseError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.requests import Request

from rfctl.engine.ragflow.document_file import Incoming
from rfctl.engine.ragflow.envelope import ARGUMENT, Failure

FIELD = "file"
MAX_FILES = 1000
MAX_HEADERS = 32
MAX_HEADER_BYTES = 64 << 10
_EXTENDED = re.compile(r"""filename\*\s*=\s*"?utf-8''([^;"]*)""", re.IGNORECASE)


@dataclass
class Part:
    """One part of the field `file`. file is None when the name was refused."""

    name: str
    file: Incoming | None
    content_hash: str = ""


class _Receiver:
    """Callbacks of the parser; events are queued and handled between pieces."""

    def __init__(self, accept: Callable[[str], Incoming | None]) -> None:
        self.accept = accept
        self.parts: list[Part] = []
        self.field = bytearray()
        self.value = bytearray()
        self.headers: dict[str, bytes] = {}
        self.current: Part | None = None

    def begin(self) -> None:
        self.headers = {}
        self.field.clear()
        self.value.clear()
        self.current = None

    def add_field(self, data: bytes, start: int, end: int) -> None:
        self.field += data[start:end]
        self.check()

    def add_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]
        self.check()

    def check(self) -> None:
        """Headers are kept in memory, so they must be short: a file in the wrong place is not."""
        if len(self.headers) > MAX_HEADERS or len(self.field) + len(self.value) > MAX_HEADER_BYTES:
            raise MultipartParseError("the headers of a part are too long")

    def end_header(self) -> None:
        self.headers[self.field.decode("latin-1").lower()] = bytes(self.value)
        self.field.clear()
        self.value.clear()

    def end_headers(self) -> None:
        disposition = self.headers.get("content-disposition", b"")
        _, options = parse_options_header(disposition)
        if options.get(b"name", b"").decode(errors="replace") != FIELD:
            return
        extended = _EXTENDED.search(disposition.decode("latin-1"))
        if extended is not None:
            name = unquote(extended[1])
        elif b"filename" in options:
            # Browsers and httpx write quotes and line ends in names as %22, %0D, %0A (HTML living standard).
            name = options[b"filename"].decode(errors="replace")
            name = re.sub("%(22|0D|0A)", lambda match: unquote(match[0]), name)
        else:
            return
        if len(self.parts) >= MAX_FILES:
            raise Failure(ARGUMENT, f"At most {MAX_FILES} files in one request")
        self.current = Part(name, self.accept(name))
        self.parts.append(self.current)

    def add_data(self, data: bytes, start: int, end: int) -> None:
        if self.current is not None and self.current.file is not None:
            self.current.file.write(data[start:end])

    def end_part(self) -> None:
        if self.current is not None and self.current.file is not None:
            self.current.content_hash = self.current.file.finish()
        self.current = None


async def receive(request: Request, accept: Callable[[str], Incoming | None]) -> list[Part]:
    """Store the parts named `file`; `accept(name)` opens the target or refuses with None.

    Empty without a multipart body. On any error or a cut connection everything written is discarded.
    Raises Failure 101 for a malformed body, OSError for a full disk.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        await drain(request)
        return []
    receiver = _Receiver(accept)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": receiver.begin,
            "on_part_data": receiver.add_data,
            "on_part_end": receiver.end_part,
            "on_header_field": receiver.add_field,
            "on_header_value": receiver.add_value,
            "on_header_end": receiver.end_header,
            "on_headers_finished": receiver.end_headers,
        },
    )
    try:
        async for piece in request.stream():
            await asyncio.to_thread(parser.write, piece)
        parser.finalize()
        if receiver.current is not None:
            raise MultipartParseError("the last part is not closed")
    except BaseException as error:
        discard(receiver.parts)
        if isinstance(error, MultipartParseError):
            raise Failure(ARGUMENT, f"Malformed multipart body: {error}") from error
        raise
    return receiver.parts


def discard(parts: list[Part]) -> None:
    """Remove the files of `parts`."""
    for part in parts:
        if part.file is not None:
            part.file.discard()


async def drain(request: Request) -> None:
    """Read and forget the body, so that the client gets the answer and not a reset connection."""
    # Starlette refuses to read what has been read to its end: then there is nothing left to forget.
    with contextlib.suppress(RuntimeError):
        async for _ in request.stream():
            pass
