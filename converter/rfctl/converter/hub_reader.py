"""Reading parts of files of a hub repository: a few requests, bounded bytes, errors that say what to do.

Protocol: what huggingface_hub 1.x asks for (`hf_api.py` model_info, `file_download.py`): the list of files
with sizes at /api/models/ID/revision/REV?blobs=true, contents at /ID/resolve/COMMIT/FILE with Range. Mirrors
serve the same paths; one that ignores Range is read up to the bytes that are wanted.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

import httpx

from rfctl.core.address import is_loopback
from rfctl.core.error import AuthError, RfctlError, UnreachableError, UsageError

DEFAULT_ENDPOINT = "https://huggingface.co"
_ID = re.compile(r"(?:hf://)?([A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95})(?:@([\w./-]{1,200}))?")
_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_CONNECT_SECONDS, _READ_SECONDS, _TOTAL_SECONDS = 10.0, 30.0, 300.0
_TRIES = 3
_MOST_LIST_BYTES = 64 << 20


@dataclass(frozen=True)
class RepoName:
    """A repository of the hub.

    id        "org/name"
    revision  branch, tag or commit
    """

    id: str
    revision: str = "main"

    def __str__(self) -> str:
        return self.id if self.revision == "main" else f"{self.id}@{self.revision}"


@dataclass(frozen=True)
class Listing:
    """Files of a repository at one commit: name -> bytes, None where the server does not tell."""

    commit: str
    files: Mapping[str, int | None]


@dataclass(frozen=True)
class Piece:
    """`data` from the beginning of the range that was asked for; `total` is the size of the file if known."""

    data: bytes = field(repr=False)
    total: int | None


def parse_repo(text: str) -> RepoName | None:
    """ "org/name" or "org/name@revision" (with or without "hf://"), None for anything else."""
    match = _ID.fullmatch(text)
    return RepoName(match[1], match[2] or "main") if match else None


class HubReader:
    """One repository on one server; thread-safe. Counts requests and the bytes that came over the wire.

    endpoint   URL of the hub or a mirror
    token      sent to the endpoint alone, never to where it redirects, and over plain http to loopback only
    seconds    everything together may take that long
    Methods raise UnreachableError, AuthError and RfctlError with ids `hub.*`.
    """

    def __init__(
        self, repo: RepoName, *, endpoint: str = "", token: str = "", seconds: float = _TOTAL_SECONDS
    ) -> None:
        self.repo = repo
        self.endpoint = (endpoint or DEFAULT_ENDPOINT).rstrip("/")
        try:
            parsed = httpx.URL(self.endpoint)
        except httpx.InvalidURL as error:
            raise UsageError("hub.endpoint-invalid", url=self.endpoint[:200]) from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise UsageError("hub.endpoint-invalid", url=self.endpoint[:200])
        is_local = is_loopback(self.endpoint)
        self._has_token = bool(token) and (parsed.scheme == "https" or is_local)
        headers = {"User-Agent": "rfctl", "Accept-Encoding": "identity"}
        if self._has_token:
            headers["Authorization"] = f"Bearer {token}"
        self._client = httpx.Client(
            headers=headers,
            follow_redirects=True,
            max_redirects=5,
            trust_env=not is_local,
            # Reading the certificates takes longer than a call on loopback; plain http needs none.
            verify=parsed.scheme == "https",
        )
        self._deadline = time.monotonic() + seconds
        self._lock = threading.Lock()
        self.requests = 0
        self.bytes_read = 0
        self.commit = ""

    def list_files(self) -> Listing:
        """The files at the revision; fixes the commit for what is read later."""
        revision = quote(self.repo.revision, safe="")
        piece = self._get(f"/api/models/{self.repo.id}/revision/{revision}?blobs=true", 0, _MOST_LIST_BYTES)
        if piece is None:
            raise self._missing()
        try:
            document: Any = json.loads(piece.data)
            entries = document["siblings"]
            files = {str(entry["rfilename"]): _read_size(entry.get("size")) for entry in entries}
            commit = str(document["sha"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RfctlError("hub.answer-malformed", url=self.endpoint, repo=str(self.repo)) from error
        if not re.fullmatch(r"[0-9a-f]{7,64}", commit):
            raise RfctlError("hub.answer-malformed", url=self.endpoint, repo=str(self.repo))
        self.commit = commit
        return Listing(commit, files)

    def read(self, name: str, begin: int, end: int) -> Piece | None:
        """Bytes `begin` to `end` (exclusive) of a file, fewer where it ends before; None for no such file."""
        revision = quote(self.commit or self.repo.revision, safe="")
        return self._get(f"/{self.repo.id}/resolve/{revision}/{quote(name)}", begin, end)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _get(self, path: str, begin: int, end: int) -> Piece | None:
        """One answer, asked for again after a failure that may pass."""
        is_list = path.startswith("/api/")
        headers = {} if is_list else {"Range": f"bytes={begin}-{end - 1}"}
        failure: RfctlError | None = None
        for attempt in range(_TRIES):
            if attempt:
                time.sleep(min(0.3 * 2**attempt, max(0.0, self._deadline - time.monotonic())))
            if time.monotonic() >= self._deadline:
                break
            try:
                return self._ask(path, headers, begin, end)
            except (httpx.TimeoutException, httpx.NetworkError, httpx.RemoteProtocolError) as error:
                failure = UnreachableError("hub.unreachable", url=self.endpoint, what=_name(error))
            except _PassingError as error:
                failure = UnreachableError("hub.failing", url=self.endpoint, status=error.status)
            except (httpx.HTTPError, httpx.InvalidURL) as error:
                raise UnreachableError("hub.unreachable", url=self.endpoint, what=_name(error)) from error
        raise failure or UnreachableError("hub.unreachable", url=self.endpoint, what="timeout")

    def _ask(self, path: str, headers: Mapping[str, str], begin: int, end: int) -> Piece | None:
        with self._lock:
            self.requests += 1
        left = max(0.1, self._deadline - time.monotonic())
        timeout = httpx.Timeout(min(_READ_SECONDS, left), connect=min(_CONNECT_SECONDS, left))
        url = self.endpoint + path
        with self._client.stream("GET", url, headers=dict(headers), timeout=timeout) as response:
            try:
                # A redirect is a request as well.
                with self._lock:
                    self.requests += len(response.history)
                if (
                    response.status_code in (404, 416)
                    and response.headers.get("X-Error-Code") == "EntryNotFound"
                ):
                    return None
                if response.status_code == 416:
                    return Piece(b"", None)
                if response.status_code not in (200, 206):
                    raise self._explain(response)
                return self._take(response, begin, end)
            finally:
                with self._lock:
                    self.bytes_read += response.num_bytes_downloaded

    def _take(self, response: httpx.Response, begin: int, end: int) -> Piece:
        start, total = 0, _read_size(response.headers.get("Content-Length"))
        if response.status_code == 206:
            match = _RANGE.fullmatch(response.headers.get("Content-Range", ""))
            if match is None or int(match[1]) != begin:
                raise RfctlError("hub.answer-malformed", url=self.endpoint, repo=str(self.repo))
            start, total = begin, _read_size(match[3])
        skip, wanted = begin - start, end - begin
        data = bytearray()
        for chunk in response.iter_raw(1 << 16):
            data += chunk
            if len(data) >= skip + wanted:
                break
            if time.monotonic() >= self._deadline:
                raise UnreachableError("hub.unreachable", url=self.endpoint, what="timeout")
        return Piece(bytes(data[skip : skip + wanted]), total)

    def _explain(self, response: httpx.Response) -> Exception:
        status, code = response.status_code, response.headers.get("X-Error-Code", "")
        params = {"repo": self.repo.id, "url": self.endpoint}
        if status >= 500 or status == 429:
            return _PassingError(status)
        if code == "GatedRepo" or (status == 403 and code != "RepoNotFound"):
            return AuthError("hub.gated", **params)
        if code == "RevisionNotFound":
            return RfctlError("hub.revision-missing", revision=self.repo.revision, **params)
        if status == 401 and self._has_token and not code:
            return AuthError("hub.token-refused", **params)
        if status in (401, 403, 404):
            return self._missing()
        return UnreachableError("hub.failing", url=self.endpoint, status=status)

    def _missing(self) -> RfctlError:
        """The hub answers alike for what is private and what does not exist."""
        params = {"repo": self.repo.id, "url": self.endpoint}
        return (
            RfctlError("hub.repo-missing", **params)
            if self._has_token
            else AuthError("hub.repo-private", **params)
        )


class _PassingError(Exception):
    """An answer that may be another one in a moment."""

    def __init__(self, status: int) -> None:
        super().__init__(status)
        self.status = status


def _read_size(value: Any) -> int | None:
    if isinstance(value, str) and value.isdecimal() and len(value) < 19:
        value = int(value)
    return value if type(value) is int and 0 <= value < 1 << 60 else None


def _name(error: Exception) -> str:
    return type(error).__name__
