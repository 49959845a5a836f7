"""Where a GGUF file begins to differ from what a golden record says (independent of the converter's own
code).
"""

from __future__ import annotations

import hashlib
import json
import math
import mmap
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

KINDS = ["UINT8", "INT8", "UINT16", "INT16", "UINT32", "INT32", "FLOAT32", "BOOL", "STRING", "ARRAY"]
KINDS += ["UINT64", "INT64", "FLOAT64"]
FORMATS = dict(
    zip(KINDS, ["<B", "<b", "<H", "<h", "<I", "<i", "<f", "<?", "", "", "<Q", "<q", "<d"], strict=True)
)
SHORT_ARRAY, SHORT_TEXT = 16, 400


class Cursor:
    def __init__(self, data: Any) -> None:
        self.data, self.at = data, 0

    def take(self, size: int) -> bytes:
        piece = bytes(self.data[self.at : self.at + size])
        assert len(piece) == size, "file ends early"
        self.at += size
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self) -> str:
        return self.take(self.number("<Q")).decode("utf-8")

    def value(self, kind: str) -> Any:
        return self.text() if kind == "STRING" else self.number(FORMATS[kind])


def describe(cursor: Cursor) -> tuple[str, str, Any]:
    key = cursor.text()
    kind = KINDS[cursor.number("<I")]
    if kind != "ARRAY":
        value = cursor.value(kind)
        if isinstance(value, str) and len(value) > SHORT_TEXT:
            value = {"chars": len(value), "sha256": hashlib.sha256(value.encode()).hexdigest()}
        return key, kind, value
    item = KINDS[cursor.number("<I")]
    count = cursor.number("<Q")
    begin = cursor.at
    values = [cursor.value(item) for _ in range(count)]
    if count <= SHORT_ARRAY:
        return key, f"ARRAY:{item}", values
    raw = hashlib.sha256(bytes(cursor.data[begin : cursor.at])).hexdigest()
    return key, f"ARRAY:{item}", {"n": count, "sha256_raw": raw}


def same(wanted: Any, found: Any) -> bool:
    if isinstance(wanted, dict) and isinstance(found, dict):
        return all(wanted[key] == value for key, value in found.items())
    if isinstance(wanted, float) and isinstance(found, float):
        return wanted == found or (math.isnan(wanted) and math.isnan(found))
    return bool(wanted == found)


def find_difference(path: Path, record: Mapping[str, Any]) -> str | None:
    """The first difference in words, None when the whole file has the recorded size and sha256."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if len(data) == record["size"] and hashlib.sha256(data).hexdigest() == record["sha256"]:
            return None
        return (
            walk(Cursor(data), record)
            or f"size {len(data)}, recorded {record['size']}; no key or tensor differs"
        )


def walk(cursor: Cursor, record: Mapping[str, Any]) -> str | None:
    if "kv" not in record:
        return "differs (record has no keys)"
    cursor.take(4)
    version, tensors, pairs = cursor.number("<I"), cursor.number("<Q"), cursor.number("<Q")
    if version != record["version"]:
        return f"version {version}"
    for number in range(pairs):
        key, kind, value = describe(cursor)
        if number >= len(record["kv"]):
            return f"extra key {key}"
        wanted = record["kv"][number]
        if [key, kind] != wanted[:2] or not same(wanted[2], value):
            return (
                f"key {number}: {json.dumps([key, kind, value])[:300]}, recorded {json.dumps(wanted)[:300]}"
            )
    if pairs != len(record["kv"]):
        return f"key {pairs}: missing, recorded {record['kv'][pairs]}"
    found = []
    for _ in range(tensors):
        name = cursor.text()
        shape = [cursor.number("<Q") for _ in range(cursor.number("<I"))]
        found.append((name, shape, cursor.number("<I"), cursor.number("<Q")))
    start = -(-cursor.at // 32) * 32
    for number, (name, shape, _, offset) in enumerate(found):
        if number >= len(record["tensors"]):
            return f"extra tensor {name}"
        wanted = record["tensors"][number]
        if (name, shape, offset) != (wanted["name"], wanted["shape"], wanted["offset"]):
            return f"tensor {number}: {name} {shape} at {offset}, recorded {wanted}"
        end = found[number + 1][3] if number + 1 < len(found) else len(cursor.data) - start
        body = bytes(cursor.data[start + offset : start + end])
        for padding in range(32):
            if hashlib.sha256(body[: len(body) - padding]).hexdigest() == wanted["sha256"]:
                break
        else:
            return f"data of tensor {number}: {name} ({wanted['type']})"
    if tensors != len(record["tensors"]):
        return f"tensor {tensors}: missing, recorded {record['tensors'][tensors]['name']}"
    return None
