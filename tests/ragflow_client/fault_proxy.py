"""A proxy between client and engine that breaks chosen requests in chosen ways."""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx

# lost: never forwarded; unanswered: forwarded, the answer is dropped; the others answer in the server's
# place, `late` after having forwarded; doubled: forwarded twice, the first answer is passed on; cut: half of
# the answer comes, then the connection ends.
FAULTS = ("lost", "unanswered", "cut", "502", "413", "late-504", "page", "delay", "doubled")
PAGE = b"<!DOCTYPE html><html><body>proxy</body></html>"


@dataclass
class Rule:
    """Apply `faults` in order to requests whose `METHOD /path` matches."""

    pattern: re.Pattern[str]
    faults: list[str]


@dataclass
class FaultProxy:
    target: str
    rules: list[Rule] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    chance: float = 0.0
    seed: int = 0
    choices: tuple[str, ...] = FAULTS

    def __enter__(self) -> FaultProxy:
        proxy = self
        self._random = random.Random(self.seed)
        self._lock = threading.Lock()
        self._client = httpx.Client(timeout=30, trust_env=False)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                proxy._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._client.close()

    def break_next(self, pattern: str, *faults: str) -> None:
        self.rules.append(Rule(re.compile(pattern), list(faults)))

    def heal(self) -> None:
        self.rules.clear()
        self.chance = 0.0

    def _choose(self, line: str) -> str:
        with self._lock:
            for rule in self.rules:
                if rule.faults and rule.pattern.search(line):
                    fault = rule.faults.pop(0)
                    break
            else:
                fault = self._random.choice(self.choices) if self._random.random() < self.chance else ""
            if fault == "doubled" and not line.startswith("POST"):
                fault = ""
            if fault:
                self.injected[fault] += 1
            return fault

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        fault = self._choose(f"{handler.command} {handler.path}")
        if fault == "lost":
            return self._drop(handler)
        if fault in ("502", "413"):
            return self._send(handler, int(fault), "text/html", PAGE)
        if fault == "page":
            return self._send(handler, 200, "text/html", PAGE)
        if fault == "delay":
            time.sleep(0.3)
        try:
            response = self._forward(handler, body)
            if fault == "doubled":
                self._forward(handler, body)
        except httpx.HTTPError:
            return self._send(handler, 502, "text/html", PAGE)
        if fault == "unanswered":
            return self._drop(handler)
        if fault == "late-504":
            return self._send(handler, 504, "text/html", PAGE)
        kind = response.headers.get("content-type", "application/json")
        extra = {"Content-Disposition": response.headers.get("content-disposition", "")}
        self._send(handler, response.status_code, kind, response.content, extra, cut=fault == "cut")
        return None

    def _forward(self, handler: BaseHTTPRequestHandler, body: bytes) -> httpx.Response:
        headers = {
            name: value
            for name, value in handler.headers.items()
            if name.lower() in ("authorization", "content-type")
        }
        return self._client.request(
            handler.command, self.target + handler.path, content=body, headers=headers
        )

    def _drop(self, handler: BaseHTTPRequestHandler) -> None:
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        kind: str,
        data: bytes,
        extra: dict[str, str] | None = None,
        *,
        cut: bool = False,
    ) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (extra or {}).items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            handler.wfile.flush()
            self._drop(handler)
