"""Manifests: which blobs make a model.

Written byte for byte as Ollama v0.33.0-rc2 does (manifest/manifest.go).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

MEDIA_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
MEDIA_CONFIG = "application/vnd.docker.container.image.v1+json"
_IMAGE = "application/vnd.ollama.image."
MEDIA_MODEL = _IMAGE + "model"
MEDIA_PROJECTOR = _IMAGE + "projector"
MEDIA_ADAPTER = _IMAGE + "adapter"
MEDIA_TEMPLATE = _IMAGE + "template"
MEDIA_SYSTEM = _IMAGE + "system"
MEDIA_LICENSE = _IMAGE + "license"
MEDIA_PARAMS = _IMAGE + "params"
MEDIA_MESSAGES = _IMAGE + "messages"

_DIGEST = re.compile(r"sha256[:-]([0-9a-fA-F]{64})", re.ASCII)
_ESCAPES = {"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "\u2028": "\\u2028", "\u2029": "\\u2029"}


@dataclass(frozen=True)
class Layer:
    """digest: `sha256:<64 hex>`; size in bytes; source: name of the model the layer was taken from, or ""."""

    media_type: str
    digest: str
    size: int
    source: str = ""

    def to_json(self) -> dict[str, object]:
        entry: dict[str, object] = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        return entry | ({"from": self.source} if self.source else {})


@dataclass(frozen=True)
class Manifest:
    """config: the layer with the model's description; layers in the order of the file."""

    config: Layer
    layers: tuple[Layer, ...]

    def layer(self, media_type: str) -> Layer | None:
        """The first layer of that type."""
        return next((layer for layer in self.layers if layer.media_type == media_type), None)

    @property
    def size(self) -> int:
        """Bytes of all blobs together, as `/api/tags` reports them."""
        return self.config.size + sum(layer.size for layer in self.layers)

    @property
    def digests(self) -> frozenset[str]:
        return frozenset({self.config.digest, *(layer.digest for layer in self.layers)})

    def to_bytes(self) -> bytes:
        """Compact JSON and a line feed: the file's content, whose SHA-256 is the model's digest."""
        return encode_json(
            {
                "schemaVersion": 2,
                "mediaType": MEDIA_MANIFEST,
                "config": self.config.to_json(),
                "layers": [layer.to_json() for layer in self.layers],
            }
        )


def parse_manifest(data: bytes) -> Manifest:
    """Raises ValueError when `data` is no manifest or names a blob by something that is no digest."""
    document = json.loads(data)
    if not isinstance(document, dict) or not isinstance(layers := document.get("layers") or [], list):
        raise ValueError("no manifest")
    return Manifest(_parse_layer(document.get("config")), tuple(_parse_layer(layer) for layer in layers))


def _parse_layer(entry: object) -> Layer:
    if not isinstance(entry, dict):
        raise ValueError("no layer")
    media_type, digest, size = entry.get("mediaType"), entry.get("digest"), entry.get("size")
    if not isinstance(media_type, str) or not isinstance(digest, str) or not isinstance(size, int):
        raise ValueError("incomplete layer")
    return Layer(media_type, normalise_digest(digest), size, str(entry.get("from") or ""))


def normalise_digest(text: str) -> str:
    """`sha256:<64 lower-case hex>` from `sha256:` or `sha256-` and any case. Raises ValueError for others."""
    match = _DIGEST.fullmatch(text)
    if match is None:
        raise ValueError("invalid digest format")
    return "sha256:" + match[1].lower()


def digest_of(data: bytes) -> str:
    """`sha256:<hex>` of `data`."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def encode_json(value: object) -> bytes:
    """Compact JSON and a line feed, as Go's encoder writes it (see `encode_text`)."""
    return encode_text(value).encode("utf-8") + b"\n"


def encode_text(value: object) -> str:
    """JSON as Go's encoding/json writes it: compact, `< > &` and two line separators escaped, whole floats
    without a fraction, lone surrogates replaced. Key order is that of the mapping: sort maps beforehand."""
    text = json.dumps(_plain(value), ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character, escape in _ESCAPES.items():
        text = text.replace(character, escape)
    return text.encode("utf-8", errors="replace").decode("utf-8")


def _plain(value: object) -> object:
    match value:
        case float() if value.is_integer() and abs(value) < 1e21:
            return int(value)
        case Mapping():
            return {str(key): _plain(item) for key, item in value.items()}
        case str():
            return value
        case Sequence():
            return [_plain(item) for item in value]
    return value
