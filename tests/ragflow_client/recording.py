"""A server that answers as a recording does (golden/ragflow/exchanges), and says what was sent otherwise."""

from __future__ import annotations

import base64
import email.parser
import email.policy
import hashlib
import json
import re
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

KEY = "ragflow-" + "r" * 43
TOKEN = "IjEyMzQ1Njc4OTBhYmNkZWYi.session.token"
_VALUES = {
    "<ms>": 1_750_000_000_000,
    "<seconds>": 1.5,
    "<date_time>": "2026-08-22T10:00:00",
    "<hh:mm:ss>": "10:00:00",
    "<n>": "1.5",
    "<session_token>": TOKEN,
}
_PAGING = ("page", "page_size", "orderby", "desc")
# Our bodies say more than the recorded ones there; what both say must be equal.
_FULLER = re.compile(r"POST /api/v1/(datasets|chats|retrieval|chats/\w+/completions|providers/.*/models/.+)$")


def value_of(placeholder: str, file: str) -> Any:
    """The same value for the same placeholder of a file."""
    if placeholder in _VALUES:
        return _VALUES[placeholder]
    if times := re.fullmatch(r"<(\d+) times x>", placeholder):
        return "x" * int(times[1])
    digest = hashlib.sha256(f"{file}{placeholder}".encode()).hexdigest()
    if placeholder.startswith("<chunk_"):
        return digest[:16]
    if placeholder.startswith("<api_key"):
        return KEY
    return digest[:32]


def fill(value: Any, file: str) -> Any:
    """`value` with every placeholder replaced."""
    if isinstance(value, dict):
        return {key: fill(item, file) for key, item in value.items()}
    if isinstance(value, list):
        return [fill(item, file) for item in value]
    if not isinstance(value, str):
        return value
    if value in _VALUES:
        return _VALUES[value]
    known = re.compile(
        r"<(?:dataset|document|chat|session|message|tenant|provider|instance|model|chunk|api_key)_\d+>"
        r"|<(?:ms|seconds|date_time|hh:mm:ss|n)>|<\d+ times x>"
    )
    return known.sub(lambda match: str(value_of(match[0], file)), value)


def _is_encrypted(value: Any) -> bool:
    """Whether this has the form of a block of RSA 2048."""
    try:
        return isinstance(value, str) and len(base64.b64decode(value, validate=True)) == 256
    except ValueError:
        return False


@dataclass
class Exchange:
    file: str
    request: dict[str, Any]
    response: dict[str, Any]
    used: bool = False


class RecordedServer:
    """names: recordings, without `.json`. `problems` lists requests that no recording has."""

    def __init__(self, golden: Path, names: tuple[str, ...]) -> None:
        self.exchanges: list[Exchange] = []
        for name in names:
            document = json.loads((golden / "exchanges" / f"{name}.json").read_text(encoding="utf-8"))
            for one in document["exchanges"]:
                request, response = fill(one["request"], name), fill(one["response"], name)
                self.exchanges.append(Exchange(name, request, response))
        self.problems: list[str] = []
        self.lines: list[str] = []
        self._lock = threading.Lock()
        recorded = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def answer(self) -> None:
                recorded._answer(self)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = answer

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def id(self, placeholder: str, file: str) -> str:
        return str(value_of(placeholder, file))

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self._lock:
            self.lines.append(f"{handler.command} {unquote(urlsplit(handler.path).path)}")
            exchange = self._find(handler, body)
        if exchange is None:
            self.problems.append(f"{handler.command} {handler.path} {body[:400]!r}")
            self._send(handler, 599, "application/json", b'{"code":599,"message":"not in the recording"}')
            return
        response = exchange.response
        if "sse" in response:
            data = "".join(f"{line}\n\n" for line in response["sse"]).encode()
        elif "json" in response:
            data = json.dumps(response["json"], ensure_ascii=False).encode()
        else:
            data = str(response.get("text", "x" * response.get("bytes", 0))).encode()
        extra = {"Content-Disposition": response.get("content_disposition"), **response.get("headers", {})}
        self._send(handler, response["status"], response["content_type"], data, extra)

    def _find(self, handler: BaseHTTPRequestHandler, body: bytes) -> Exchange | None:
        parts = urlsplit(handler.path)
        query = parse_qs(parts.query)
        sent = Sent(handler.command, unquote(parts.path), query, handler.headers, body)
        matches = [one for one in self.exchanges if sent.matches(one.request)]
        fresh = [one for one in matches if not one.used]
        chosen = fresh[0] if fresh else matches[-1] if matches and handler.command == "GET" else None
        if chosen is not None:
            chosen.used = True
        return chosen

    def _send(
        self,
        handler: BaseHTTPRequestHandler,
        status: int,
        kind: str,
        data: bytes,
        extra: dict[str, str | None] | None = None,
    ) -> None:
        handler.send_response(status)
        handler.send_header("Content-Type", kind)
        handler.send_header("Content-Length", str(len(data)))
        for name, value in (extra or {}).items():
            if value:
                handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@dataclass
class Sent:
    method: str
    path: str
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    def matches(self, request: dict[str, Any]) -> bool:
        if (self.method, self.path) != (request["method"], request["path"]):
            return False
        # A session opens whatever a key opens.
        allowed = {"api key": (f"Bearer {KEY}", TOKEN), "session token": (TOKEN,)}
        if self.headers["Authorization"] not in allowed.get(
            request["auth"], (self.headers["Authorization"],)
        ):
            return False
        recorded = {
            key: [str(item) for item in (value if isinstance(value, list) else [value])]
            for key, value in request.get("query", {}).items()
            if key not in _PAGING
        }
        if recorded != {key: value for key, value in self.query.items() if key not in _PAGING}:
            return False
        if "multipart" in request:
            return self._parts() == [
                (part["field"], part["filename"], part["bytes"], part["sha256"])
                for part in request["multipart"]
            ]
        if "json" not in request:
            return not self.body and "raw_body" not in request
        try:
            sent = json.loads(self.body)
        except ValueError:
            return False
        if request["json"] and isinstance(sent, dict) and _is_encrypted(sent.get("password")):
            sent["password"] = "<encrypted_password>"
        for model in sent.get("model_info", []) if isinstance(sent, dict) else []:
            if not model.get("extra", True):
                del model["extra"]  # the recorded client left out what is empty
        if _FULLER.fullmatch(f"{self.method} {self.path}") and isinstance(sent, dict):
            common = sent.keys() & request["json"].keys() - {"message"}
            return bool(all(sent[key] == request["json"][key] for key in common))
        return bool(sent == request["json"])

    def _parts(self) -> list[tuple[str, str, int, str]]:
        kind = self.headers.get("Content-Type", "")
        if "multipart/form-data" not in kind:
            return []
        head = f"Content-Type: {kind}\r\n\r\n".encode()
        message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + self.body)
        found = []
        for part in message.iter_parts():
            data = part.get_payload(decode=True)
            assert isinstance(data, bytes)
            name = str(part.get_param("name", header="content-disposition"))
            raw = re.search(rb'filename="([^"]*)"', self.body)
            filename = raw[1].decode() if raw else ""
            found.append((name, filename, len(data), hashlib.sha256(data).hexdigest()))
        return found
