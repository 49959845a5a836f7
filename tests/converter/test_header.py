"""Safetensors headers from anyone: an error with an id, a bounded read, or tensors that lie inside the
file.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfctl.converter.header import DTYPE_BYTES, parse_header, read_header
from rfctl.converter.source import list_shards, open_source, read_index
from rfctl.core.error import RfctlError

FILE = Path("model.safetensors")
SETTINGS = settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


def write(path: Path, header: bytes, data: bytes = b"", length: int | None = None) -> Path:
    path.write_bytes(struct.pack("<Q", len(header) if length is None else length) + header + data)
    return path


def entry(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def refuse(path: Path, id: str) -> None:
    with pytest.raises(RfctlError) as caught:
        read_header(path)
    assert caught.value.id == id


def test_sound_file(tmp_path: Path) -> None:
    header = json.dumps(
        {"__metadata__": {"format": "pt"}, "b": entry("F16", [2, 3], 4, 16), "a": entry("F32", [], 0, 4)}
    ).encode()
    first, second = read_header(write(tmp_path / "x", header, bytes(16)))
    assert (first.name, first.shape, first.offset, first.size, first.count) == (
        "a",
        (),
        8 + len(header),
        4,
        1,
    )
    assert (second.name, second.dtype, second.offset) == ("b", "F16", 8 + len(header) + 4)


@pytest.mark.parametrize("length", [0xFFFF_FFFF_FFFF_FFFF, 1 << 63, 100_000_001])
def test_hostile_length_reads_nothing(tmp_path: Path, length: int) -> None:
    refuse(write(tmp_path / "x", b"{}", length=length), "model.shard-malformed")


@pytest.mark.parametrize("content", [b"", b"\0" * 7])
def test_shorter_than_the_length(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x").write_bytes(content)
    refuse(tmp_path / "x", "model.shard-truncated")


def test_length_beyond_the_file(tmp_path: Path) -> None:
    refuse(write(tmp_path / "x", b"{}", length=1000), "model.shard-truncated")


def test_data_cut_off(tmp_path: Path) -> None:
    header = json.dumps({"a": entry("F32", [4], 0, 16)}).encode()
    refuse(write(tmp_path / "x", header, bytes(15)), "model.shard-truncated")


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b"nul",
        b'{"a": 1}',
        b"[" * 100_000,
        b'{"a":' * 50_000,
        b'{"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}, "a": {}}',
        json.dumps({"a": entry("F99", [1], 0, 4)}).encode(),
        json.dumps({"a": entry("F32", [-1], 0, 4)}).encode(),
        json.dumps({"a": entry("F32", [True], 0, 4)}).encode(),
        json.dumps({"a": entry("F32", [1.0], 0, 4)}).encode(),  # type: ignore[list-item]
        json.dumps({"a": entry("F32", [1 << 62], 0, 4)}).encode(),
        json.dumps({"a": entry("F32", [1 << 40, 1 << 40], 0, 4)}).encode(),
        json.dumps({"a": entry("F32", [1] * 9, 0, 4)}).encode(),
        json.dumps({"a": entry("F32", [1], 4, 0)}).encode(),
        json.dumps({"a": entry("F32", [1], 0, 5)}).encode(),
        json.dumps({"a": entry("F32", [2], 0, 8), "b": entry("F32", [1], 4, 8)}).encode(),
        json.dumps({"a": {"dtype": "F32", "shape": [1]}}).encode(),
        json.dumps({"a": {"dtype": ["F32"], "shape": [1], "data_offsets": [0, 4]}}).encode(),
        b"\xff\xfe{}",
    ],
)
def test_malformed_header(tmp_path: Path, header: bytes) -> None:
    refuse(write(tmp_path / "x", header, bytes(64)), "model.shard-malformed")


@SETTINGS
@given(st.binary(max_size=400), st.integers(0, 1 << 64 - 1))
def test_any_bytes(tmp_path: Path, content: bytes, length: int) -> None:
    path = tmp_path / "x"
    for text in (content, struct.pack("<Q", length % 500) + content):
        path.write_bytes(text)
        try:
            tensors = read_header(path)
        except RfctlError as error:
            assert error.id in ("model.shard-truncated", "model.shard-malformed")
        else:
            assert all(tensor.offset + tensor.size <= len(text) for tensor in tensors)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 1 << 70) | st.floats() | st.sampled_from([*DTYPE_BYTES, "x"]),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "a", "b"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@SETTINGS
@given(st.dictionaries(st.text(max_size=5), JSON, max_size=4))
def test_any_json(header: dict[str, Any]) -> None:
    text = json.dumps(header).encode()
    try:
        tensors = parse_header(FILE, text)
    except RfctlError as error:
        assert error.id == "model.shard-malformed"
    else:
        assert {tensor.name for tensor in tensors} == set(header) - {"__metadata__"}


@SETTINGS
@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(DTYPE_BYTES)), st.lists(st.integers(0, 5), max_size=4)), max_size=6
    )
)
def test_sound_headers_are_read(tmp_path: Path, specs: list[tuple[str, list[int]]]) -> None:
    header, at = {}, 0
    for number, (dtype, shape) in enumerate(specs):
        size = DTYPE_BYTES[dtype]
        for extent in shape:
            size *= extent
        header[f"t{number}"] = entry(dtype, shape, at, at + size)
        at += size
    path = write(tmp_path / "x", json.dumps(header).encode(), bytes(at))
    tensors = read_header(path)
    assert [(tensor.name, list(tensor.shape)) for tensor in tensors] == [
        (name, header[name]["shape"]) for name in sorted(header)
    ]
    assert sum(tensor.size for tensor in tensors) == at


@pytest.mark.parametrize(
    "name",
    [
        "../model.safetensors",
        "/etc/model.safetensors",
        "a\\b.safetensors",
        "sub/x.safetensors",
        "x.bin",
        "",
        7,
    ],
)
def test_index_cannot_leave_the_directory(tmp_path: Path, name: Any) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}), "utf-8")
    with pytest.raises(RfctlError) as caught:
        read_index(tmp_path)
    assert caught.value.id == "model.index-malformed"


def test_shards_are_in_name_order_and_missing_ones_listed(tmp_path: Path) -> None:
    index = {"weight_map": {"a": "model-2.safetensors", "b": "model-1.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index), "utf-8")
    (tmp_path / "model-2.safetensors").write_bytes(b"")
    assert [path.name for path in list_shards(tmp_path)] == ["model-1.safetensors", "model-2.safetensors"]


@pytest.mark.parametrize("content", ["{", "[]", "null", "1", "[" * 200_000, '{"a": "\\ud800"'])
def test_config_that_is_no_object(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, "utf-8")
    with pytest.raises(RfctlError) as caught:
        open_source(tmp_path)
    assert caught.value.id == "model.json-malformed"


def test_directory_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(RfctlError, match=r"model\.not-found"):
        open_source(tmp_path / "none")
