"""Model names as Ollama reads, checks and shows them: `[host/][namespace/]model[:tag]`.

Rules from Ollama v0.33.0-rc2, types/model/name.go.
"""

from __future__ import annotations

import string
from dataclasses import dataclass
from pathlib import PurePosixPath

from rfctl.core.error import UsageError

DEFAULT_HOST = "registry.ollama.ai"
DEFAULT_NAMESPACE = "library"
DEFAULT_TAG = "latest"

_ALPHANUMERIC = frozenset(string.ascii_letters + string.digits)
_FIRST = _ALPHANUMERIC | {"_"}
_LIMITS = {"host": 350, "namespace": 80, "model": 80, "tag": 80}
_MORE = {"host": "_-.:", "namespace": "_-", "model": "_-.", "tag": "_-."}


@dataclass(frozen=True)
class ModelName:
    """A complete, valid name; every part has its default filled in."""

    host: str
    namespace: str
    model: str
    tag: str

    def __str__(self) -> str:
        """The shortest form that means the same, always with its tag: `tiny:latest`, `ns/tiny:v1`."""
        text = f"{self.model}:{self.tag}"
        if self.host.lower() != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{text}"
        if self.namespace.lower() != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{text}"
        return text

    @property
    def full(self) -> str:
        """Host, namespace, model and tag: `registry.ollama.ai/library/tiny:latest`."""
        return f"{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def path(self) -> PurePosixPath:
        """Where the manifest is, below the folder `manifests`."""
        return PurePosixPath(self.host, self.namespace, self.model, self.tag)

    def same(self, other: ModelName) -> bool:
        """Ollama compares names without regard to case."""
        return self.full.lower() == other.full.lower()


def parse_name(text: str) -> ModelName:
    """The model name in `text`. Raises UsageError `store.name-invalid` for what Ollama refuses."""
    rest, tag = text, DEFAULT_TAG
    # A slash is no part of a tag: in "host:5000/ns/model" the colon belongs to the host.
    if rest.rfind(":") > rest.rfind("/"):
        rest, _, tag = rest.rpartition(":")
    rest, _, model = rest.rpartition("/")
    has_namespace = "/" in text
    namespace, host = DEFAULT_NAMESPACE, DEFAULT_HOST
    if has_namespace:
        before, slash, namespace = rest.rpartition("/")
        if slash:
            host = before.partition("://")[2] if "://" in before else before
    parts = {"host": host, "namespace": namespace, "model": model, "tag": tag}
    for kind, part in parts.items():
        if not _is_valid(kind, part):
            raise UsageError("store.name-invalid", name=text)
    return ModelName(**parts)


def is_valid_name(text: str) -> bool:
    """True when `parse_name` takes it."""
    try:
        parse_name(text)
    except UsageError:
        return False
    return True


def _is_valid(kind: str, part: str) -> bool:
    if not 1 <= len(part) <= _LIMITS[kind] or part[0] not in _FIRST:
        return False
    allowed = _ALPHANUMERIC | set(_MORE[kind])
    return all(character in allowed for character in part[1:])
