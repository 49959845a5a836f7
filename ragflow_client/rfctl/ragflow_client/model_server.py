"""Servers of models that RAGFlow calls: Ollama, and those that speak OpenAI's API (vLLM, Xinference, any)."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files
from urllib.parse import urlunsplit

import httpx

from rfctl.core.address import is_loopback, split_base
from rfctl.core.error import AuthError, RfctlError, UnreachableError, UsageError

OLLAMA = "Ollama"
_NO_KEY = "x"  # 0.26.0-0.26.2 require a value, and 0.26.0 a different one per instance
_ENDS = ("/chat/completions", "/completions", "/embeddings", "/models")
# What servers call a model's context: vLLM's ModelCard (protocol.py), Xinference's LLM and embedding specs.
_CONTEXT = ("max_model_len", "context_length")
_EMBEDDING_CONTEXT = (*_CONTEXT, "max_tokens")
_SECONDS = httpx.Timeout(20.0, connect=5.0)
_MAX_BYTES = 4 << 20


@dataclass(frozen=True)
class ModelServer:
    """A server as RAGFlow reaches it.

    provider  RAGFlow's name for its kind
    url       as RAGFlow wants it for that kind: with or without /v1
    key       what the server asks for, "" for nothing; not in the repr
    """

    provider: str
    url: str
    key: str = field(default="", repr=False)

    @property
    def is_ollama(self) -> bool:
        return self.provider == OLLAMA

    @property
    def sent_key(self) -> str:
        """The key as an instance has it, which must not be empty."""
        return self.key or _NO_KEY

    def full_name(self, name: str) -> str:
        """Ollama lists `name:latest` for `name`, and RAGFlow compares the text."""
        if not self.is_ollama or ":" in name.rsplit("/", 1)[-1]:
            return name
        return f"{name}:latest"


@dataclass(frozen=True)
class ServedModel:
    """A model as its server lists it. context: tokens, 0 = not said; kind: "chat", "embedding" or "" ."""

    name: str
    context: int
    kind: str


def open_server(kind: str, url: str, key: str = "") -> ModelServer:
    """The server behind an address as people paste it (with or without /v1, up to a route of the API).

    kind: a table of model_server.toml. Raises UsageError `provider.url-invalid`, `provider.url-has-secret`,
    AuthError `provider.key-malformed`.
    """
    parts = split_base(
        url,
        invalid="provider.url-invalid",
        userinfo="provider.url-has-secret",
        example="http://HOST:8000/v1",
    )
    if parts.query:
        raise UsageError("provider.url-has-secret")
    if key and not (key.isascii() and key.isprintable() and " " not in key):
        raise AuthError("provider.key-malformed")
    path = parts.path.rstrip("/")
    for end in _ENDS:
        path = path.removesuffix(end)
    fact = _table()[kind]
    path = path.removesuffix("/v1") + fact["suffix"]
    return ModelServer(fact["provider"], urlunsplit((parts.scheme, parts.netloc, path, "", "")), key)


def read_models(url: str, key: str = "") -> tuple[ServedModel, ...]:
    """What the server at `url` lists under /v1/models, asked from this machine.

    Raises UnreachableError `provider.unreachable`, AuthError `provider.key-refused`, RfctlError
    `provider.no-listing` (something else answers there).
    """
    place = url.rstrip("/").removesuffix("/v1") + "/v1/models"
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    try:
        with (
            httpx.Client(timeout=_SECONDS, trust_env=not is_loopback(url)) as http,
            http.stream("GET", place, headers=headers) as response,
        ):
            content = _read(response, place)
            status = response.status_code
            if status in (401, 403):
                raise AuthError("provider.key-refused", url=url)
            if status != 200:
                raise RfctlError("provider.no-listing", url=place, detail=f"HTTP {status}")
            return _parse(content, place)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise UnreachableError("provider.unreachable", url=place, detail=str(error) or repr(error)) from error


def _read(response: httpx.Response, place: str) -> bytes:
    content = b""
    for piece in response.iter_bytes():
        content += piece
        if len(content) > _MAX_BYTES:
            raise RfctlError("provider.no-listing", url=place, detail=f"> {_MAX_BYTES >> 20} MiB")
    return content


def _parse(content: bytes, place: str) -> tuple[ServedModel, ...]:
    try:
        answer = httpx.Response(200, content=content).json()
    except (ValueError, RecursionError) as error:
        raise RfctlError("provider.no-listing", url=place, detail=str(error)) from error
    rows = answer.get("data") if isinstance(answer, Mapping) else None
    if rows is None and isinstance(answer, Mapping) and answer.get("object") == "list":
        rows = []  # a server without a model
    if not isinstance(rows, list):
        raise RfctlError("provider.no-listing", url=place, detail="no `data`")
    found = []
    for row in rows:
        if not isinstance(row, Mapping) or not isinstance(row.get("id"), str) or not row["id"]:
            continue
        kind = _kind(row)
        keys = _EMBEDDING_CONTEXT if kind == "embedding" else _CONTEXT
        sizes = [row[one] for one in keys if isinstance(row.get(one), int) and row[one] > 0]
        found.append(ServedModel(row["id"], int(sizes[0]) if sizes else 0, kind))
    return tuple(found)


def _kind(row: Mapping[str, object]) -> str:
    """Xinference says what a model is; vLLM does not."""
    said = str(row.get("model_type") or "").lower()
    if said == "embedding":
        return "embedding"
    return "chat" if said in ("llm", "chat") else ""


@cache
def _table() -> Mapping[str, Mapping[str, str]]:
    text = files("rfctl.ragflow_client").joinpath("model_server.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)
