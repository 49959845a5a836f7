"""The GGUF header reader on good, damaged and hostile files."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rfctl.core.gguf_header import GgufArray, GgufError, read_header, shortest_float32


def write_sample(path: Path) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(2048)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_token_list(["a", "知", "<|im_end|>"] * 40)
    writer.add_array("llama.rope.dimension_sections", [1, 2, 3])
    writer.add_tensor("token_embd.weight", numpy.ones((4, 64), dtype=numpy.float16))
    writer.add_tensor("blk.0.q.weight", numpy.zeros((2, 34), dtype=numpy.uint8), raw_dtype=8)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_sample(tmp_path_factory.mktemp("gguf") / "sample.gguf")


def test_agrees_with_the_reference_reader(sample: Path) -> None:
    header = read_header(sample)
    reference = gguf.GGUFReader(sample)
    assert header.architecture == "llama"
    assert header.integer("llama.context_length") == 2048
    assert header.values["llama.attention.layer_norm_rms_epsilon"] == 1e-5
    assert header.array("tokenizer.ggml.tokens") == GgufArray("string", 120, None)
    assert header.array("llama.rope.dimension_sections") == GgufArray("int32", 3, (1, 2, 3))
    assert header.data_offset == reference.data_offset
    found = [(t.name, t.type_name, t.shape, t.size, header.data_offset + t.offset) for t in header.tensors]
    assert found == [
        (t.name, t.tensor_type.name, tuple(int(n) for n in t.shape), t.n_bytes, t.data_offset)
        for t in reference.tensors
    ]
    assert header.parameter_count == 4 * 64 + 2 * 32
    assert header.first_beyond_end() is None
    header.check_complete(sample)


def test_keeps_whole_arrays_on_request(sample: Path) -> None:
    tokens = read_header(sample, array_limit=None).array("tokenizer.ggml.tokens")
    assert tokens is not None
    assert tokens.values == ("a", "知", "<|im_end|>") * 40


def test_missing_data_names_the_tensor(sample: Path, tmp_path: Path) -> None:
    whole = sample.read_bytes()
    header = read_header(sample)
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(whole[: header.data_offset + 10])
    tensor = read_header(cut).first_beyond_end()
    assert tensor is not None
    assert tensor.name == "token_embd.weight"
    with pytest.raises(GgufError, match=r"token_embd\.weight") as error:
        read_header(cut).check_complete(cut)
    assert error.value.id == "gguf.data-truncated"


def test_every_cut_in_the_header_is_an_error(sample: Path, tmp_path: Path) -> None:
    whole = sample.read_bytes()
    header = read_header(sample)
    last = header.data_offset - header.alignment
    for size in [*range(40), *range(40, last, 17)]:
        cut = tmp_path / "cut.gguf"
        cut.write_bytes(whole[:size])
        with pytest.raises(GgufError) as error:
            read_header(cut)
        assert error.value.id in {"gguf.magic", "gguf.header-truncated", "gguf.count"}


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def build(
    values: Sequence[bytes] = (), tensors: Sequence[bytes] = (), version: int = 3, pad: int = 256
) -> bytes:
    counts = struct.pack("<IQQ", version, len(tensors), len(values))
    return b"GGUF" + counts + b"".join(values) + b"".join(tensors) + b"\0" * pad


def tensor(name: bytes = b"t", shape: tuple[int, ...] = (4,), type_id: int = 0, offset: int = 0) -> bytes:
    extents = struct.pack(f"<{len(shape)}Q", *shape)
    return text(name) + struct.pack("<I", len(shape)) + extents + struct.pack("<IQ", type_id, offset)


@pytest.mark.parametrize(
    ("content", "id"),
    [
        (b"", "gguf.magic"),
        (b"XXXX" + b"\0" * 60, "gguf.magic"),
        (build(version=4), "gguf.version"),
        (build(version=1), "gguf.version"),
        (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "gguf.byte-order"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0), "gguf.count"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "gguf.count"),
        (build([text(b"a") + struct.pack("<I", 99)]), "gguf.value-type"),
        (build([text(b"a") + struct.pack("<IIQ", 9, 9, 1)]), "gguf.value-type"),
        (build([text(b"a") + struct.pack("<IIQ", 9, 8, 2**61)]), "gguf.header-truncated"),
        (build([text(b"a") + struct.pack("<IIQ", 9, 4, 2**63)]), "gguf.header-truncated"),
        (build([text(b"a") + struct.pack("<IQ", 8, 2**40)]), "gguf.header-truncated"),
        (build([text(b"a") + struct.pack("<II", 4, 1)] * 2), "gguf.key-twice"),
        (build([struct.pack("<Q", 2**50)]), "gguf.name-too-long"),
        (build([text(b"general.alignment") + struct.pack("<II", 4, 12)]), "gguf.alignment"),
        (build([text(b"general.alignment") + struct.pack("<II", 4, 0)]), "gguf.alignment"),
        (build([], [tensor(b"n" * 64)]), "gguf.name-too-long"),
        (build([], [tensor(shape=(1, 1, 1, 1, 1))]), "gguf.tensor-shape"),
        (build([], [tensor(shape=(2**40, 2**40))]), "gguf.tensor-shape"),
        (build([], [tensor(shape=(0,))]), "gguf.tensor-shape"),
        (build([], [tensor(shape=(31,), type_id=8)]), "gguf.tensor-shape"),
        (build([], [tensor(type_id=4)]), "gguf.tensor-type"),
        (build([], [tensor(offset=7)]), "gguf.tensor-offset"),
        (build([], [tensor(), tensor()]), "gguf.tensor-twice"),
    ],
)
def test_hostile_files(content: bytes, id: str, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(content)
    with pytest.raises(GgufError) as error:
        read_header(path, array_limit=None)
    assert error.value.id == id
    for language in ("en", "zh"):
        message = error.value.text(language).message
        assert "{" not in message
        assert message != id


@settings(max_examples=300, deadline=1000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_damage_gives_a_header_or_a_gguf_error(sample: Path, tmp_path: Path, data: Any) -> None:
    content = bytearray(sample.read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged.gguf"
    path.write_bytes(content)
    try:
        header = read_header(path, array_limit=None)
    except GgufError as error:
        assert error.id.startswith("gguf.")
    else:
        header.first_beyond_end()


@given(st.floats(width=32, allow_nan=False))
def test_shortest_float32_is_the_same_float32(number: float) -> None:
    short = shortest_float32(number)
    assert struct.pack("<f", short) == struct.pack("<f", number)
    assert len(repr(short)) <= len(repr(number))
