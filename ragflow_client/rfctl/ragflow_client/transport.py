"""HTTP to RAGFlow under the official SDK: the only module that knows ragflow_sdk and requests.

`RAGFlow`'s five verbs are its single way out (ragflow_sdk 0.27, ragflow.py). Here they share one session with
timeouts, bounded retries of what may be repeated, and checks of status, envelope and form, so both the SDK's
objects and this package's own calls get typed errors. No SDK object leaves the package.
"""

from __future__ import annotations

import http.cookiejar
import json as jsonlib
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import requests
import requests.adapters
import urllib3.exceptions
from ragflow_sdk import RAGFlow

from rfctl.core.address import is_loopback
from rfctl.core.error import RfctlError, UnreachableError
from rfctl.ragflow_client.address import check_key, normalise_url
from rfctl.ragflow_client.envelope import GATEWAY_STATUS, Reply, check, check_envelope
from rfctl.ragflow_client.event_stream import read_events
from rfctl.ragflow_client.failure import ServerError, UncertainError, shorten
from rfctl.ragflow_client.multipart import Multipart

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
ANSWER_SECONDS = 600.0  # QUART_RESPONSE_TIMEOUT of RAGFlow 0.27: a model may think for that long
RETRIES = 2
PAUSE_SECONDS = 0.3
MAX_ANSWER_BYTES = 64 << 20
POOL_SIZE = 16
_PIECE_BYTES = 64 << 10


class _Authorization(requests.auth.AuthBase):
    """The header as an auth object, so that an entry in a .netrc cannot replace it; "" sends none."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        if self._value:
            request.headers["Authorization"] = self._value
        return request


class Api(RAGFlow):  # type: ignore[misc]
    """One server and one key. A context manager; usable from several threads.

    base_url       as people write it: with or without scheme, slash, `/api/v1`
    api_key        None for the routes that want none, until `authorise` names something else
    read_seconds   longest silence of the server within an answer; the whole answer may take ten times that
    retries        repetitions of a request that may be repeated (reading), after a broken connection or one
                   of the statuses 429, 502, 503, 504
    Raises UsageError (URL) and AuthError (a key that cannot be one).
    """

    def __init__(
        self,
        base_url: str,
        api_key: str | None,
        *,
        read_seconds: float = READ_SECONDS,
        retries: int = RETRIES,
    ) -> None:
        self.url = normalise_url(base_url)
        super().__init__("" if api_key is None else check_key(api_key), self.url)
        self._read_seconds = read_seconds
        self._retries = retries
        self._session = requests.Session()
        self._session.trust_env = not is_loopback(self.url)
        self.authorise(f"Bearer {self.user_key}" if self.user_key else "")
        self._session.cookies.set_policy(http.cookiejar.DefaultCookiePolicy(allowed_domains=[]))
        adapter = requests.adapters.HTTPAdapter(pool_maxsize=POOL_SIZE, max_retries=0)
        self._session.mount("http://", adapter)
        self._session.mount("https://", adapter)

    def authorise(self, value: str) -> None:
        """Send this header Authorization from now on: a session token goes without the word Bearer."""
        self._session.auth = _Authorization(value)

    def close(self) -> None:
        self._session.close()

    def __enter__(self) -> Api:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- the SDK's verbs ------------------------------------------------------------------------

    def get(self, path: str, params: Mapping[str, Any] | None = None, json: object = None) -> Reply:
        return self.send("GET", path, params=params, json=json, repeatable=True)

    def post(self, path: str, json: object = None, stream: bool = False, files: object = None) -> Any:
        if files is not None:
            return self.send("POST", path, extra={"files": files}, read_seconds=ANSWER_SECONDS)
        if stream:
            return _Lines(self._open("POST", path, {"json": json}, ANSWER_SECONDS))
        return self.send("POST", path, json=json, read_seconds=ANSWER_SECONDS)

    def put(self, path: str, json: object) -> Reply:
        return self.send("PUT", path, json=json)

    def patch(self, path: str, json: object) -> Reply:
        return self.send("PATCH", path, json=json)

    def delete(self, path: str, json: object) -> Reply:
        return self.send("DELETE", path, json=json)

    # -- what this package uses -----------------------------------------------------------------

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        repeatable: bool | None = None,
        read_seconds: float | None = None,
        outside: bool = False,
    ) -> Any:
        """`data` of a successful answer (None when there is none).

        repeatable: whether a broken connection may be answered by sending again (GET: yes). Raises
        UnreachableError, UncertainError (sent, but no answer came), AuthError, ServerError.
        """
        repeat = method == "GET" if repeatable is None else repeatable
        reply = self.send(
            method,
            path,
            params=params,
            json=json,
            repeatable=repeat,
            read_seconds=read_seconds,
            outside=outside,
        )
        return reply.json().get("data")

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, Any] | None = None,
        json: object = None,
        extra: Mapping[str, Any] | None = None,
        repeatable: bool = False,
        read_seconds: float | None = None,
        outside: bool = False,
        checked: bool = True,
    ) -> Reply:
        """Send, read the whole answer and check it.

        outside: `path` is below the server's root, not below /api/v1. checked False: any answer is returned.
        """
        arguments = {"params": params, **({} if json is None else {"json": json}), **(extra or {})}
        seconds = self._read_seconds if read_seconds is None else read_seconds
        attempt = 0
        while True:
            try:
                reply = self._exchange(method, path, arguments, seconds, outside)
            except UnreachableError as error:
                again = repeatable or not isinstance(error, UncertainError)
                if attempt >= self._retries or not again or error.id == "ragflow.timeout":
                    raise
            else:
                if not (repeatable and reply.status_code in GATEWAY_STATUS and attempt < self._retries):
                    if checked:
                        check(reply)
                    return reply
            time.sleep(PAUSE_SECONDS * 2**attempt)
            attempt += 1

    def upload(self, path: str, file: Path, name: str, advance: Callable[[int], None] | None = None) -> Any:
        """Send a file as the form field `file` under `name`, from disk; `data` of the answer.

        Never repeated: after UncertainError the caller looks whether the document is there. Raises as `call`,
        OSError for the file, RfctlError `upload.file-changed`.
        """
        body = Multipart("file", file, name, advance)
        extra = {"data": body, "headers": {"Content-Type": body.content_type}}
        return self.send("POST", path, extra=extra, read_seconds=ANSWER_SECONDS).json().get("data")

    def download(self, path: str) -> Iterator[bytes]:
        """The pieces of a file. Raises as `call`; an error that comes as JSON is raised, not returned."""
        response = self._open("GET", path, {}, self._read_seconds)
        with response:
            head = Reply(response.url, response.status_code, response.headers, b"")
            if not head.is_attachment:
                check(self._finish(response, self._read_seconds))
                raise ServerError("ragflow.shape", url=head.url, detail=head.content_type)
            yield from self._pieces(response)

    def stream(
        self, path: str, json: object, *, seconds: float = ANSWER_SECONDS
    ) -> Iterator[Mapping[str, Any]]:
        """The frames of a streamed answer, without the closing `data: true`.

        seconds bounds the silence between two frames; the whole may take ten times that. Raises as `call`,
        also for an error frame, and ServerError `ragflow.stream-cut` when the closing frame does not come.
        """
        with self._open("POST", path, {"json": json}, seconds) as response:
            kind = response.headers.get("Content-Type", "")
            if not kind.lower().startswith("text/event-stream"):
                check(self._finish(response, seconds))
                raise ServerError("ragflow.shape", url=response.url, detail=shorten(kind))
            for event in read_events(self._bounded(response, seconds)):
                frame = _decode(response.url, event)
                check_envelope(response.url, frame)
                if frame.get("data") is True:
                    return
                yield frame
            raise ServerError("ragflow.stream-cut", url=response.url)

    # -- requests -------------------------------------------------------------------------------

    def _exchange(
        self, method: str, path: str, arguments: Mapping[str, Any], seconds: float, outside: bool
    ) -> Reply:
        with self._open(method, path, arguments, seconds, outside) as response:
            return self._finish(response, seconds)

    def _open(
        self, method: str, path: str, arguments: Mapping[str, Any], seconds: float, outside: bool = False
    ) -> requests.Response:
        url = (self.url if outside else self.api_url) + path
        try:
            return self._session.request(
                method,
                url,
                timeout=(CONNECT_SECONDS, seconds),
                stream=True,
                allow_redirects=False,
                **arguments,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _translate(error, url, seconds) from error

    def _finish(self, response: requests.Response, seconds: float) -> Reply:
        """Read a bounded answer within bounded time."""
        content = bytearray()
        for piece in self._bounded(response, seconds):
            content += piece
            if len(content) > MAX_ANSWER_BYTES:
                raise ServerError("ragflow.answer-too-large", url=response.url, limit=MAX_ANSWER_BYTES)
        framed = "Content-Length" in response.headers or response.raw.chunked
        if not content and not framed and response.status_code != 204:
            # A connection that ends within the headers looks to http.client like an empty answer.
            raise UncertainError("ragflow.cut", url=response.url, detail="0 bytes")
        return Reply(response.url, response.status_code, response.headers, bytes(content))

    def _bounded(self, response: requests.Response, seconds: float) -> Iterator[bytes]:
        """The pieces of an answer that may take ten times its longest silence, whatever it consists of."""
        deadline = time.monotonic() + 10 * seconds
        for piece in self._pieces(response):
            if time.monotonic() > deadline:
                raise UnreachableError("ragflow.timeout", url=response.url, seconds=10 * seconds)
            yield piece

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        """Decoded pieces as they arrive, so that a stream is not held back until a block is full."""
        try:
            if hasattr(response.raw, "read1") and not response.headers.get("Content-Encoding"):
                if response.raw.chunked:
                    yield from response.raw.stream(None, decode_content=True)
                else:
                    while piece := response.raw.read1(_PIECE_BYTES):
                        yield piece
            else:
                yield from response.iter_content(_PIECE_BYTES)
        except (requests.RequestException, urllib3.exceptions.HTTPError, OSError) as error:
            raise _translate(error, response.url, self._read_seconds) from error


class _Lines:
    """A streamed answer for the SDK's `Session.ask(stream=True)`, which wants lines."""

    def __init__(self, response: requests.Response) -> None:
        self.headers = response.headers
        self.status_code = response.status_code
        self._response = response

    def iter_lines(self, decode_unicode: bool = True) -> Iterator[str]:
        with self._response as response:
            for line in response.iter_lines():
                yield line.decode("utf-8", errors="replace")


def _decode(url: str, event: str) -> Mapping[str, Any]:
    try:
        frame = jsonlib.loads(event)
    except (ValueError, RecursionError) as error:
        raise ServerError("ragflow.answer-broken", url=url, detail=shorten(event[:200])) from error
    if not isinstance(frame, dict):
        raise ServerError("ragflow.shape", url=url, detail=shorten(event[:200]))
    return frame


def _translate(error: Exception, url: str, seconds: float) -> RfctlError:
    """The error for a failure of the network. Only what surely was not sent is not an UncertainError."""
    if isinstance(error, (requests.exceptions.InvalidURL, requests.exceptions.InvalidProxyURL)):
        return ServerError("ragflow.url-invalid", url=url, detail=shorten(str(error)))
    if isinstance(error, requests.exceptions.ConnectTimeout):
        return UnreachableError("ragflow.unreachable", url=url, detail=f"{CONNECT_SECONDS:g} s")
    if isinstance(
        error, (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError, TimeoutError)
    ):
        return UncertainError("ragflow.timeout", url=url, seconds=seconds)
    if isinstance(error, requests.exceptions.SSLError):
        return UnreachableError("ragflow.tls", url=url, detail=_reason(error))
    if isinstance(error, requests.exceptions.ConnectionError) and _never_connected(error):
        return UnreachableError("ragflow.unreachable", url=url, detail=_reason(error))
    if "timed out" in str(error):
        return UncertainError("ragflow.timeout", url=url, seconds=seconds)
    return UncertainError("ragflow.cut", url=url, detail=_reason(error))


def _never_connected(error: BaseException) -> bool:
    seen: BaseException | None = error
    for _ in range(8):
        if seen is None:
            return False
        if isinstance(seen, (urllib3.exceptions.NewConnectionError, urllib3.exceptions.NameResolutionError)):
            return True
        inner = getattr(seen, "reason", None) or (seen.args[0] if seen.args else None)
        seen = inner if isinstance(inner, BaseException) else None
    return False


def _reason(error: BaseException) -> str:
    """The innermost sentence of a chain of network errors."""
    text = str(error)
    for mark in ("[Errno", "Remote end", "Connection", "Remote", "certificate", "Incomplete"):
        if (at := text.find(mark)) >= 0:
            text = text[at:]
            break
    return shorten(text.rstrip(")'\""))[:160]
