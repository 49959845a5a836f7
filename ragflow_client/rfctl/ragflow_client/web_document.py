"""A document of the web as a file: fetched politely, within limits, and named by what it is.

robots.txt is asked first (RFC 9309): what it forbids is not fetched, and a server that cannot be asked is
left alone. Every redirect is checked like the first address.
"""

from __future__ import annotations

import re
import tempfile
import time
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.message import Message
from functools import cache
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.robotparser import RobotFileParser

from rfctl.core.error import RefusedError, RfctlError, UnreachableError
from rfctl.ragflow_client.selection import SEPARATOR
from rfctl.ragflow_client.triage import PARSER_FILE_BYTES
from rfctl.ragflow_client.web_connection import AGENT, Answer, Rules, check_url, open_url

MAX_BYTES = PARSER_FILE_BYTES
MAX_REDIRECTS = 5
TOTAL_SECONDS = 300.0
MAX_PAUSE_SECONDS = 10.0
_ROBOTS_BYTES = 512 << 10  # RFC 9309: at least 500 KiB must be read
_NAME_BYTES = 180
_REDIRECTS = (301, 302, 303, 307, 308)
_UNSAFE = re.compile(r'[\x00-\x1f\x7f/\\:*?"<>|]+')


@dataclass(frozen=True)
class WebDocument:
    """A fetched file. url: where it came from in the end; name: what it will be called; fetched: ISO UTC."""

    path: Path
    url: str
    name: str
    size: int
    fetched: str


class Fetcher:
    """Fetches documents into a folder; robots.txt is asked once per host.

    allow_private: whether addresses of this machine and its network are allowed. proxies: scheme -> URL.
    """

    def __init__(
        self,
        folder: Path,
        *,
        allow_private: bool = False,
        proxies: Mapping[str, str] | None = None,
        max_bytes: int = MAX_BYTES,
        total_seconds: float = TOTAL_SECONDS,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._folder = folder
        self._rules = Rules(allow_private, proxies or {})
        self._max_bytes = max_bytes
        self._total_seconds = total_seconds
        self._sleep = sleep
        self._robots: dict[str, RobotFileParser | None] = {}
        self._visited: dict[str, float] = {}

    def fetch(self, url: str) -> WebDocument:
        """Raises UsageError `fetch.url-invalid`, RefusedError `fetch.robots`, `fetch.private`,
        `fetch.downgrade`, RfctlError `fetch.status`, `fetch.too-large`, `fetch.type-unknown`,
        `fetch.redirects`, `fetch.empty`, `fetch.broken`, UnreachableError `fetch.unreachable`,
        `fetch.timeout`, `fetch.robots-unreachable`.
        """
        rules = replace(self._rules, deadline=time.monotonic() + self._total_seconds)
        place = check_url(url)
        for _ in range(MAX_REDIRECTS + 1):
            self._check_robots(place, rules)
            with open_url(place, rules) as answer:
                if answer.status not in _REDIRECTS:
                    return self._save(answer)
                target = check_url(urljoin(place, answer.headers.get("location", "")))
            if place.startswith("https:") and target.startswith("http:"):
                raise RefusedError("fetch.downgrade", url=place, target=target)
            place = target
        raise RfctlError("fetch.redirects", url=url, limit=MAX_REDIRECTS)

    def _save(self, answer: Answer) -> WebDocument:
        if answer.status != 200:
            raise RfctlError("fetch.status", url=answer.url, status=answer.status)
        name = name_document(answer.url, answer.headers)
        path = Path(tempfile.mkdtemp(dir=self._folder)) / name
        size = 0
        with path.open("wb") as file:
            for piece in answer.body:
                size += len(piece)
                if size > self._max_bytes:
                    raise RfctlError("fetch.too-large", url=answer.url, limit=self._max_bytes)
                file.write(piece)
        if size == 0:
            raise RfctlError("fetch.empty", url=answer.url)
        now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
        return WebDocument(path, answer.url, name, size, now)

    def _check_robots(self, url: str, rules: Rules) -> None:
        parts = urlsplit(url)
        host = f"{parts.scheme}://{parts.netloc}"
        if host not in self._robots:
            self._robots[host] = _ask_robots(host, rules)
        robots = self._robots[host]
        if robots is None:
            return
        if not robots.can_fetch(AGENT, url):
            raise RefusedError("fetch.robots", url=url, host=host)
        delay = float(str(robots.crawl_delay(AGENT) or 0))
        left = self._visited.get(host, float("-inf")) + min(delay, MAX_PAUSE_SECONDS) - time.monotonic()
        if left > 0:
            self._sleep(left)
        self._visited[host] = time.monotonic()


def _ask_robots(host: str, rules: Rules) -> RobotFileParser | None:
    """The rules of a host, None for none (404 and the like). Raises UnreachableError, RefusedError."""
    place = f"{host}/robots.txt"
    for _ in range(MAX_REDIRECTS + 1):
        try:
            answer, data = _read_start(place, rules)
        except UnreachableError as error:
            if error.id == "fetch.unreachable":
                raise
            raise UnreachableError("fetch.robots-unreachable", url=place, status=0) from error
        if answer.status not in _REDIRECTS:
            break
        place = check_url(urljoin(place, answer.headers.get("location", "")))
    if answer.status >= 500 or answer.status == 429:
        raise UnreachableError("fetch.robots-unreachable", url=place, status=answer.status)
    if answer.status != 200:
        return None
    robots = RobotFileParser()
    robots.parse(data.decode("utf-8-sig", errors="replace").splitlines())
    return robots


def _read_start(url: str, rules: Rules) -> tuple[Answer, bytes]:
    with open_url(url, rules) as answer:
        data = b""
        if answer.status == 200:
            for piece in answer.body:
                data += piece
                if len(data) > _ROBOTS_BYTES:
                    break
        return answer, data[:_ROBOTS_BYTES]


def name_document(url: str, headers: Mapping[str, str]) -> str:
    """A file name from the server's own, the address, and the content type, which decides the extension.

    Pages are named after host and path, because most of them would be `index.html`. Raises RfctlError
    `fetch.type-unknown`.
    """
    message = Message()
    message["Content-Type"] = headers.get("content-type", "")
    message["Content-Disposition"] = headers.get("content-disposition", "attachment")
    kind = message.get_content_type() if headers.get("content-type") else ""
    parts = urlsplit(url)
    segments = [segment for segment in unquote(parts.path).split("/") if segment.strip(". ")]
    given = PurePosixPath((message.get_filename() or "").replace("\\", "/")).name
    last = given or (segments[-1] if segments else "")
    suffixes = _types().get(kind, ())
    suffix = PurePosixPath(last).suffix.lower()
    if suffixes:
        if suffix not in suffixes:
            suffix = suffixes[0]
        elif suffix == ".htm":
            suffix = ".html"
    elif kind not in _data()["vague"] or suffix[1:] not in _data()["file"]:
        raise RfctlError("fetch.type-unknown", url=url, kind=kind or "-")
    stem = last[: -len(PurePosixPath(last).suffix)] if PurePosixPath(last).suffix else last
    if suffix == ".html" and not given:
        stem = SEPARATOR.join([parts.hostname or "page", *segments[:-1], *([stem] if stem else [])])
    stem = " ".join(_UNSAFE.sub(" ", stem).split()).strip(". ") or parts.hostname or "document"
    while len((stem + suffix).encode("utf-8", errors="replace")) > _NAME_BYTES:
        stem = stem[:-1]
    return stem.rstrip(". ") + suffix


@cache
def _types() -> dict[str, tuple[str, ...]]:
    return {kind: tuple(suffixes) for kind, suffixes in _data()["type"].items()}


@cache
def _data() -> dict[str, Any]:
    with Path(__file__).with_name("web_type.toml").open("rb") as file:
        return tomllib.load(file)
