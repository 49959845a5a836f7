"""Real HTTP servers on a socket for the tests of the Ollama client: one that replays recorded exchanges, one
that keeps models as Ollama from 0.30 does (it rewrites what it is given), and hooks for faults."""

from __future__ import annotations

import hashlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

from rfctl.ollama.template import Template, render

# What our client never causes: malformed JSON, wrong field types, features it does not use.
NEVER_CAUSED = (
    "json:",
    "invalid character",
    "missing request body",
    "invalid format",
    "Multimodal",
    "raw mode",
    "invalid duration",
    "invalid input",
    "invalid option",
    "neither 'from'",
    "only one adapter",
    "relative",
    "dimensions",
    "decode error",
    "Failed to parse",
)


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body) if self.body else None


@dataclass(frozen=True)
class Response:
    """body: bytes, or lines that are streamed; cut: close the connection without an end."""

    status: int = 200
    body: bytes | Iterator[bytes] = b""
    content_type: str | None = "application/json; charset=utf-8"
    cut: bool = False


def answer(document: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(document).encode())


def stream(lines: list[Any], *, cut: bool = False) -> Response:
    return Response(
        200, (json.dumps(line).encode() + b"\n" for line in lines), "application/x-ndjson", cut=cut
    )


class HttpServer:
    """Serves `handle` on a free loopback port; remembers every request."""

    def __init__(self, handle: Callable[[Request], Response]) -> None:
        self.requests: list[Request] = []
        self.drop_upload_after: int | None = None
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def serve(self) -> None:
                length = int(self.headers.get("Content-Length") or 0)
                if owner.drop_upload_after is not None and self.path.startswith("/api/blobs/") and length:
                    self.rfile.read(owner.drop_upload_after)
                    self.connection.shutdown(socket.SHUT_RDWR)
                    self.close_connection = True
                    return
                body = self.rfile.read(length)
                request = Request(self.command, self.path, dict(self.headers), body)
                owner.requests.append(request)
                self.reply(handle(request))

            def reply(self, response: Response) -> None:
                self.send_response(response.status)
                if response.content_type is not None:
                    self.send_header("Content-Type", response.content_type)
                if isinstance(response.body, bytes):
                    self.send_header("Content-Length", str(len(response.body)))
                    self.end_headers()
                    if self.command != "HEAD":
                        self.wfile.write(response.body)
                    return
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                for piece in response.body:
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
                    self.wfile.flush()
                if response.cut:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                else:
                    self.wfile.write(b"0\r\n\r\n")

            do_GET = do_POST = do_HEAD = do_DELETE = serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


def normalise(body: Any) -> Any:
    """A request without what is the same as nothing: null, empty lists, `stream` false."""
    if isinstance(body, dict):
        return {
            key: normalise(value)
            for key, value in body.items()
            if value is not None and value != [] and not (key in ("stream", "raw") and value is False)
        }
    if isinstance(body, list):
        return [normalise(item) for item in body]
    return body


def load_exchanges(golden: Path, scenario: str) -> list[dict[str, Any]]:
    path = golden / "ollama" / "exchanges" / f"{scenario}.json"
    return list(json.loads(path.read_text(encoding="utf-8"))["exchanges"])


class Replay(HttpServer):
    """Answers each request with the recorded exchange that has the same method, path and body."""

    def __init__(self, exchanges: list[dict[str, Any]]) -> None:
        self.exchanges = exchanges
        self.misses: list[Request] = []
        super().__init__(self._find)

    def _find(self, request: Request) -> Response:
        for exchange in self.exchanges:
            if self._fits(exchange["request"], request):
                return self._response(exchange["response"])
        self.misses.append(request)
        return answer({"error": f"not recorded: {request.method} {request.path} {request.body!r}"}, 418)

    @staticmethod
    def _fits(recorded: dict[str, Any], request: Request) -> bool:
        if (recorded["method"], recorded["path"]) != (request.method, request.path):
            return False
        if "json" in recorded:
            return bool(request.body) and normalise(recorded["json"]) == normalise(request.json)
        body = recorded.get("body")
        if isinstance(body, str) and body.startswith("<"):
            size, _, digest = body.strip("<>").partition(" bytes sha256:")
            return len(request.body) == int(size) and hashlib.sha256(request.body).hexdigest() == digest
        return request.body == (body or "").encode()

    @staticmethod
    def _response(recorded: dict[str, Any]) -> Response:
        kind = recorded.get("content_type")
        if "ndjson" in recorded:
            return Response(200, (json.dumps(line).encode() + b"\n" for line in recorded["ndjson"]), kind)
        if "json" in recorded:
            text = json.dumps(recorded["json"]).replace('"<duration_ns>"', "1000000")
            text = text.replace("<timestamp>", "2026-08-21T10:00:00.123456789Z")
            return Response(recorded["status"], text.encode(), kind)
        return Response(recorded["status"], recorded.get("text", "").encode(), kind)


@dataclass
class Keeper(HttpServer):
    """Keeps models like a real server: blobs by digest, a rewritten model layer, tags, show, rendered
    prompts, one canned answer. Faults are set by attributes."""

    version: str = "0.33.0"
    template: Template = field(default_factory=lambda: Template(""))
    answer_text: str = "yes"
    done_reason: str = "stop"
    capabilities: tuple[str, ...] = ("completion",)
    vectors: list[list[float]] = field(default_factory=lambda: [[0.6, 0.8], [1.0, 0.0]])
    create_lines: list[Any] | None = None
    cut_create: bool = False
    served_prefix: str = ""
    loaded_context: int = 0
    tells_parameters: bool = True
    prompt_tokens: int = 24

    def __post_init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.models: dict[str, dict[str, Any]] = {}
        super().__init__(self._handle)

    def _handle(self, request: Request) -> Response:
        if request.path.startswith("/api/blobs/"):
            return self._blob(request)
        name = f"_{request.path.rpartition('/')[2]}"
        return getattr(self, name)(request.json)  # type: ignore[no-any-return]

    def _blob(self, request: Request) -> Response:
        digest = request.path.rpartition("/")[2]
        if request.method == "HEAD":
            return Response(200 if digest in self.blobs else 404, content_type=None)
        got = f"sha256:{hashlib.sha256(request.body).hexdigest()}"
        if got != digest:
            return answer({"error": f'digest mismatch, expected "{digest}", got "{got}"'}, 400)
        self.blobs[digest] = request.body
        return Response(201, content_type=None)

    def _version(self, body: Any) -> Response:
        return answer({"version": self.version})

    def _create(self, body: Any) -> Response:
        if self.create_lines is not None:
            return stream(self.create_lines, cut=self.cut_create)
        digest = next(iter(body["files"].values()))
        if digest not in self.blobs:
            return stream([{"status": "parsing GGUF"}, {"error": f"open /x/blobs/{digest}: no such file"}])
        served = hashlib.sha256(b"rewritten" + self.blobs[digest]).hexdigest()
        manifest = hashlib.sha256(json.dumps([body, served]).encode()).hexdigest()
        self.models[body["model"]] = {"body": body, "served": served, "digest": manifest}
        return stream(
            [
                {"status": text}
                for text in ("parsing GGUF", "verifying conversion", "writing manifest", "success")
            ]
        )

    def _tags(self, body: Any) -> Response:
        return answer(
            {
                "models": [
                    {"name": name, "digest": model["digest"], "size": 1}
                    for name, model in self.models.items()
                ]
            }
        )

    def _ps(self, body: Any) -> Response:
        loaded = [
            {
                "name": name,
                "context_length": self.loaded_context or model["body"].get("parameters", {}).get("num_ctx"),
            }
            for name, model in self.models.items()
        ]
        return answer({"models": loaded})

    def _show(self, body: Any) -> Response:
        model = self.models.get(body["model"])
        if model is None:
            return answer({"error": f"model '{body['model']}' not found"}, 404)
        return answer(
            {
                "modelfile": f"FROM /store/blobs/sha256-{model['served']}\n",
                "capabilities": list(self.capabilities),
                "parameters": _print_parameters(
                    model["body"].get("parameters", {}) if self.tells_parameters else {}
                ),
                "system": model["body"].get("system", ""),
                "messages": model["body"].get("messages", []),
            }
        )

    def _chat(self, body: Any) -> Response:
        model = self.models[body["model"]]["body"]
        messages = body["messages"]
        if body.get("_debug_render_only"):
            if "system" in model:
                messages = [{"role": "system", "content": model["system"]}, *messages]
            text = self.served_prefix + render(self.template, messages)
            return answer({"done": False, "_debug_info": {"rendered_template": text}})
        return answer(
            {
                "model": body["model"],
                "message": {"role": "assistant", "content": self.answer_text},
                "done": True,
                "done_reason": self.done_reason,
                "eval_count": 2,
                "prompt_eval_count": self.prompt_tokens,
                "total_duration": 5_000_000,
            }
        )

    def _embed(self, body: Any) -> Response:
        return answer({"model": body["model"], "embeddings": self.vectors})

    def _delete(self, body: Any) -> Response:
        if self.models.pop(body["model"], None) is None:
            return answer({"error": f"model '{body['model']}' not found"}, 404)
        return Response(200, content_type=None)


def _print_parameters(parameters: dict[str, Any]) -> str:
    """As /api/show prints them: one line per value, texts quoted."""
    lines = []
    for name, values in parameters.items():
        for value in values if isinstance(values, list) else [values]:
            lines.append(f"{name:<30} {json.dumps(value)}")
    return "\n".join(lines)
