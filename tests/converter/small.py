"""Small models of many families from the specs in `data/family`, by the formula of `builder.py`."""

from __future__ import annotations

import json
import struct
from base64 import b64encode
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from builder import build

FOLDER = Path(__file__).parent / "data" / "family"


def load_small(name: str) -> dict[str, Any]:
    """The spec `name`: directory, config, tokenizer (golden names), files, dtype, layers, tensors (name or
    `{layer}` pattern -> shape), outtypes, for some arguments (of the reference), unigram, pieces or ranks
    (size of a made-up vocabulary) or remote (the file of `remote/` that stands in for the model's own
    tokenizer code while the reference is recorded), and what the reference wrote: source, date, outputs.
    """
    spec: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text("utf-8"))
    return spec


def make_small(golden: Path, spec: Mapping[str, Any], parent: Path) -> Path:
    """The model directory of a spec inside `parent`."""
    tensors = []
    for name, given in spec["tensors"].items():
        if isinstance(given, dict):  # a part of a quantized tensor: all that `builder.py` wants to know
            layers = range(spec["layers"]) if "{layer}" in name else [0]
            tensors += [{"name": name.replace("{layer}", str(layer))} | given for layer in layers]
            continue
        shape = given
        # Vectors lie around one: norms, and what is no norm does not mind.
        value = {"scale": 0.3, "offset": 1.0} if len(shape) == 1 else {"scale": 0.12}
        layers = range(spec["layers"]) if "{layer}" in name else [0]
        for layer in layers:
            tensor = {"name": name.replace("{layer}", str(layer)), "shape": shape, "dtype": spec["dtype"]}
            tensors.append(tensor | value)
    shard = {"file": "model.safetensors"}
    folder = build(golden, {**spec, "tensors": tensors, "shards": [shard], "index": False}, parent)
    if "unigram" in spec:
        (folder / "sentencepiece.bpe.model").write_bytes(make_unigram(spec["unigram"]))
    if "pieces" in spec:
        (folder / "tokenizer.model").write_bytes(make_pieces(spec["pieces"]))
    if "ranks" in spec:
        (folder / "tokenizer.model").write_bytes(make_ranks(spec["ranks"]))
    return folder


def make_unigram(count: int) -> bytes:
    """A SentencePiece Unigram model of `count` pieces, without normalisation."""
    control = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    words = [(f"\u2581w{number}", -number / 8, 1) for number in range(count - len(control))]
    pieces = pack_pieces(control + words)
    # Trainer: model_type Unigram. Normalizer: add_dummy_prefix, remove_extra_whitespaces off.
    return b"".join([*pieces, pack(2, b"\x18\x01"), pack(3, pack(1, b"identity") + b"\x18\x01\x20\x00")])


def make_pieces(count: int) -> bytes:
    """A SentencePiece BPE model of `count` pieces, 259 of them the special ones and the bytes."""
    fixed = [("<unk>", 0.0, 2), ("<s>", 0.0, 3), ("</s>", 0.0, 3)]
    fixed += [(f"<0x{byte:02X}>", 0.0, 6) for byte in range(256)]
    words = [(f"\u2581w{number}", -number / 8, 1) for number in range(count - len(fixed))]
    # Trainer: model_type BPE, byte_fallback. Normalizer as above.
    trainer = pack(2, b"\x18\x02\x98\x02\x01")
    return b"".join(
        [*pack_pieces(fixed + words), trainer, pack(3, pack(1, b"identity") + b"\x18\x01\x20\x00")]
    )


def pack_pieces(pieces: list[tuple[str, float, int]]) -> list[bytes]:
    """(text, score, type) of every piece as fields of a SentencePiece model."""
    return [
        pack(1, pack(1, piece.encode()) + b"\x15" + struct.pack("<f", score) + bytes([0x18, kind]))
        for piece, score, kind in pieces
    ]


def make_ranks(count: int) -> bytes:
    """`count` ranks, a line each: the bytes, then pairs of an even and an odd byte, then twos of those, and
    so on, so that every token has one pair of parts.
    """
    level = [bytes([byte]) for byte in range(256)]
    tokens, left = list(level), [token for token in level if token[0] % 2 == 0]
    right = [token for token in level if token[0] % 2]
    while len(tokens) < count:
        size = min(count - len(tokens), len(left))
        made = [left[number] + right[number * 5 % len(right)] for number in range(size)]
        tokens += made
        left, right = made[::2], made[1::2]
    lines = (f"{b64encode(token).decode()} {rank}\n" for rank, token in enumerate(tokens))
    return "".join(lines).encode()


def pack(field: int, data: bytes) -> bytes:
    """A field of bytes in protobuf's encoding."""
    size, length = b"", len(data)
    while length >= 0x80:
        size, length = size + bytes([length & 0x7F | 0x80]), length >> 7
    return bytes([field << 3 | 2]) + size + bytes([length]) + data
