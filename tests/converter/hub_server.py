"""A small server that speaks the Hugging Face hub's protocol for directories of this machine.

    with HubServer({"org/name": folder}) as hub:
        ...  # HF_ENDPOINT = hub.url
        hub.requests   # what was asked: method, path, range, status, bytes of the answer
        hub.sent       # bytes of all bodies

Served, as huggingface_hub 0.36 to 2.4 asks for it (`hf_api.py`, `file_download.py`):

    GET       /api/models/ORG/NAME[/revision/REV]         id, sha, siblings (sizes with ?blobs=true)
    GET       /api/models/ORG/NAME/tree/REV[/PATH]        files with sizes; ?recursive=true
    HEAD GET  /ORG/NAME/resolve/REV/FILE                  X-Repo-Commit, ETag, Range

REV is "main" or the commit. Large files (`*.safetensors`, `*.bin`, `*.gguf`) have LFS headers and are
redirected to /cdn/..., as the hub does; the path of a mirror under a prefix works with `prefix="/mirror"`.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, quote, unquote, urlsplit

_LARGE = (".safetensors", ".bin", ".gguf")


@dataclass(frozen=True)
class Request:
    """One request and its answer. `sent` is the length of the body that went out, bytes."""

    method: str
    path: str
    range: str
    token: str
    status: int
    sent: int


@dataclass
class HubServer:
    """The server; set an attribute at any time, it counts for the next request.

    repos    "org/name" -> directory
    token    requests without this token are answered 401, with another one 403 (gated)
    gated    repos that need `token` (all if empty and `token` is set)
    prefix   path in front of everything (a mirror)
    broken   answers of 503 still to be given, one per request
    cut      break the connection after so many bytes of a body (0: never)
    ranges   False: ignores Range, as some mirrors do
    """

    repos: Mapping[str, Path]
    token: str = ""
    gated: tuple[str, ...] = ()
    prefix: str = ""
    broken: int = 0
    cut: int = 0
    ranges: bool = True
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """The endpoint, without a slash at its end."""
        return f"http://127.0.0.1:{self._server.server_address[1]}{self.prefix}"

    @property
    def sent(self) -> int:
        """Bytes of all bodies so far."""
        return sum(request.sent for request in self.requests)

    def commit(self, repo: str) -> str:
        """The commit of "main": it changes with names and sizes of the files."""
        listed = "".join(f"{name}:{size}\n" for name, size in self.files(repo).items())
        return hashlib.sha1(listed.encode()).hexdigest()

    def files(self, repo: str) -> dict[str, int]:
        """Name -> bytes."""
        folder = self.repos[repo]
        return {
            path.relative_to(folder).as_posix(): path.stat().st_size
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: requests are recorded instead."""

    def do_HEAD(self) -> None:
        self._serve(with_body=False)

    def do_GET(self) -> None:
        self._serve(with_body=True)

    def _serve(self, *, with_body: bool) -> None:
        hub, split = self.hub, urlsplit(self.path)
        path = unquote(split.path)
        if hub.broken:
            hub.broken -= 1
            self._answer(503, b"", with_body)
        elif not path.startswith(hub.prefix + "/"):
            self._answer(404, b"", with_body)
        else:
            self._route(path[len(hub.prefix) :], parse_qs(split.query), with_body)

    def _route(self, path: str, query: dict[str, list[str]], with_body: bool) -> None:
        if found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._file(found[1], found[2], with_body, is_cdn=True)  # signed in the real hub
            return
        api = re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/([^/]+)(?:/(.*))?)?", path)
        resolve = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
        match = api or resolve
        if match is None or match[1] not in self.hub.repos:
            self._refuse(404 if self._given else 401, "RepoNotFound", "Repository not found", with_body)
            return
        repo = match[1]
        revision = api[3] if api else resolve[2] if resolve else None
        needs = self.hub.token and (not self.hub.gated or repo in self.hub.gated)
        if needs and self._given != self.hub.token:
            status = 403 if self._given else 401
            self._refuse(status, "GatedRepo", f"Access to model {repo} is restricted.", with_body)
        elif revision not in (None, "main", self.hub.commit(repo)):
            self._refuse(404, "RevisionNotFound", "Invalid rev id", with_body)
        elif api:
            self._describe(repo, api, query, with_body)
        elif resolve:
            self._file(repo, resolve[3], with_body)

    @property
    def _given(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _describe(
        self, repo: str, match: re.Match[str], query: dict[str, list[str]], with_body: bool
    ) -> None:
        files = self.hub.files(repo)
        document: Any
        if match[2] == "tree":
            inside = f"{match[4]}/" if match[4] else ""
            document = [
                {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
                for name, size in files.items()
                if name.startswith(inside)
            ]
        else:
            with_sizes = "blobs" in query
            document = {
                "_id": "0" * 24,
                "id": repo,
                "modelId": repo,
                "sha": self.hub.commit(repo),
                "private": False,
                "gated": False,
                "disabled": False,
                "downloads": 0,
                "likes": 0,
                "tags": [],
                "siblings": [
                    {"rfilename": name} | ({"size": size} if with_sizes else {})
                    for name, size in files.items()
                ],
            }
        self._answer(200, json.dumps(document).encode(), with_body, {"Content-Type": "application/json"})

    def _file(self, repo: str, name: str, with_body: bool, *, is_cdn: bool = False) -> None:
        sizes = self.hub.files(repo) if repo in self.hub.repos else {}
        if name not in sizes:
            self._refuse(404, "EntryNotFound", "Entry not found", with_body)
            return
        size, path = sizes[name], self.hub.repos[repo] / name
        etag = hashlib.sha256(f"{name}:{size}:{path.stat().st_mtime_ns}".encode()).hexdigest()
        headers = {"ETag": f'"{etag}"', "Accept-Ranges": "bytes"}
        if not is_cdn:
            headers["X-Repo-Commit"] = self.hub.commit(repo)
            if name.endswith(_LARGE):
                headers |= {"X-Linked-Size": str(size), "X-Linked-Etag": f'"{etag}"'}
                # Another host, as in life: clients follow redirects inside the hub before they read headers.
                other = self.hub.url.replace("127.0.0.1", "localhost")
                headers["Location"] = f"{other}/cdn/{repo}/{quote(name)}"
                self._answer(302, b"", with_body, headers)
                return
        begin, end = 0, size
        wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range", ""))
        if wanted and self.hub.ranges and (wanted[1] or wanted[2]):
            begin = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
            end = min(size, int(wanted[2]) + 1) if wanted[1] and wanted[2] else size
            if begin >= size:
                self._answer(416, b"", with_body, {"Content-Range": f"bytes */{size}"})
                return
            headers["Content-Range"] = f"bytes {begin}-{end - 1}/{size}"
        with path.open("rb") as file:
            file.seek(begin)
            body = file.read(end - begin) if with_body else b""
        status = 206 if "Content-Range" in headers else 200
        self._answer(status, body, with_body, headers, length=end - begin)

    def _refuse(self, status: int, code: str, message: str, with_body: bool) -> None:
        body = json.dumps({"error": message}).encode()
        self._answer(status, body, with_body, {"X-Error-Code": code, "X-Error-Message": message})

    def _answer(
        self,
        status: int,
        body: bytes,
        with_body: bool,
        headers: Mapping[str, str] | None = None,
        length: int | None = None,
    ) -> None:
        cut = self.hub.cut if with_body and 0 < self.hub.cut < len(body) else 0
        sent = (cut or len(body)) if with_body else 0
        asked = self.headers.get("Range", "")
        self.hub.requests.append(Request(self.command, self.path, asked, self._given, status, sent))
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if not with_body:
            return
        try:
            self.wfile.write(body[:sent])
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has read enough
        if cut:
            self.wfile.flush()
            self.connection.close()
            self.close_connection = True
