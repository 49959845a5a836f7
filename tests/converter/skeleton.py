"""Model directories from the golden specs with sparse files where the weights would be: all that a check may
read."""

from __future__ import annotations

import json
import math
import shutil
import struct
from pathlib import Path
from typing import Any

BYTES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I32": 4, "I64": 8}


def load_spec(golden: Path, kind: str, name: str) -> dict[str, Any]:
    """The spec `name` of the folder `kind` ("cases" or "errors")."""
    spec: dict[str, Any] = json.loads((golden / "converter" / kind / f"{name}.json").read_text("utf-8"))
    return spec


def build(golden: Path, spec: dict[str, Any], parent: Path) -> Path:
    """The directory of `spec` under `parent`; weights are holes."""
    folder = parent / spec["directory"]
    folder.mkdir(parents=True)
    for name in ("config", "generation_config"):
        if spec.get(name) is not None:
            (folder / f"{name}.json").write_text(json.dumps(spec[name], ensure_ascii=False), "utf-8")
    for tokenizer in spec["tokenizer"]:
        for file in (golden / "converter" / "tokenizers" / tokenizer).iterdir():
            shutil.copyfile(file, folder / file.name)
    for name, content in spec.get("files", {}).items():
        text = content if isinstance(content, str) else json.dumps(content, ensure_ascii=False)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text, "utf-8")
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(spec["shards"]):
        tensors = [tensor for tensor in spec["tensors"] if tensor.get("shard", 0) == number]
        size = write_holes(folder / shard["file"], tensors, shard)
        if shard.get("indexed", True):
            weight_map |= {tensor["name"]: shard["file"] for tensor in tensors}
            total += size
    if spec.get("index"):
        weight_map |= spec.get("index_extra", {})
        for name in spec.get("index_drop", []):
            weight_map.pop(name)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    return folder


def write_holes(path: Path, tensors: list[dict[str, Any]], shard: dict[str, Any]) -> int:
    """A safetensors file whose data is a hole; returns the bytes of its data."""
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        size = math.prod(tensor["shape"]) * BYTES[tensor["dtype"]]
        span = [offset, offset + size]
        header[tensor["name"]] = {"dtype": tensor["dtype"], "shape": tensor["shape"], "data_offsets": span}
        offset += size
    if not tensors and "truncate" not in shard:
        return 0
    if shard.get("absent"):
        return offset
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + offset)
        if "truncate" in shard:
            file.truncate(shard["truncate"])
    return offset
