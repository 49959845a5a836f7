"""Model directories made by formula, without golden data: a small Llama with a SentencePiece vocabulary, a
Qwen2 with a byte-level one, a BERT with WordPiece. A test changes one thing and writes the directory.
"""

from __future__ import annotations

import copy
import json
import math
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
from small import pack

HIDDEN, INNER, LAYERS = 64, 96, 2
SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I8": 1, "I32": 4}
LAYER = {
    "input_layernorm.weight": [HIDDEN],
    "post_attention_layernorm.weight": [HIDDEN],
    "self_attn.q_proj.weight": [HIDDEN, HIDDEN],
    "self_attn.k_proj.weight": [HIDDEN // 2, HIDDEN],
    "self_attn.v_proj.weight": [HIDDEN // 2, HIDDEN],
    "self_attn.o_proj.weight": [HIDDEN, HIDDEN],
    "mlp.gate_proj.weight": [INNER, HIDDEN],
    "mlp.up_proj.weight": [INNER, HIDDEN],
    "mlp.down_proj.weight": [HIDDEN, INNER],
}
TURN = "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
TEMPLATE = f"{{% for message in messages %}}{TURN}{{% endfor %}}"


@dataclass
class Made:
    """A model before it is written.

    tensors  name -> (dtype, shape)
    files    name -> content: bytes, text or something for JSON
    shards   weight file -> names of its tensors; one file with all of them where it is empty
    index    whether there is an index of the shards
    """

    config: dict[str, Any]
    tensors: dict[str, tuple[str, list[int]]]
    files: dict[str, Any] = field(default_factory=dict)
    shards: dict[str, list[str]] = field(default_factory=dict)
    index: bool = False
    values: dict[str, float] = field(default_factory=dict)

    def copy(self) -> Self:
        return copy.deepcopy(self)

    def split(self, *names: str) -> None:
        """Spread the tensors over the weight files `names`, with an index."""
        tensors = list(self.tensors)
        self.shards = {name: tensors[number :: len(names)] for number, name in enumerate(names)}
        self.index = True

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        if self.config:
            (folder / "config.json").write_text(json.dumps(self.config), "utf-8")
        for name, content in self.files.items():
            if isinstance(content, str):
                content = content.encode()
            elif not isinstance(content, bytes):
                content = json.dumps(content, ensure_ascii=False).encode()
            (folder / name).write_bytes(content)
        shards = self.shards or ({"model.safetensors": list(self.tensors)} if self.tensors else {})
        for name, names in shards.items():
            write_shard(folder / name, {key: self.tensors[key] for key in names}, self.values)
        if self.index:
            mapping = {key: name for name, names in shards.items() for key in names}
            index = {"metadata": {"total_size": 0}, "weight_map": mapping}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
        return folder


def write_shard(
    path: Path, tensors: dict[str, tuple[str, list[int]]], values: dict[str, float] | None = None
) -> None:
    """A safetensors file; every weight is 0.01 but for one of the tensors in `values`."""
    header: dict[str, Any] = {}
    offset = 0
    for name, (dtype, shape) in tensors.items():
        size = math.prod(shape) * SIZES[dtype]
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name, (dtype, shape) in tensors.items():
            weights = np.full(math.prod(shape), 0.01, np.float32)
            if values and name in values:
                weights[len(weights) // 2] = values[name]
            if dtype == "BF16":
                file.write((weights.view(np.uint32) >> 16).astype("<u2").tobytes())
            elif dtype in ("F16", "F32"):
                file.write(weights.astype({"F16": "<f2", "F32": "<f4"}[dtype]).tobytes())
            else:
                file.write(bytes(len(weights) * SIZES[dtype]))


def _decoder(architecture: str, kind: str, vocabulary: int) -> Made:
    tensors = {"model.embed_tokens.weight": [vocabulary, HIDDEN], "model.norm.weight": [HIDDEN]}
    for layer in range(LAYERS):
        tensors |= {f"model.layers.{layer}.{name}": shape for name, shape in LAYER.items()}
    config = {
        "architectures": [architecture],
        "model_type": kind,
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "vocab_size": vocabulary,
    }
    return Made(config, {name: ("BF16", shape) for name, shape in tensors.items()})


def make_llama() -> Made:
    """LlamaForCausalLM with tokenizer.model; llama.cpp hashes nothing for it."""
    made = _decoder("LlamaForCausalLM", "llama", 40)
    made.files["tokenizer.model"] = make_sentencepiece(40)
    made.files["tokenizer_config.json"] = {"bos_token": "<s>", "eos_token": "</s>", "chat_template": TEMPLATE}
    return made


def make_qwen() -> Made:
    """Qwen2ForCausalLM with a byte-level tokenizer.json of 260 tokens; its hash is not in the table."""
    made = _decoder("Qwen2ForCausalLM", "qwen2", 260)
    for layer in range(LAYERS):
        for name, size in (("q", HIDDEN), ("k", HIDDEN // 2), ("v", HIDDEN // 2)):
            made.tensors[f"model.layers.{layer}.self_attn.{name}_proj.bias"] = ("BF16", [size])
    made.files["tokenizer.json"] = make_bytes_tokenizer()
    made.files["tokenizer_config.json"] = {"eos_token": "<|im_end|>", "chat_template": TEMPLATE}
    return made


def make_bert() -> Made:
    """BertModel with WordPiece in tokenizer.json."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{number}" for number in range(35))]
    shapes: dict[str, list[int]] = {
        "embeddings.word_embeddings.weight": [len(words), HIDDEN],
        "embeddings.position_embeddings.weight": [64, HIDDEN],
        "embeddings.token_type_embeddings.weight": [2, HIDDEN],
        "embeddings.LayerNorm.weight": [HIDDEN],
        "embeddings.LayerNorm.bias": [HIDDEN],
    }
    for layer in range(LAYERS):
        base = f"encoder.layer.{layer}."
        for name, rows, columns in (
            ("attention.self.query", HIDDEN, HIDDEN),
            ("attention.self.key", HIDDEN, HIDDEN),
            ("attention.self.value", HIDDEN, HIDDEN),
            ("attention.output.dense", HIDDEN, HIDDEN),
            ("intermediate.dense", INNER, HIDDEN),
            ("output.dense", HIDDEN, INNER),
        ):
            shapes[f"{base}{name}.weight"] = [rows, columns]
            shapes[f"{base}{name}.bias"] = [rows]
        for name in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{base}{name}.weight": [HIDDEN], f"{base}{name}.bias": [HIDDEN]}
    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "max_position_embeddings": 64,
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "vocab_size": len(words),
    }
    tokenizer = {
        "version": "1.0",
        "added_tokens": [added(id, word) for id, word in enumerate(words[:5])],
        "normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True,
                       "strip_accents": None, "lowercase": True},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": None,
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                  "max_input_chars_per_word": 100, "vocab": {word: id for id, word in enumerate(words)}},
    }  # fmt: skip
    files = {"tokenizer.json": tokenizer, "tokenizer_config.json": {"cls_token": "[CLS]"}}
    return Made(config, {name: ("F32", shape) for name, shape in shapes.items()}, files)


def make_bytes_tokenizer() -> dict[str, Any]:
    """tokenizer.json of a byte-level BPE: the 256 bytes, one merge, three added tokens."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    alphabet = [chr(byte) for byte in printable] + [chr(256 + number) for number in range(len(others))]
    vocabulary = {character: id for id, character in enumerate(alphabet)} | {"th": 256}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            added(257, "<|endoftext|>"), added(258, "<|im_start|>"), added(259, "<|im_end|>")
        ],
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True,
                          "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
                  "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False,
                  "vocab": vocabulary, "merges": ["t h"]},
    }  # fmt: skip


def added(id: int, content: str, *, special: bool = True) -> dict[str, Any]:
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    return {"id": id, "content": content, **flags, "special": special}


def make_sentencepiece(count: int) -> bytes:
    """A SentencePiece BPE model of `count` pieces."""
    pieces = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    pieces += [(f"\u2581{chr(97 + number % 26)}{number}", -float(number), 1) for number in range(count - 3)]
    packed = [
        pack(1, pack(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for piece, score, kind in pieces
    ]
    # Trainer: model_type BPE. Normalizer: identity, dummy prefix.
    return b"".join([*packed, pack(2, b"\x18\x02"), pack(3, pack(1, b"identity") + b"\x18\x01\x20\x00")])
