"""A model of the store with everything the API needs of it: configuration, header, template, capabilities."""

from __future__ import annotations

import asyncio
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.core.gguf_header import GgufHeader, read_header
from rfctl.engine.failure import ApiError
from rfctl.ollama import manifest as media
from rfctl.ollama.manifest import Layer
from rfctl.ollama.name import ModelName, is_valid_name, parse_name
from rfctl.ollama.store import ModelStore, StoredModel

_CACHE_LIMIT = 256
_SUFFIX = re.compile(r"\{\{[^{}]*\.Suffix\b")


@dataclass(frozen=True)
class Model:
    """config: the JSON of the config layer; template: the Go template layer or ""; header: of the GGUF."""

    stored: StoredModel
    path: Path
    layer: Layer
    header: GgufHeader
    config: Mapping[str, Any]
    parameters: Mapping[str, Any]
    system: str
    template: str
    messages: Sequence[Mapping[str, Any]]
    licenses: Sequence[str]

    @property
    def name(self) -> ModelName:
        return self.stored.name

    @property
    def jinja(self) -> str:
        """The chat template of the GGUF, "" without one."""
        return self.header.string("tokenizer.chat_template")

    @property
    def is_embedding(self) -> bool:
        """A GGUF is an embedding model when it says how to pool (server/images.go)."""
        return self.header.integer(f"{self.header.architecture}.pooling_type") is not None

    @property
    def context_length(self) -> int:
        return self.header.integer(f"{self.header.architecture}.context_length") or 0

    @property
    def embedding_length(self) -> int:
        return self.header.integer(f"{self.header.architecture}.embedding_length") or 0

    @property
    def capabilities(self) -> list[str]:
        """As Ollama v0.33.0-rc2 derives them from the GGUF and its template (server/images.go)."""
        if self.is_embedding:
            return ["embedding"]
        found = ["completion"]
        jinja = self.jinja
        if "tools" in jinja or "tool_call" in jinja or ".Tools" in self.template:
            found.append("tools")
        if _SUFFIX.search(self.template):
            found.append("insert")
        if "<think>" in jinja and "</think>" in jinja:
            found.append("thinking")
        return found

    @property
    def uses_go_template(self) -> bool:
        """A template layer is used unless the GGUF's own can do more (server/images.go:202-234)."""
        if not self.template:
            return False
        native = {"tools": "tools" in self.jinja or "tool_call" in self.jinja, "thinking": self.can_think}
        return not (
            (native["tools"] and ".Tools" not in self.template)
            or (native["thinking"] and ".Thinking" not in self.template)
        )

    @property
    def can_think(self) -> bool:
        return "thinking" in self.capabilities

    def details(self) -> dict[str, Any]:
        """The `details` of show and ps."""
        return {
            "parent_model": self.layer.source,
            "format": self.config.get("model_format") or "gguf",
            "family": self.config.get("model_family") or self.header.architecture,
            "families": self.config.get("model_families") or [self.header.architecture],
            "parameter_size": self.config.get("model_type") or human_number(self.header.parameter_count),
            "quantization_level": self.config.get("file_type") or file_type(self.header),
        }


class Library:
    """Models by name, with the headers kept in memory (a header is read once per blob)."""

    def __init__(self, store: ModelStore) -> None:
        self.store = store
        self._headers: dict[str, GgufHeader] = {}
        self._models: dict[str, Model] = {}
        # Digests of GGUF files whose chat template is known to end (`template_check`).
        self.bounded: set[str] = set()
        # One child at a time.
        self.checking = asyncio.Lock()

    def get(self, text: str, *, missing: str = "model '{name}' not found") -> Model:
        """The model that a request names. Raises ApiError 404 (400 for a text that is no name), 500 when its
        file is not in the store or no GGUF."""
        if not text:
            raise ApiError(404, missing.format(name=""))
        if not is_valid_name(text):
            raise ApiError(400, "invalid model name")
        stored = self.store.read(parse_name(text))
        if stored is None:
            raise ApiError(404, missing.format(name=text))
        return self.open(stored)

    def open(self, stored: StoredModel) -> Model:
        """Raises ApiError 500 when blobs are missing or damaged."""
        known = self._models.get(stored.digest)
        if known is not None and known.stored == stored and known.path.is_file():
            return known
        model = self._read(stored)
        if len(self._models) >= _CACHE_LIMIT:
            self._models.clear()
        self._models[stored.digest] = model
        return model

    def header(self, digest: str) -> GgufHeader:
        """Raises GgufError, OSError."""
        path = self.store.blob_path(digest)
        header = self._headers.get(digest)
        if header is None or header.file_size != path.stat().st_size:
            header = read_header(path)
            if len(self._headers) >= _CACHE_LIMIT:
                self._headers.clear()
            self._headers[digest] = header
        return header

    def _read(self, stored: StoredModel) -> Model:
        manifest = stored.manifest
        layer = manifest.layer(media.MEDIA_MODEL)
        if layer is None:
            raise ApiError(500, f"model '{stored.name}' has no GGUF layer")
        try:
            return Model(
                stored=stored,
                path=self.store.blob_path(layer.digest),
                layer=layer,
                header=self.header(layer.digest),
                config=_object(json.loads(self.store.read_blob(manifest.config))),
                parameters=_object(json.loads(self._text(stored, media.MEDIA_PARAMS) or "{}")),
                system=self._text(stored, media.MEDIA_SYSTEM),
                template=self._text(stored, media.MEDIA_TEMPLATE),
                messages=_objects(json.loads(self._text(stored, media.MEDIA_MESSAGES) or "[]")),
                licenses=[
                    self.store.read_blob(layer).decode("utf-8", errors="replace")
                    for layer in manifest.layers
                    if layer.media_type == media.MEDIA_LICENSE
                ],
            )
        except FileNotFoundError as error:
            raise ApiError(500, f"open {error.filename}: no such file or directory") from None
        except OSError as error:
            raise ApiError(500, f"open {error.filename}: {str(error.strerror).lower()}") from None
        except RfctlError as error:
            raise ApiError(500, error.text().message) from None
        except ValueError as error:
            raise ApiError(500, f"model '{stored.name}' is damaged: {error}") from None

    def _text(self, stored: StoredModel, media_type: str) -> str:
        layer = stored.manifest.layer(media_type)
        return self.store.read_blob(layer).decode("utf-8", errors="replace") if layer else ""


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("no JSON object")
    return value


def _objects(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        raise ValueError("no JSON list")
    return [_object(item) for item in value]


def human_number(count: int) -> str:
    """`134.52M`, `461K`, `1.5B` (format/format.go of Ollama)."""
    if count >= 10**9:
        billions = count / 10**9
        return f"{billions:.0f}B" if billions.is_integer() else f"{billions:.1f}B"
    if count >= 10**6:
        millions = count / 10**6
        return f"{millions:.0f}M" if millions.is_integer() else f"{millions:.2f}M"
    if count >= 1000:
        return f"{count // 1000}K" if count % 1000 == 0 else f"{count / 1000:.0f}K"
    return str(count)


@cache
def _file_types() -> dict[int, str]:
    path = Path(__file__).parent.parent / "file_type.toml"
    return {int(number): name for number, name in tomllib.loads(path.read_text("utf-8")).items()}


def file_type(header: GgufHeader) -> str:
    """The quantization of the file as Ollama names it; "unknown" for F32 and for a missing key."""
    return _file_types().get(header.integer("general.file_type") or 0, "unknown")


@cache
def known_architectures() -> frozenset[str]:
    """What the installed llama.cpp can load."""
    path = Path(__file__).parent.parent / "architecture.toml"
    return frozenset(tomllib.loads(path.read_text("utf-8"))["known"])
