"""Server-sent events from pieces of bytes (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from rfctl.ragflow_client.failure import ServerError

MAX_EVENT_BYTES = 16 << 20
_LINE_END = re.compile(rb"\r\n|\n|\r")


class EventParser:
    """Feed it pieces as they arrive; it gives the `data` of each finished event.

    Lines may end in LF, CR LF or CR, and a piece may end anywhere, inside a character too. Other fields and
    comments are skipped. Bytes that are not UTF-8 become U+FFFD.
    """

    def __init__(self, limit: int = MAX_EVENT_BYTES) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._first = True

    def feed(self, piece: bytes) -> list[str]:
        """The data of all events that this piece completes. Raises ServerError over the limit."""
        self._buffer += piece
        if len(self._buffer) + self._size > self._limit:
            raise ServerError("ragflow.answer-too-large", limit=self._limit)
        found = []
        start = 0
        while (end := self._line_end(start)) is not None:
            stop, following = end
            if (event := self._take(bytes(self._buffer[start:stop]))) is not None:
                found.append(event)
            start = following
        del self._buffer[:start]
        return found

    def finish(self) -> list[str]:
        """What an unfinished last event holds; servers and proxies may leave the final empty line out."""
        if self._buffer:
            line = bytes(self._buffer).rstrip(b"\r")
            self._buffer.clear()
            if (event := self._take(line)) is not None:
                return [event]
        event = self._take(b"")
        return [] if event is None else [event]

    def _line_end(self, start: int) -> tuple[int, int] | None:
        """(end of the line, start of the next), or None while the line is incomplete."""
        # Looked for together: a search for a CR that does not come would go to the end once for each line.
        found = _LINE_END.search(self._buffer, start)
        if found is None:
            return None
        if found[0] == b"\r" and found.end() == len(self._buffer):
            return None  # the next piece may begin with the LF of this line end
        return found.start(), found.end()

    def _take(self, line: bytes) -> str | None:
        if self._first:
            self._first = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            if not self._data:
                return None
            event = b"\n".join(self._data).decode("utf-8", errors="replace")
            self._data.clear()
            self._size = 0
            return event
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value) + 1
        return None


def read_events(pieces: Iterable[bytes]) -> Iterator[str]:
    """The data of every event in `pieces`."""
    parser = EventParser()
    for piece in pieces:
        yield from parser.feed(piece)
    yield from parser.finish()
