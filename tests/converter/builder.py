"""Model directories from the specs of golden/converter, by the formula in its README (vectorised)."""

from __future__ import annotations

import hashlib
import json
import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

SIZES = {"BF16": 2, "F16": 2, "F32": 4, "U8": 1, "I8": 1, "I32": 4, "I64": 8, "F8_E4M3": 1, "F8_E5M2": 1}
NAN = {"F32": 0x7FC00000, "BF16": 0x7FC0, "F16": 0x7E00}


def mix(number: int, count: int) -> np.ndarray:
    """The 32-bit values of tensor `number`."""
    index = np.arange(count, dtype=np.uint64)
    x = (index * np.uint64(2654435761) + np.uint64(number * 40503 + 12345)).astype(np.uint32)
    x ^= x >> np.uint32(15)
    x *= np.uint32(2246822519)
    x ^= x >> np.uint32(13)
    x *= np.uint32(3266489917)
    x ^= x >> np.uint32(16)
    return x


def make_tensor(number: int, spec: Mapping[str, Any]) -> bytes:
    """The bytes of tensor `number` of a spec."""
    count = int(np.prod(spec["shape"], dtype=np.int64))
    dtype = spec["dtype"]
    if spec.get("fill") == "arange":
        return np.arange(count, dtype={"I64": "<i8", "I32": "<i4", "F32": "<f4"}[dtype]).tobytes()
    if "values" in spec:
        return np.asarray(spec["values"], dtype={"I64": "<i8", "I32": "<i4"}[dtype]).tobytes()
    if "groups" in spec:  # g_idx of GPTQ: neighbours in a group, or (negative) every n-th input
        index, groups = np.arange(count), spec["groups"]
        return (index % -groups if groups < 0 else index * groups // count).astype("<i4").tobytes()
    x = mix(number, count)
    if dtype in ("U8", "I8"):
        return (x >> np.uint32(24)).astype(np.uint8).tobytes()
    if dtype.startswith("F8_"):
        return (x >> np.uint32(24) & np.uint32(0xBB)).astype(np.uint8).tobytes()  # never NaN, never infinite
    if dtype == "I32":
        return x.view(np.int32).tobytes()
    w = (x >> np.uint32(8)).astype(np.float64) / 2.0**24 - 0.5
    if spec.get("power", 1) == 3:
        w = ((w * w) * w) * 4
    v = w * spec["scale"]
    if spec.get("offset", 0) != 0:
        v = v + spec["offset"]
    values = v.astype(np.float32)
    marked = []
    for item in spec.get("set", ()):
        if item["value"] == "nan":
            marked.append(item["index"])
        else:
            values[item["index"]] = np.float32(float(item["value"]))
    bits = encode(values, dtype)
    for index in marked:
        bits[index] = NAN[dtype]
    return bits.tobytes()


def encode(values: np.ndarray, dtype: str) -> np.ndarray:
    if dtype == "F32":
        return values.view(np.uint32).copy()
    if dtype == "F16":
        with np.errstate(over="ignore"):
            return values.astype(np.float16).view(np.uint16)
    bits = values.view(np.uint32)
    return ((bits + (np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1)))) >> np.uint32(16)).astype(
        np.uint16
    )


def build(golden: Path, spec: Mapping[str, Any], parent: Path) -> Path:
    """Make the directory of `spec` inside `parent`; an existing one is taken as it is."""
    folder = parent / spec["directory"]
    if folder.exists():
        return folder
    making = parent / (spec["directory"] + ".making")
    making.mkdir(parents=True)
    if spec.get("config") is not None:
        write_json(making / "config.json", spec["config"])
    if spec.get("generation_config") is not None:
        write_json(making / "generation_config.json", spec["generation_config"])
    for name in spec.get("tokenizer") or ():
        for file in (golden / "converter" / "tokenizers" / name).iterdir():
            # Not copy2: the golden files are read-only and the temporary folder must be removable.
            shutil.copyfile(file, making / file.name)
    for name, content in (spec.get("files") or {}).items():
        path = making / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            write_json(path, content)
    write_shards(spec, making)
    making.rename(folder)
    return folder


def write_shards(spec: Mapping[str, Any], folder: Path) -> None:
    tensors = list(enumerate(spec.get("tensors") or ()))
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(spec.get("shards") or ()):
        header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
        offset = 0
        mine = [(t, tensor) for t, tensor in tensors if tensor.get("shard", 0) == number]
        for _, tensor in mine:
            size = int(np.prod(tensor["shape"], dtype=np.int64)) * SIZES[tensor["dtype"]]
            header[tensor["name"]] = {
                "dtype": tensor["dtype"],
                "shape": tensor["shape"],
                "data_offsets": [offset, offset + size],
            }
            offset += size
            if shard.get("indexed", True):
                weight_map[tensor["name"]] = shard["file"]
                total += size
        if shard.get("absent"):
            continue
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / shard["file"]).open("wb") as file:
            file.write(struct.pack("<Q", len(text)) + text)
            for t, tensor in mine:
                file.write(make_tensor(t, tensor))
            if "truncate" in shard:
                file.truncate(shard["truncate"])
    if spec.get("index"):
        weight_map |= spec.get("index_extra") or {}
        for name in spec.get("index_drop") or ():
            weight_map.pop(name, None)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(folder / "model.safetensors.index.json", index)


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
