"""What a model server answers, as frozen values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

_RELEASE = re.compile(r"(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
_FROM_BLOB = re.compile(r"^FROM .*sha256[-:]([0-9a-f]{64})\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Version:
    """`text` as the server says it; `release` is None for builds that do not know theirs (0.0.0)."""

    text: str
    release: tuple[int, int, int] | None

    @property
    def renders_jinja(self) -> bool:
        """Whether the GGUF's own chat template is rendered (Ollama 0.30.0 and later). A build without a
        release number is taken for a current one."""
        return self.release is None or self.release >= (0, 30, 0)

    @property
    def is_embedded(self) -> bool:
        """Whether rfctl's own engine answers (its version has the build suffix `rfctl`)."""
        return "rfctl" in self.text

    @property
    def rewrites_files(self) -> bool:
        """Whether create guesses a Go template and writes the GGUF anew (Ollama 0.30.0 and later)."""
        return self.renders_jinja and not self.is_embedded

    @property
    def shows_prompt(self) -> bool:
        """Whether `_debug_render_only` is understood (Ollama 0.11.5 and later)."""
        return self.release is None or self.release >= (0, 11, 5)


@dataclass(frozen=True)
class ModelEntry:
    """A line of /api/tags. digest: hex sha256 of the manifest; size in bytes."""

    name: str
    digest: str
    size: int
    modified_at: str
    family: str
    parameter_size: str
    quantization: str
    context_length: int | None
    embedding_length: int | None
    capabilities: tuple[str, ...]


@dataclass(frozen=True)
class RunningModel:
    """A line of /api/ps. context_length: the effective num_ctx in tokens; sizes in bytes."""

    name: str
    digest: str
    size: int
    size_vram: int
    expires_at: str
    context_length: int | None


@dataclass(frozen=True)
class ModelCard:
    """The answer of /api/show. parameters: typed as Ollama prints them; tensors: their number."""

    name: str
    modelfile: str
    template: str
    system: str
    license: str
    parameters: Mapping[str, object]
    family: str
    parameter_size: str
    quantization: str
    model_info: Mapping[str, Any] = field(repr=False)
    capabilities: tuple[str, ...] = ()
    messages: tuple[Mapping[str, str], ...] = ()
    tensors: int = 0
    modified_at: str = ""

    @property
    def blob_digest(self) -> str:
        """Hex sha256 of the served GGUF, from the FROM line of the Modelfile; empty when it names none."""
        match = _FROM_BLOB.search(self.modelfile)
        return match.group(1) if match else ""

    @property
    def architecture(self) -> str:
        return str(self.model_info.get("general.architecture", ""))

    @property
    def context_length(self) -> int | None:
        """The model's own context in tokens."""
        return _integer(self.model_info.get(f"{self.architecture}.context_length"))

    @property
    def embedding_length(self) -> int | None:
        return _integer(self.model_info.get(f"{self.architecture}.embedding_length"))


@dataclass(frozen=True)
class Answer:
    """A finished generation. done_reason: "stop", "length", "load", "unload"; seconds: the server's total."""

    text: str
    thinking: str
    done_reason: str
    prompt_tokens: int
    answer_tokens: int
    seconds: float


def read_version(document: Any) -> Version:
    text = str(document.get("version", "")) if isinstance(document, dict) else ""
    match = _RELEASE.match(text)
    release = (int(match[1]), int(match[2]), int(match[3])) if match else None
    return Version(text, None if release == (0, 0, 0) else release)


def read_entries(document: Any) -> tuple[ModelEntry, ...]:
    entries = []
    for item in _objects(document, "models"):
        details = _object(item.get("details"))
        entries.append(
            ModelEntry(
                name=str(item.get("name") or item.get("model") or ""),
                digest=str(item.get("digest", "")).removeprefix("sha256:"),
                size=_integer(item.get("size")) or 0,
                modified_at=str(item.get("modified_at", "")),
                family=str(details.get("family", "")),
                parameter_size=str(details.get("parameter_size", "")),
                quantization=str(details.get("quantization_level", "")),
                context_length=_integer(details.get("context_length")),
                embedding_length=_integer(details.get("embedding_length")),
                capabilities=_texts(item.get("capabilities")),
            )
        )
    return tuple(entries)


def read_running(document: Any) -> tuple[RunningModel, ...]:
    return tuple(
        RunningModel(
            name=str(item.get("name", "")),
            digest=str(item.get("digest", "")),
            size=_integer(item.get("size")) or 0,
            size_vram=_integer(item.get("size_vram")) or 0,
            expires_at=str(item.get("expires_at", "")),
            context_length=_integer(item.get("context_length")),
        )
        for item in _objects(document, "models")
    )


def read_card(name: str, document: Any) -> ModelCard:
    card = _object(document)
    details = _object(card.get("details"))
    return ModelCard(
        name=name,
        modelfile=str(card.get("modelfile", "")),
        template=str(card.get("template", "")),
        system=str(card.get("system", "")),
        license=str(card.get("license", "")),
        parameters=read_parameters(str(card.get("parameters", ""))),
        family=str(details.get("family", "")),
        parameter_size=str(details.get("parameter_size", "")),
        quantization=str(details.get("quantization_level", "")),
        model_info=_object(card.get("model_info")),
        capabilities=_texts(card.get("capabilities")),
        messages=tuple(
            {"role": str(item.get("role", "")), "content": str(item.get("content", ""))}
            for item in _objects(card, "messages")
        ),
        tensors=_count(card.get("tensors")),
        modified_at=str(card.get("modified_at", "")),
    )


def read_parameters(text: str) -> dict[str, object]:
    """The `parameters` text of /api/show: name, blanks, value; texts are quoted as in Go; `stop` repeats.

    The order of lines is not stable between calls, so stops are sorted.
    """
    values: dict[str, object] = {}
    stops: list[str] = []
    for line in text.splitlines():
        name, _, value = line.partition(" ")
        value = value.strip()
        if not name:
            continue
        if name == "stop":
            stops.append(_unquote(value))
        elif value in ("true", "false"):
            values[name] = value == "true"
        else:
            try:
                number = float(value)
            except ValueError:
                values[name] = _unquote(value)
            else:
                values[name] = int(number) if number.is_integer() and abs(number) < 2**53 else number
    if stops:
        values["stop"] = sorted(stops)
    return values


def _unquote(text: str) -> str:
    if len(text) < 2 or not (text.startswith('"') and text.endswith('"')):
        return text
    simple = {"n": "\n", "t": "\t", "r": "\r", '"': '"', "\\": "\\"}
    return re.sub(
        r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))",
        lambda m: chr(int(m[1] or m[2], 16)) if m[1] or m[2] else simple.get(m[3], m[3]),
        text[1:-1],
    )


def _object(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _objects(document: Any, key: str) -> list[dict[str, Any]]:
    items = _object(document).get(key)
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(str(item) for item in value) if isinstance(value, list) else ()


def _integer(value: Any) -> int | None:
    """JSON as Python reads it has Infinity, NaN and any number of digits."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and abs(value) < 1 << 64 else None


def _count(value: Any) -> int:
    return len(value) if isinstance(value, list) else 0
