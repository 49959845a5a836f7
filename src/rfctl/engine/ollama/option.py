"""`options` of a request and `parameters` of a model: types, defaults, and what llama.cpp is told.

Names, types and defaults from Ollama v0.33.0-rc2, api/types.go (Options, FromMap, DefaultOptions).
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama.model import Model
from rfctl.engine.process import Spec

DEFAULT_NUM_CTX = 4096
MAX_BATCH = 2048
_MICRO_BATCH = 512
# An embedding worker reserves num_ubatch x vocabulary x 4 bytes for outputs.
_OUTPUT_BYTES = 1 << 30
# Ollama's guard against endless generation: ten contexts.
_ENDLESS_CONTEXTS = 10
# More threads only wait for each other, and a million of them abort the worker.
_THREADS_PER_CORE = 4
_MAX_FLOAT32 = 3.4e38


@dataclass(frozen=True)
class Options:
    """Defaults are Ollama's. num_ctx 0: not said; num_predict -1: no limit of its own; seed -1: random."""

    num_ctx: int = 0
    num_batch: int = 0
    num_thread: int = 0
    num_keep: int = 4
    num_predict: int = -1
    seed: int = -1
    top_k: int = 40
    repeat_last_n: int = 64
    top_p: float = 0.9
    min_p: float = 0.0
    typical_p: float = 1.0
    temperature: float = 0.8
    repeat_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    stop: tuple[str, ...] = ()


_KINDS = {field.name: str(field.type) for field in fields(Options)}


def merge_options(model: Model, request: Mapping[str, Any]) -> Options:
    """The options for one request: the request's over the model's over the defaults.

    Raises ApiError 500 for a value of the wrong type, as Ollama does at use. Unknown names are ignored.
    """
    values: dict[str, Any] = {}
    for source in (model.parameters, request):
        for name, value in source.items():
            if name in _KINDS and value is not None:
                values[name] = _convert(name, value)
    return Options(**values)


def _convert(name: str, value: object) -> object:
    kind = _KINDS[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "int":
        if not is_number or value in (math.inf, -math.inf):
            raise ApiError(500, f'option "{name}" must be of type integer')
        return max(-(2**31), min(int(value), 2**32 - 1))  # type: ignore[call-overload]
    if kind == "float":
        if not is_number:
            raise ApiError(500, f'option "{name}" must be of type float32')
        return max(-_MAX_FLOAT32, min(float(value), _MAX_FLOAT32))  # type: ignore[arg-type]
    if not isinstance(value, list):
        raise ApiError(500, f'option "{name}" must be of type array')
    if not all(isinstance(item, str) for item in value):
        raise ApiError(500, f'option "{name}" must be of an array of strings')
    return tuple(value)


def make_spec(model: Model, options: Options) -> Spec:
    """How the model is loaded for these options: another context length or batch means another worker.

    Ollama's automatic context is 4096 tokens without a GPU; the GGUF's own length is the limit.
    """
    check_loadable(model)
    limit = model.context_length or DEFAULT_NUM_CTX
    num_ctx = max(min(options.num_ctx if options.num_ctx > 0 else DEFAULT_NUM_CTX, limit), 4)
    num_batch = min(options.num_batch if options.num_batch > 0 else MAX_BATCH, MAX_BATCH, num_ctx)
    num_ubatch = min(_MICRO_BATCH, num_batch)
    if model.is_embedding:
        # A text that is pooled without a causal mask must fit into one micro batch.
        tokens = model.header.array("tokenizer.ggml.tokens")
        fitting = _OUTPUT_BYTES // (4 * max(tokens.length if tokens else 1, 1))
        num_batch = num_ubatch = max(min(num_batch, fitting // 256 * 256), min(num_batch, 256))
    cores = os.process_cpu_count() or 1
    return Spec(
        path=str(model.path),
        digest=model.layer.digest,
        num_ctx=num_ctx,
        num_batch=num_batch,
        num_ubatch=num_ubatch,
        num_keep=max(options.num_keep, 0),
        num_thread=min(options.num_thread, _THREADS_PER_CORE * cores) if options.num_thread > 0 else cores,
        is_embedding=model.is_embedding,
    )


def check_loadable(model: Model) -> None:
    """Refuse what aborts llama.cpp instead of failing (b11549: llama-model.cpp, LLAMA_MAX_LAYERS 512).

    Everything else is llama.cpp's to judge. Raises ApiError 500.
    """
    header = model.header
    start = "llama-server process has terminated: exit status 1: error loading model: "
    for name, lowest, highest in (("block_count", 1, 512), ("context_length", 1, 1 << 31)):
        value = header.integer(f"{header.architecture}.{name}")
        if value is not None and not lowest <= value <= highest:
            raise ApiError(500, f"{start}error loading model hyperparameters: {name} is {value}")
    if tensor := header.first_beyond_end():
        raise ApiError(500, f"{start}tensor '{tensor.name}' data is not within the file bounds")


def sampling(options: Options, num_ctx: int) -> dict[str, Any]:
    """The fields that `/completion` and `/v1/chat/completions` of llama-server share."""
    limit = _ENDLESS_CONTEXTS * num_ctx
    num_predict = min(options.num_predict, limit) if options.num_predict > 0 else limit
    return {
        "n_predict": num_predict,
        "max_tokens": num_predict,
        "n_keep": options.num_keep,
        "seed": options.seed,
        "top_k": options.top_k,
        "top_p": options.top_p,
        "min_p": options.min_p,
        "typical_p": options.typical_p,
        "temperature": options.temperature,
        # llama.cpp makes a buffer of that size.
        "repeat_last_n": max(-1, min(options.repeat_last_n, num_ctx)),
        "repeat_penalty": options.repeat_penalty,
        "presence_penalty": options.presence_penalty,
        "frequency_penalty": options.frequency_penalty,
        "stop": list(options.stop),
        "cache_prompt": True,
    }
