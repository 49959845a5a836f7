"""A GGUF file that is about to be pushed: what its header says about prompts, context and end tokens."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfctl.core.error import UsageError
from rfctl.core.gguf_header import GgufHeader, read_header
from rfctl.ollama.template import Template

_CONTROL, _USER_DEFINED = 3, 4
_POOLING_NONE = 0
_NAME = re.compile(r"general\.(name|basename|finetune|base_model\.\d+\.(name|repo_url))")


@dataclass(frozen=True)
class Candidate:
    """Facts from one GGUF header.

    context_length, embedding_length in tokens and elements (None: not said). end_ids: every token id at which
    the file itself says a generation ends. special_tokens: text -> id of control and user-defined tokens;
    control_tokens are those that a server never prints. parameter_count, weight_bytes: of all tensors;
    cache_bytes: of the float16 key/value cache for one token (None: not said). vocabulary: the texts of all
    tokens, in the form of `tokenizer` ("gpt2", "llama", "bert", ...). pooling: `<arch>.pooling_type`;
    is_causal: `<arch>.attention.causal` (None: not said). names: what the model and its base are called.
    """

    path: Path
    architecture: str
    context_length: int | None
    embedding_length: int | None
    is_embedding: bool
    template: Template
    adds_bos: bool
    end_ids: frozenset[int]
    special_tokens: dict[str, int] = field(repr=False)
    control_tokens: frozenset[str] = field(repr=False)
    alignment: int
    data_offset: int
    size: int
    parameter_count: int = 0
    weight_bytes: int = 0
    cache_bytes: int | None = None
    tokenizer: str = ""
    vocabulary: tuple[str, ...] = field(default=(), repr=False)
    pooling: int | None = None
    is_causal: bool | None = None
    names: tuple[str, ...] = ()


def read_candidate(path: Path, *, header_only: bool = False) -> Candidate:
    """Read the header. header_only: the file holds nothing else.

    Raises GgufError for a file that is no complete GGUF, UsageError `ollama.push-adapter-file` and
    `ollama.push-piece` for one that no server can serve alone, OSError.
    """
    header = read_header(path, array_limit=None)
    if header.values.get("general.type") == "adapter":
        raise UsageError("ollama.push-adapter-file", path=path)
    pieces = header.integer("split.count") or 1
    if pieces > 1:
        # Ollama keeps every file under its digest, and llama.cpp finds the other pieces by their names only.
        raise UsageError("ollama.push-piece", path=path, count=pieces)
    if not header_only:
        header.check_complete(path)
    architecture = header.architecture
    tokens = _texts(header, "tokenizer.ggml.tokens")
    kinds_array = header.array("tokenizer.ggml.token_type")
    kinds = kinds_array.values if kinds_array is not None and kinds_array.values else ()
    special = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (_CONTROL, _USER_DEFINED)
    }
    control = frozenset(token for token, index in special.items() if kinds[index] == _CONTROL)
    ends = {header.integer(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    listed = header.array("tokenizer.ggml.eos_token_ids")
    if listed is not None and listed.values:
        ends |= {value for value in listed.values if isinstance(value, int)}
    pooling = header.integer(f"{architecture}.pooling_type")
    return Candidate(
        path=path,
        architecture=architecture,
        context_length=header.integer(f"{architecture}.context_length"),
        embedding_length=header.integer(f"{architecture}.embedding_length"),
        is_embedding=pooling is not None and pooling != _POOLING_NONE,
        template=Template(
            header.string("tokenizer.chat_template"),
            _token(header, tokens, "bos"),
            _token(header, tokens, "eos"),
        ),
        adds_bos=header.values.get("tokenizer.ggml.add_bos_token") is True,
        end_ids=frozenset(value for value in ends if value is not None),
        special_tokens=special,
        control_tokens=control,
        alignment=header.alignment,
        data_offset=header.data_offset,
        size=header.file_size,
        parameter_count=header.parameter_count,
        weight_bytes=sum(tensor.size for tensor in header.tensors),
        cache_bytes=_measure_cache(header),
        tokenizer=header.string("tokenizer.ggml.model"),
        vocabulary=tokens,
        pooling=pooling,
        is_causal=_flag(header.values.get(f"{architecture}.attention.causal")),
        names=_names(header.values),
    )


def candidate_of_info(info: Mapping[str, Any], template: str) -> Candidate:
    """What a server's verbose `model_info` says, for a file that cannot be read here.

    template: the chat template, which the server tells apart from it; path, offsets and size are empty.
    """
    architecture = str(info.get("general.architecture", ""))
    tokens = _strings(info.get("tokenizer.ggml.tokens"))
    kinds = info.get("tokenizer.ggml.token_type")
    kinds = kinds if isinstance(kinds, list) else []
    special = {
        token: index
        for index, (token, kind) in enumerate(zip(tokens, kinds, strict=False))
        if kind in (_CONTROL, _USER_DEFINED)
    }

    def number(key: str) -> int | None:
        value = info.get(key)
        return value if isinstance(value, int) and not isinstance(value, bool) else None

    def token(name: str) -> str:
        index = number(f"tokenizer.ggml.{name}_token_id")
        return tokens[index] if index is not None and 0 <= index < len(tokens) else ""

    ends = {number(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")}
    listed = info.get("tokenizer.ggml.eos_token_ids")
    if isinstance(listed, list):
        ends |= {value for value in listed if isinstance(value, int)}
    pooling = number(f"{architecture}.pooling_type")
    return Candidate(
        path=Path(),
        architecture=architecture,
        context_length=number(f"{architecture}.context_length"),
        embedding_length=number(f"{architecture}.embedding_length"),
        is_embedding=pooling is not None and pooling != _POOLING_NONE,
        template=Template(template, token("bos"), token("eos")),
        adds_bos=info.get("tokenizer.ggml.add_bos_token") is True,
        end_ids=frozenset(value for value in ends if value is not None),
        special_tokens=special,
        control_tokens=frozenset(text for text, index in special.items() if kinds[index] == _CONTROL),
        alignment=0,
        data_offset=0,
        size=0,
        tokenizer=str(info.get("tokenizer.ggml.model", "")),
        vocabulary=tuple(tokens),
        pooling=pooling,
        is_causal=_flag(info.get(f"{architecture}.attention.causal")),
        names=_names(info),
    )


def _flag(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _names(pairs: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(value for key, value in pairs.items() if _NAME.fullmatch(key) and isinstance(value, str))


def _strings(value: object) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _texts(header: GgufHeader, key: str) -> tuple[str, ...]:
    array = header.array(key)
    if array is None or array.item_type != "string" or array.values is None:
        return ()
    return tuple(str(value) for value in array.values)


def _token(header: GgufHeader, tokens: tuple[str, ...], name: str) -> str:
    index = header.integer(f"tokenizer.ggml.{name}_token_id")
    return tokens[index] if index is not None and 0 <= index < len(tokens) else ""


def _measure_cache(header: GgufHeader) -> int | None:
    """Two bytes for every key and value of every layer that has heads for them (llama.cpp without cache
    quantization; src/llama-hparams.cpp, b11434)."""

    def number(name: str) -> int:
        return header.integer(f"{header.architecture}.{name}") or 0

    layers, heads, width = number("block_count"), number("attention.head_count"), number("embedding_length")
    per_layer = header.array(f"{header.architecture}.attention.head_count")
    if per_layer is not None and per_layer.values:
        heads = max((int(value) for value in per_layer.values), default=0)
    if not layers or not heads or not width:
        return None
    shared = header.array(f"{header.architecture}.attention.head_count_kv")
    if shared is not None and shared.values:
        groups = sum(max(0, int(value)) for value in shared.values)
    else:
        groups = layers * (number("attention.head_count_kv") or heads)
    key = number("attention.key_length") or width // heads
    value = number("attention.value_length") or width // heads
    return 2 * groups * (key + value)
