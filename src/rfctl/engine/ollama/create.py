"""`POST /api/create` from uploaded GGUF files or from a model of the store.

Order, texts and statuses of Ollama v0.33.0-rc2 (server/create.go). Two deliberate differences: the GGUF is
stored as it is (Ollama rewrites it, which changes its digest and leaves a second copy), and no Go template is
guessed from the chat template, because llama.cpp renders that itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from pathlib import PurePosixPath
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from rfctl.core.gguf_header import GgufError, GgufHeader
from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import go_template, state
from rfctl.engine.ollama.answer import PLAIN_JSON_TYPE, answer, stream, until_disconnect
from rfctl.engine.ollama.body import read_body
from rfctl.engine.ollama.model import Model, file_type, human_number, known_architectures
from rfctl.ollama import manifest as media
from rfctl.ollama.manifest import Layer, Manifest, encode_json, normalise_digest
from rfctl.ollama.name import ModelName, is_valid_name, parse_name
from rfctl.ollama.store import StoreError

_FIELDS = {
    "model": "string",
    "name": "string",
    "from": "string",
    "files": "map[string]string",
    "adapters": "map[string]string",
    "template": "string",
    "system": "string",
    "parameters": "map[string]interface {}",
    "messages": "[]api.Message",
    "quantize": "string",
    "quantization": "string",
    "renderer": "string",
    "parser": "string",
    "requires": "string",
    "info": "map[string]interface {}",
    "stream": "bool",
}
_QUANTIZE = ("F32", "F16", "BF16", "Q8_0", "Q4_K_S", "Q4_K_M", "Q4_K")
# Tensors with these prefixes make Ollama skip the check by llama-quantize (create.go:765-771).
_UNCHECKED = ("a.", "mm.", "mtp.", "s.", "v.")
_REFUSED = (
    "failed to validate GGUF with llama-quantize without compatibility patches:"
    " llama-quantize failed: exit status 1"
)

type Progress = AsyncGenerator[dict[str, Any]]


async def create(request: Request) -> Response:
    """Answers NDJSON progress that ends in `success`, or one document with `stream: false`."""
    body = await read_body(request, "CreateRequest", _FIELDS)
    text = body.get("model") or body.get("name") or ""
    if not is_valid_name(text):
        raise ApiError(400, "invalid model name")
    for path, digest in body.get("files", {}).items():
        _check_file(path, digest)
    lines = _create(state.of(request), parse_name(text), body)
    if body.get("stream", True):
        return await stream(request, lines)
    try:
        await until_disconnect(request, _drain(lines))
    except ApiError as error:
        return answer({"error": error.text}, error.status, PLAIN_JSON_TYPE)
    return answer({"status": "success"}, media_type=PLAIN_JSON_TYPE)


def _check_file(path: str, digest: object) -> None:
    parts = path.split("/")
    if not path or any(part in ("", ".", "..") for part in parts):
        raise ApiError(400, "file path must be relative")
    if not isinstance(digest, str) or not digest:
        raise ApiError(400, "invalid digest format")


async def _drain(lines: Progress) -> None:
    async for _ in lines:
        pass


async def _create(shared: state.State, name: ModelName, body: Mapping[str, Any]) -> Progress:
    # One at a time: two creates of one name would drop each other's blobs.
    async with shared.creating:
        base: Model | None = None
        if body.get("from"):
            base = shared.models.get(body["from"])
            layers = _inherited(base, name)
            for layer in layers:
                yield {"status": f"using existing layer {layer.digest}"}
            header = base.header
            _check_quantize(body, header)
        elif "files" in body:
            if not _looks_like_gguf(shared, body["files"]):
                raise ApiError(400, "unknown type")
            yield {"status": "parsing GGUF"}
            layers, header = await asyncio.to_thread(_open_files, shared, body["files"])
            _check_quantize(body, header)
            if not _is_unchecked(header):
                yield {"status": "verifying conversion"}
            for layer in layers:
                yield {"status": f"using existing layer {layer.digest}"}
        else:
            raise ApiError(400, "neither 'from' or 'files' was specified")
        _check_adapters(body.get("adapters", {}))
        statuses, former = await asyncio.to_thread(_register, shared, name, layers, header, body, base)
        for status in statuses:
            yield {"status": status}
        if former is not None:
            await _unload_dropped(shared, former)
        yield {"status": "writing manifest"}
        yield {"status": "success"}


def _register(
    shared: state.State,
    name: ModelName,
    layers: list[Layer],
    header: GgufHeader,
    body: Mapping[str, Any],
    base: Model | None,
) -> tuple[list[str], Manifest | None]:
    """Write the small layers and the manifest; their status lines, and the manifest that was replaced."""
    with shared.store.transaction():
        try:
            layers, statuses = _add_layers(shared, layers, body, base)
            config, _ = shared.store.add_bytes(encode_json(_config(header, body, base)), media.MEDIA_CONFIG)
            former = shared.store.read(name)
            shared.store.write(name, Manifest(config, tuple(layers)))
        except OSError as error:
            raise ApiError(500, f"write {shared.store.root}: {error.strerror}") from None
        except StoreError as error:
            raise ApiError(500, error.text().message) from None
    return statuses, former.manifest if former else None


async def _unload_dropped(shared: state.State, former: Manifest) -> None:
    for layer in former.layers:
        if not shared.store.has_blob(layer.digest):
            await shared.pool.unload(layer.digest)


def _inherited(base: Model, name: ModelName) -> list[Layer]:
    """The layers of the base model; the GGUF's remembers where it came from unless that is itself."""
    source = "" if base.name.same(name) else str(base.name)
    return [
        Layer(layer.media_type, layer.digest, layer.size, source if layer == base.layer else layer.source)
        for layer in base.stored.manifest.layers
    ]


def _looks_like_gguf(shared: state.State, files: Mapping[str, str]) -> bool:
    names = [PurePosixPath(path).suffix.lower() for path in files]
    if ".safetensors" in names:
        raise ApiError(
            500,
            "this server does not convert safetensors; convert and push the directory with"
            " `rfctl model push DIR NAME`",
        )
    if ".gguf" in names:
        return True
    for digest in files.values():
        try:
            with shared.store.blob_path(digest).open("rb") as file:
                if file.read(4) == b"GGUF":
                    return True
        except (OSError, ValueError):
            continue
    return False


def _open_files(shared: state.State, files: Mapping[str, str]) -> tuple[list[Layer], GgufHeader]:
    """The model layer (and projector layers) of the files, checked as Ollama >= 0.30 checks them."""
    layers: list[Layer] = []
    model: GgufHeader | None = None
    for digest in files.values():
        try:
            header = shared.models.header(normalise_digest(_exact(digest)))
        except ValueError:
            raise ApiError(500, "invalid digest format") from None
        except OSError as error:
            raise ApiError(500, f"open {error.filename}: {str(error.strerror).lower()}") from None
        except GgufError as error:
            raise _refuse(error) from None
        kind = header.string("general.type")
        if kind == "adapter":
            raise ApiError(500, "adapters are not supported by this server; merge the adapter into the model")
        is_projector = kind in ("projector", "mmproj") or header.architecture == "clip"
        if not is_projector:
            if model is not None:
                raise ApiError(
                    500, "split GGUF files are not supported by this server; merge them into one file"
                )
            model = header
        _check_gguf(header)
        media_type = media.MEDIA_PROJECTOR if is_projector else media.MEDIA_MODEL
        layers.append(shared.store.layer_of(digest, media_type))
    if model is None:
        raise ApiError(400, "unknown type")
    return sorted(layers, key=lambda layer: layer.media_type == media.MEDIA_PROJECTOR), model


def _exact(digest: str) -> str:
    # `sha256-` is taken, upper case is not (manifest/paths.go checks the file name).
    if digest != digest.lower():
        raise ValueError(digest)
    return digest


def _refuse(error: GgufError) -> ApiError:
    if error.id == "gguf.magic":
        return ApiError(400, "supplied file was not in GGUF format")
    return ApiError(500, f"{_REFUSED}: {error.text().message}")


def _is_unchecked(header: GgufHeader) -> bool:
    return any(tensor.name.startswith(_UNCHECKED) for tensor in header.tensors)


def _check_gguf(header: GgufHeader) -> None:
    if tensor := header.first_beyond_end():
        end = header.data_offset + tensor.offset + tensor.size
        raise ApiError(
            500, f'tensor "{tensor.name}" offset+size ({end}) exceeds file size ({header.file_size})'
        )
    architecture = header.architecture
    known = known_architectures() | {"clip"}
    if architecture not in known and not _is_unchecked(header):
        raise ApiError(500, f"{_REFUSED}: unknown model architecture: '{architecture}'")


def _check_quantize(body: Mapping[str, Any], header: GgufHeader) -> None:
    """Quantizing is the converter's work; asking for what the file already is does nothing."""
    wanted = body.get("quantize") or body.get("quantization") or ""
    if not wanted:
        return
    kind = wanted.upper()
    if kind not in _QUANTIZE:
        supported = "supported types are F32, F16, Q4_K_S, Q4_K_M, Q8_0"
        raise ApiError(500, f"unsupported quantization type {kind} - {supported}")
    current = file_type(header)
    if current == {"Q4_K": "Q4_K_M"}.get(kind, kind):
        return
    if current not in ("F16", "BF16"):
        raise ApiError(500, "quantization is only supported for F16, BF16 and F32 models")
    raise ApiError(
        500, f"this server does not quantize; push the model with `rfctl model push --quantize {kind}`"
    )


def _check_adapters(adapters: Mapping[str, str]) -> None:
    if len(adapters) > 1:
        raise ApiError(400, "only one adapter is currently supported")
    if adapters:
        raise ApiError(500, "adapters are not supported by this server; merge the adapter into the model")


def _add_layers(
    shared: state.State, layers: list[Layer], body: Mapping[str, Any], base: Model | None
) -> tuple[list[Layer], list[str]]:
    """All layers in Ollama's order and the status lines of the new ones."""
    added: list[tuple[str, bytes]] = []
    if template := body.get("template"):
        try:
            go_template.parse(template)
        except go_template.TemplateError as error:
            raise ApiError(400, f"template error: {error}") from None
        added.append((media.MEDIA_TEMPLATE, template.encode()))
    if system := body.get("system"):
        added.append((media.MEDIA_SYSTEM, system.encode()))
    licenses = body.get("license") or []
    for text in [licenses] if isinstance(licenses, str) else licenses:
        added.append((media.MEDIA_LICENSE, str(text).encode()))
    if parameters := body.get("parameters"):
        merged = dict(base.parameters if base else {}) | parameters
        added.append((media.MEDIA_PARAMS, encode_json(dict(sorted(merged.items())))))
    if messages := body.get("messages"):
        added.append((media.MEDIA_MESSAGES, encode_json(messages)))
    replaced = {media_type for media_type, _ in added} - {media.MEDIA_LICENSE}
    layers = [layer for layer in layers if layer.media_type not in replaced]
    statuses = []
    for media_type, data in added:
        layer, is_new = shared.store.add_bytes(data, media_type)
        layers.append(layer)
        statuses.append(f"{'creating new' if is_new else 'using existing'} layer {layer.digest}")
    return layers, statuses


def _config(header: GgufHeader, body: Mapping[str, Any], base: Model | None) -> dict[str, Any]:
    """The configuration in Go's key order (types/model/config.go); empty values are left out."""
    inherited = dict(base.config) if base else {}
    info = body.get("info", {})
    found: dict[str, Any] = {
        "model_format": "gguf",
        "model_family": header.architecture,
        "model_families": [header.architecture],
        "model_type": human_number(header.parameter_count),
        "file_type": file_type(header),
    }
    for key in ("renderer", "parser", "requires"):
        found[key] = body.get(key) or inherited.get(key)
    for key in ("capabilities", "context_length", "embedding_length", "base_name"):
        found[key] = info.get(key) or inherited.get(key)
    return {key: value for key, value in found.items() if value} | {"architecture": "amd64", "os": "linux"}
