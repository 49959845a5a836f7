"""A TCP server that sends exactly the bytes it is told, and remembers what it was sent."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections import deque
from dataclasses import dataclass, field


@dataclass
class Step:
    """One answer: raw bytes, sent in pieces with a pause between them; hang: keep the connection silent."""

    data: bytes = b""
    pieces: tuple[bytes, ...] = ()
    pause: float = 0.0
    hang: float = 0.0
    read_body: bool = True


@dataclass
class Request:
    head: bytes
    body_bytes: int = 0
    body: bytes = b""

    @property
    def line(self) -> str:
        return self.head.split(b"\r\n", 1)[0].decode()

    def header(self, name: str) -> str:
        for line in self.head.decode("latin-1").split("\r\n")[1:]:
            key, _, value = line.partition(":")
            if key.lower() == name.lower():
                return value.strip()
        return ""


def http(
    status: int, body: bytes | str | dict[str, object], kind: str = "application/json", **headers: str
) -> bytes:
    """An answer with a Content-Length; a dict becomes JSON."""
    data = (
        json.dumps(body).encode()
        if isinstance(body, dict)
        else body.encode()
        if isinstance(body, str)
        else body
    )
    lines = [f"HTTP/1.1 {status} X", f"Content-Type: {kind}", f"Content-Length: {len(data)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\nConnection: close\r\n\r\n" + data


def event_stream(*pieces: bytes, pause: float = 0.0) -> Step:
    """A stream that ends with the connection."""
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nConnection: close\r\n\r\n"
    return Step(pieces=(head, *pieces), pause=pause)


@dataclass
class ScriptedServer:
    steps: deque[Step] = field(default_factory=deque)
    requests: list[Request] = field(default_factory=list)
    keep_bodies: bool = True

    def __enter__(self) -> ScriptedServer:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._open = True
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._socket.close()

    def say(self, *answers: bytes | Step) -> None:
        """Queue answers; a connection without one is closed at once."""
        self.steps.extend(one if isinstance(one, Step) else Step(one) for one in answers)

    def _run(self) -> None:
        while self._open:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                head, rest = self._read_head(connection)
                if not head:
                    return
                request = Request(head)
                self.requests.append(request)
                step = self.steps.popleft() if self.steps else Step()
                if step.read_body:
                    self._read_body(connection, request, rest)
                time.sleep(step.hang)
                for piece in (step.data, *step.pieces):
                    if piece:
                        connection.sendall(piece)
                        time.sleep(step.pause)
            except OSError:
                return

    def _read_head(self, connection: socket.socket) -> tuple[bytes, bytes]:
        data = b""
        while b"\r\n\r\n" not in data:
            piece = connection.recv(65536)
            if not piece:
                return b"", b""
            data += piece
        head, _, rest = data.partition(b"\r\n\r\n")
        return head, rest

    def _read_body(self, connection: socket.socket, request: Request, rest: bytes) -> None:
        left = int(request.header("Content-Length") or 0) - len(rest)
        request.body_bytes = len(rest)
        parts = [rest]
        while left > 0 and (piece := connection.recv(1 << 20)):
            left -= len(piece)
            request.body_bytes += len(piece)
            if self.keep_bodies:
                parts.append(piece)
        if self.keep_bodies:
            request.body = b"".join(parts)
