"""A web site on loopback: pages by path, every request remembered; as a proxy it answers for any host."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit


@dataclass
class Page:
    body: bytes = b""
    kind: str = "text/html; charset=utf-8"
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    length: int | None = None
    write: Callable[[BaseHTTPRequestHandler], None] | None = None


class WebSite:
    """pages: path (with a proxy: host and path) -> page; without robots.txt the site answers 404 to it."""

    def __init__(self) -> None:
        self.pages: dict[str, Page] = {}
        self.lines: list[str] = []
        self.agents: set[str] = set()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                site.lines.append(self.path)
                site.agents.add(self.headers.get("User-Agent", ""))
                parts = urlsplit(self.path)
                key = f"{parts.netloc}{parts.path}" if parts.netloc else self.path
                page = site.pages.get(key, Page(b"not here", status=404))
                self.send_response(page.status)
                if page.kind:
                    self.send_header("Content-Type", page.kind)
                length = len(page.body) if page.length is None else page.length
                if page.write is None:
                    self.send_header("Content-Length", str(length))
                for name, value in page.headers.items():
                    self.send_header(name, value)
                self.end_headers()
                try:
                    self.wfile.write(page.body)
                    if page.write is not None:
                        page.write(self)
                except OSError:
                    return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.host = f"127.0.0.1:{self._server.server_address[1]}"
        self.url = f"http://{self.host}"

    def __enter__(self) -> WebSite:
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
