"""A client for the HTTP API of Ollama, real or embedded.

httpx serves what the official package lacks: version, verbose show, blobs, create, rendered prompts. The
official package serves chat, generate and embed. Every call has a timeout; loopback never goes through a
proxy.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import httpx

from rfctl.core.address import is_loopback
from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.near import find_near
from rfctl.ollama.answer import (
    Answer,
    ModelCard,
    ModelEntry,
    RunningModel,
    Version,
    read_card,
    read_entries,
    read_running,
    read_version,
)
from rfctl.ollama.failure import explain_failure, read_error
from rfctl.ollama.host import normalise_host
from rfctl.ollama.name import parse_name

if TYPE_CHECKING:
    import ollama

CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
ANSWER_SECONDS = 900.0  # loading a model may take the server's OLLAMA_LOAD_TIMEOUT (5 min), then the answer
MAX_ANSWER_BYTES = 256 << 20
MAX_ERROR_BYTES = 64 << 10
MAX_CHARACTERS = 16 << 20  # of an answer that is streamed


class OllamaClient:
    """One server. Use it as a context manager or call `close`.

    url: as in OLLAMA_HOST. token: bearer for a proxy in front of the server (Ollama itself has no
    authentication). Every method raises UnreachableError when the server does not answer in time and an
    RfctlError with an `ollama.*` id for an error answer.
    """

    def __init__(self, url: str, *, token: str = "", read_seconds: float = READ_SECONDS) -> None:
        self.url = normalise_host(url)
        try:
            parsed = httpx.URL(self.url)
            if parsed.scheme not in ("http", "https") or not parsed.host:
                raise ValueError("neither http nor https")
            self.is_loopback = is_loopback(self.url)
            self.trust_env = not self.is_loopback
        except (httpx.InvalidURL, ValueError) as error:
            raise UsageError("ollama.url-invalid", url=url, detail=str(error)) from error
        # Reading the certificates takes longer than a call on loopback; plain http needs none.
        self._verify = parsed.scheme == "https"
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._read_seconds = read_seconds

    def open_transport(self, read_seconds: float | None) -> httpx.Client:
        """A connection pool; read_seconds None: no limit between two bytes (the caller has a deadline)."""
        return httpx.Client(
            base_url=self.url,
            headers=self._headers,
            trust_env=self.trust_env,
            verify=self._verify,
            timeout=httpx.Timeout(
                read_seconds, connect=CONNECT_SECONDS, write=self._read_seconds, pool=CONNECT_SECONDS
            ),
        )

    @cached_property
    def http(self) -> httpx.Client:
        return self.open_transport(self._read_seconds)

    @cached_property
    def _official(self) -> ollama.Client:
        import ollama

        return ollama.Client(
            host=self.url,
            follow_redirects=False,
            headers=self._headers,
            trust_env=self.trust_env,
            verify=self._verify,
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
        )

    def close(self) -> None:
        if "http" in self.__dict__:
            self.http.close()
        if "_official" in self.__dict__:
            self._official._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- questions ------------------------------------------------------------------------------

    def version(self) -> Version:
        return read_version(self._json("GET", "/api/version"))

    def models(self) -> tuple[ModelEntry, ...]:
        """All models, newest first as the server lists them."""
        return read_entries(self._json("GET", "/api/tags"))

    def find(self, name: str) -> ModelEntry | None:
        """The entry of `name` (a missing tag is `latest`, case does not matter), or None."""
        wanted = str(parse_name(name)).lower()
        return next((entry for entry in self.models() if entry.name.lower() == wanted), None)

    def get(self, name: str) -> ModelEntry:
        """The entry of `name`. Raises RfctlError `ollama.model-missing`, with the nearest name there is."""
        entries = self.models()
        wanted = str(parse_name(name)).lower()
        for entry in entries:
            if entry.name.lower() == wanted:
                return entry
        near = find_near(name, [entry.name for entry in entries])
        raise RfctlError("ollama.model-missing", model=name, url=self.url, near=near)

    def show(self, name: str, *, verbose: bool = False) -> ModelCard:
        body: dict[str, object] = {"model": name}
        if verbose:
            body["verbose"] = True
        return read_card(name, self._json("POST", "/api/show", body, model=name))

    def running(self) -> tuple[RunningModel, ...]:
        return read_running(self._json("GET", "/api/ps"))

    def render(
        self,
        name: str,
        messages: Sequence[Mapping[str, str]],
        tools: Sequence[Mapping[str, object]] = (),
    ) -> str | None:
        """The prompt that the server makes of `messages`, without generating; None where it cannot tell.

        Loads the model. Servers before 0.11.5 do not know the question and would answer the chat: ask
        `version().shows_prompt` first.
        """
        body: dict[str, object] = {
            "model": name,
            "messages": [dict(message) for message in messages],
            "_debug_render_only": True,
            "stream": False,
        }
        if tools:
            body["tools"] = [dict(tool) for tool in tools]
        document = self._json("POST", "/api/chat", body, model=name, read_seconds=ANSWER_SECONDS)
        info = document.get("_debug_info") if isinstance(document, dict) else None
        text = info.get("rendered_template") if isinstance(info, dict) else None
        return text if isinstance(text, str) else None

    # -- changes --------------------------------------------------------------------------------

    def copy(self, source: str, destination: str) -> None:
        self._call("POST", "/api/copy", {"source": source, "destination": destination}, model=source)

    def delete(self, name: str) -> None:
        self._call("DELETE", "/api/delete", {"model": name}, model=name)

    def has_blob(self, digest: str) -> bool:
        """Whether the store holds the blob `sha256:<64 lower-case hex>`."""
        with self._translate():
            answer = self.http.head(f"/api/blobs/{digest}")
        if answer.status_code in (200, 404):
            return answer.status_code == 200
        raise explain_failure(answer.status_code, f"HTTP {answer.status_code}", url=self.url)

    # -- generation, by the official package ------------------------------------------------------

    def chat(self, name: str, messages: Sequence[Mapping[str, str]], **options: object) -> Answer:
        """One answer. options: Ollama's model options (`num_predict`, `temperature`, `seed`, ...)."""
        with self._translate_official(name):
            answer = self._official.chat(name, messages, options=options or None)
        return _read_answer(answer, answer.message.content or "", answer.message.thinking or "")

    def stream_chat(
        self, name: str, messages: Sequence[Mapping[str, str]], **options: object
    ) -> Iterator[str | Answer]:
        """Pieces of text as they come, then the whole Answer."""
        text, thinking, last = "", "", None
        with self._translate_official(name):
            for last in self._official.chat(name, messages, options=options or None, stream=True):
                text += last.message.content or ""
                thinking += last.message.thinking or ""
                if len(text) + len(thinking) > MAX_CHARACTERS:
                    raise RfctlError(
                        "ollama.answer-size", url=self.url, path="/api/chat", limit=MAX_CHARACTERS
                    )
                if last.message.content:
                    yield last.message.content
        if last is None or not last.done:
            raise UnreachableError("ollama.stream-ended", url=self.url, model=name)
        yield _read_answer(last, text, thinking)

    def generate(self, name: str, prompt: str, *, raw: bool = False, **options: object) -> Answer:
        """One completion; raw: the prompt goes to the model without a template."""
        with self._translate_official(name):
            answer = self._official.generate(name, prompt, raw=raw, options=options or None)
        return _read_answer(answer, answer.response or "", getattr(answer, "thinking", None) or "")

    def embed(self, name: str, texts: Sequence[str]) -> tuple[tuple[float, ...], ...]:
        """One L2-normalised vector per text; a text that is too long is cut by the server."""
        with self._translate_official(name):
            answer = self._official.embed(name, list(texts))
        return tuple(tuple(vector) for vector in answer.embeddings)

    # -- wire -----------------------------------------------------------------------------------

    def _json(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        model: str = "",
        read_seconds: float | None = None,
    ) -> Any:
        data = self._call(method, path, body, model=model, read_seconds=read_seconds)
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RfctlError("ollama.not-ollama", url=self.url, path=path) from error

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        model: str = "",
        read_seconds: float | None = None,
    ) -> bytes:
        timeout = (
            httpx.USE_CLIENT_DEFAULT
            if read_seconds is None
            else httpx.Timeout(read_seconds, connect=CONNECT_SECONDS)
        )
        content = None if body is None else encode_json(body)
        headers = {"Content-Type": "application/json"} if body is not None else {}
        with (
            self._translate(model),
            self.http.stream(method, path, content=content, headers=headers, timeout=timeout) as answer,
        ):
            limit = MAX_ANSWER_BYTES if answer.is_success else MAX_ERROR_BYTES
            data = bytearray()
            # The timeout is for one silence; this is for all of an answer that drips.
            deadline = time.monotonic() + 10 * (read_seconds or self._read_seconds)
            for piece in answer.iter_bytes():
                data += piece
                if time.monotonic() > deadline:
                    raise UnreachableError("ollama.timeout", url=self.url, detail=path)
                if len(data) > limit:
                    if not answer.is_success:
                        break
                    raise RfctlError("ollama.answer-size", url=self.url, path=path, limit=limit)
            if not answer.is_success:
                raise explain_failure(
                    answer.status_code, read_error(bytes(data[:limit])), url=self.url, model=model
                )
            return bytes(data)

    @contextlib.contextmanager
    def _translate(self, model: str = "") -> Iterator[None]:
        """Transport failures become ours."""
        try:
            yield
        except httpx.HTTPError as error:
            raise explain_transport(error, self.url) from error
        except ConnectionError as error:  # the official client turns httpx.ConnectError into this
            raise UnreachableError("ollama.unreachable", url=self.url, detail=str(error)) from error

    @contextlib.contextmanager
    def _translate_official(self, model: str) -> Iterator[None]:
        """Errors of the official package become ours."""
        import ollama

        try:
            with self._translate(model):
                yield
        except ollama.ResponseError as error:
            raise explain_failure(error.status_code, error.error, url=self.url, model=model) from error


def encode_json(body: Mapping[str, object]) -> bytes:
    """Compact UTF-8 JSON."""
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), default=list).encode()


def explain_transport(error: httpx.HTTPError, url: str) -> RfctlError:
    """The error for a request that got no complete answer."""
    if isinstance(error, httpx.ConnectTimeout | httpx.ConnectError | httpx.UnsupportedProtocol):
        return UnreachableError("ollama.unreachable", url=url, detail=str(error) or type(error).__name__)
    if isinstance(error, httpx.TimeoutException):
        return UnreachableError("ollama.timeout", url=url, detail=type(error).__name__)
    return UnreachableError("ollama.connection-lost", url=url, detail=str(error) or type(error).__name__)


def _read_answer(answer: Any, text: str, thinking: str) -> Answer:
    return Answer(
        text=text,
        thinking=thinking,
        done_reason=answer.done_reason or "",
        prompt_tokens=answer.prompt_eval_count or 0,
        answer_tokens=answer.eval_count or 0,
        seconds=(answer.total_duration or 0) / 1e9,
    )


__all__ = ["OllamaClient", "normalise_host"]
