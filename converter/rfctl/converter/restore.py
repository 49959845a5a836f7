"""A Hugging Face directory from the GGUF file of a package, so that demonstration and tests have a real
model to convert.

The weights are dequantized to float32 and rounded to float16: they carry the precision of the file (Q4_1,
Q8_0), and are not the original upload. What a GGUF does not hold (configuration, special token map) is in
`data/restore.json`.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from rfctl.core.error import RfctlError
from rfctl.core.file import sha256_file, write_atomic

_DATA = Path(__file__).parent / "data" / "restore.json"
_BLOCK_NAMES = {
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm"}
_CONTROL = 3


def restore(file: Path, folder: Path, *, check_hash: bool = True) -> Path:
    """Write the Hugging Face directory of the Llama in the GGUF `file` to `folder` and return it.

    The name of `folder` becomes part of what a converter guesses (`general.name`). One tensor at a time is
    in memory.
    check_hash   refuse any file but the one that `data/restore.json` names
    Raises RfctlError `model.restore-source`; OSError when the folder cannot be written.
    """
    facts = json.loads(_DATA.read_text(encoding="utf-8"))
    if check_hash and sha256_file(file) != facts["sha256"]:
        raise RfctlError("model.restore-source", path=file, what="sha256")
    reader = gguf.GGUFReader(file)
    if _read(reader, "general.architecture") != "llama":
        raise RfctlError("model.restore-source", path=file, what="general.architecture")
    folder.mkdir(parents=True, exist_ok=True)
    tokens = _read(reader, "tokenizer.ggml.tokens")
    types = _read(reader, "tokenizer.ggml.token_type")
    added = [id for id, kind in enumerate(types) if kind == _CONTROL]
    _write_json(folder / "config.json", facts["config"])
    _write_json(folder / "generation_config.json", facts["generation_config"])
    _write_json(folder / "special_tokens_map.json", facts["special_tokens_map"])
    _write_json(
        folder / "tokenizer.json", _make_tokenizer(tokens, _read(reader, "tokenizer.ggml.merges"), added)
    )
    config = facts["tokenizer_config"] | {
        "added_tokens_decoder": {str(id): _flags(tokens[id]) for id in added},
        "chat_template": _read(reader, "tokenizer.chat_template"),
    }
    _write_json(folder / "tokenizer_config.json", config)
    write_atomic(folder / "README.md", facts["readme"].encode())
    _write_weights(reader, folder / "model.safetensors")
    return folder


def _read(reader: Any, key: str) -> Any:
    field = reader.get_field(key)
    if field is None:
        raise RfctlError("model.restore-source", path="GGUF", what=key)
    return field.contents()


def _flags(content: str) -> dict[str, Any]:
    return {
        "content": content,
        "lstrip": False,
        "normalized": False,
        "rstrip": False,
        "single_word": False,
        "special": True,
    }


def _make_tokenizer(tokens: list[str], merges: list[str], added: list[int]) -> dict[str, Any]:
    byte_level = {"type": "ByteLevel", "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id} | _flags(tokens[id]) for id in added],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Digits", "individual_digits": True},
                byte_level | {"add_prefix_space": False},
            ],
        },
        "post_processor": None,
        "decoder": byte_level | {"add_prefix_space": True},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": {token: id for id, token in enumerate(tokens)},
            "merges": [merge.split(" ", 1) for merge in merges],
        },
    }


def _write_weights(reader: Any, path: Path) -> None:
    heads = {
        "attn_q": int(_read(reader, "llama.attention.head_count")),
        "attn_k": int(_read(reader, "llama.attention.head_count_kv")),
    }
    tensors = sorted(((_rename(tensor.name), tensor) for tensor in reader.tensors), key=lambda item: item[0])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, tensor in tensors:
        shape = [int(extent) for extent in reversed(tensor.shape)]
        size = 2 * int(np.prod(shape))
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for _, tensor in tensors:
            file.write(_make_halves(tensor, heads).tobytes())
    partial.replace(path)


def _make_halves(tensor: Any, heads: Mapping[str, int]) -> np.ndarray[Any, np.dtype[np.float16]]:
    values = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
    values = values.reshape([int(extent) for extent in reversed(tensor.shape)])
    part = tensor.name.split(".")[-2]
    if part in heads:
        # Back from llama.cpp's interleaved rotary order to the half-split one.
        count, (rows, columns) = heads[part], values.shape
        values = values.reshape(count, rows // count // 2, 2, columns).swapaxes(1, 2).reshape(rows, columns)
    halves: np.ndarray[Any, np.dtype[np.float16]] = values.astype(np.float16)
    return halves


def _rename(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _NAMES:
        return _NAMES[stem] + ".weight"
    _, number, part = [*stem.split("."), "", ""][:3]
    if part not in _BLOCK_NAMES:
        raise RfctlError("model.restore-source", path="GGUF", what=name)
    return f"model.layers.{number}.{_BLOCK_NAMES[part]}.weight"


def _write_json(path: Path, content: Any) -> None:
    write_atomic(path, json.dumps(content, ensure_ascii=False, indent=1).encode())
