"""`model verify` and `model diff` below the command line: what is found in files that were tampered with."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensor
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny import make_model

from rfctl.converter.compare import compare_files
from rfctl.converter.compare_source import compare_source, plan_again
from rfctl.converter.convert import convert, make_plan
from rfctl.converter.file_check import check_file
from rfctl.converter.gguf_file import open_gguf
from rfctl.converter.pair import sints, text, texts, uint
from rfctl.converter.plan import Plan, set_pair
from rfctl.converter.split import SplitRule
from rfctl.converter.writer import write_plan
from rfctl.core.error import RfctlError

VICTIM = "blk.1.ffn_down.weight"


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("compare") / "Tiny-7M"
    return make_model(folder, golden / "converter" / "tokenizers" / "gpt2")


@pytest.fixture
def make(model: Path, tmp_path: Path) -> Callable[..., Path]:
    def run(
        outtype: str = "f16", name: str = "model.gguf", change: Callable[[Plan], Plan] | None = None
    ) -> Path:
        plan = make_plan(model, outtype)
        write_plan(change(plan) if change else plan, tmp_path / name)
        return tmp_path / name

    return run


def ids(path: Path) -> list[str]:
    return [finding.id for finding in check_file(open_gguf(path)).findings if finding.severity != "info"]


def flip(path: Path, name: str, offset: int) -> None:
    """Change one bit of a tensor."""
    place = open_gguf(path).tensors[name].data
    with path.open("r+b") as file:
        file.seek(place.offset + offset)
        byte = file.read(1)[0]
        file.seek(place.offset + offset)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("outtype", ["f32", "f16", "bf16", "q8_0", "Q4_K_M", "Q3_K_M", "Q4_0"])
def test_a_true_conversion_verifies(outtype: str, model: Path, make: Callable[..., Path]) -> None:
    file = open_gguf(make(outtype))
    assert check_file(file).is_sound
    found = compare_source(file, plan_again(file, model))
    assert found.is_same
    assert found.same_count == found.tensor_count == 20


def test_a_directory_of_another_name_gives_the_same_file(
    model: Path, make: Callable[..., Path], tmp_path: Path
) -> None:
    file = open_gguf(make("f16"))
    moved = tmp_path / "Other-Name-9B-Chat-v2"
    shutil.copytree(model, moved)
    assert compare_source(file, plan_again(file, moved)).is_same


def test_pieces_verify_as_one(model: Path, tmp_path: Path) -> None:
    done = convert(model, tmp_path / "m.gguf", outtype="Q6_K", split=SplitRule(max_tensors=6))
    file = open_gguf(done.path)
    assert check_file(file).is_sound
    assert compare_source(file, plan_again(file, model)).is_same
    with pytest.raises(RfctlError, match=r"gguf\.piece-first"):
        open_gguf(done.files[1].path)
    done.files[2].path.unlink()
    with pytest.raises(RfctlError, match=r"gguf\.piece-missing"):
        open_gguf(done.path)


@pytest.mark.parametrize(("outtype", "index"), [("f16", 50), ("q8_0", 85)])
def test_one_changed_byte_is_found(outtype: str, index: int, model: Path, make: Callable[..., Path]) -> None:
    path = make(outtype)
    flip(path, VICTIM, 100)
    file = open_gguf(path)
    (found,) = compare_source(file, plan_again(file, model)).tensors
    # 34 bytes hold 32 weights of Q8_0: byte 100 is the code 30 of the third block.
    wanted = {"f16": 50, "q8_0": 2 * 32 + 30}[outtype]
    assert (found.name, found.kind, found.count, found.first_index) == (VICTIM, "values", 1, wanted)
    assert found.max_abs is not None and found.max_abs > 0
    assert found.rms == pytest.approx(found.max_abs / (64 * 96) ** 0.5)


def test_what_is_missing_extra_or_of_another_shape(model: Path, make: Callable[..., Path]) -> None:
    def change(plan: Plan) -> Plan:
        tensors = [tensor for tensor in plan.tensors if tensor.name != "output_norm.weight"]
        up = next(tensor for tensor in tensors if tensor.name == "blk.0.ffn_up.weight")
        tensors.append(replace(up, name="blk.0.more.weight"))
        down = next(tensor for tensor in tensors if tensor.name == "blk.0.ffn_down.weight")
        tensors[tensors.index(up)] = replace(down, name=up.name)
        pairs = [pair for pair in plan.pairs if pair.key != "llama.context_length"]
        return replace(plan, tensors=tuple(tensors), pairs=(*pairs, text("my.key", "x")))

    file = open_gguf(make(change=change))
    found = compare_source(file, plan_again(file, model))
    assert {(item.name, item.kind) for item in found.tensors} == {
        ("output_norm.weight", "missing"),
        ("blk.0.more.weight", "extra"),
        ("blk.0.ffn_up.weight", "shape"),
    }
    assert {(item.key, item.kind) for item in found.keys} == {
        ("llama.context_length", "missing"),
        ("my.key", "extra"),
    }
    without = compare_source(file, plan_again(file, model), with_keys=False)
    assert without.keys == ()


def test_a_mix_of_types_of_ones_own_is_no_difference(model: Path, make: Callable[..., Path]) -> None:
    def change(plan: Plan) -> Plan:
        return replace(
            plan,
            tensors=tuple(
                replace(tensor, type="Q4_0") if tensor.name == VICTIM else tensor for tensor in plan.tensors
            ),
        )

    file = open_gguf(make("q8_0", change=change))
    assert compare_source(file, plan_again(file, model)).is_same


def test_adapter(model: Path, tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = '{"peft_type": "LORA", "r": 2, "lora_alpha": 4}'
    (adapter / "adapter_config.json").write_text(config, "utf-8")
    module = "base_model.model.model.layers.0.self_attn.o_proj"
    tensors = {
        f"{module}.lora_A.weight": ("F32", np.full((2, 64), 0.5, np.float32)),
        f"{module}.lora_B.weight": ("F32", np.full((64, 2), 0.5, np.float32)),
    }
    safetensor.write_safetensors(adapter / "adapter_model.safetensors", tensors)
    convert(model, tmp_path / "a.gguf", adapter=adapter)
    file = open_gguf(tmp_path / "a.gguf")
    assert compare_source(file, plan_again(file, model, adapter), with_keys=False).is_same
    (found,) = compare_source(file, plan_again(file, model), with_keys=False).tensors
    assert found.name == "blk.0.attn_output.weight"


def test_two_files(make: Callable[..., Path]) -> None:
    first, second = open_gguf(make("f16", "a.gguf")), open_gguf(make("q8_0", "b.gguf"))
    assert compare_files(first, first).is_same
    found = compare_files(first, second)
    assert [(item.key, item.first, item.second) for item in found.keys] == [
        ("general.file_type", "uint32 1", "uint32 7")
    ]
    assert {item.kind for item in found.tensors} == {"type"}
    assert all(item.max_abs and item.rms and item.rms < item.max_abs < 0.01 for item in found.tensors)
    assert found.same_count + len(found.tensors) == found.tensor_count == 20


@pytest.mark.parametrize(
    ("outtype", "tensor", "value"),
    [
        ("f16", VICTIM, "inf"),
        ("f32", "blk.0.attn_norm.weight", "NaN"),
        ("Q4_K_M", "token_embd.weight", "scale"),
    ],
)
def test_values_that_are_not_finite(
    outtype: str, tensor: str, value: str, make: Callable[..., Path], tmp_path: Path
) -> None:
    path = make(outtype)
    found = open_gguf(path).tensors[tensor]
    bits = {"f16": b"\0\x7c", "f32": b"\0\0\xc0\x7f", "Q4_K_M": b"\xff\x7f"}[outtype]
    row = min(5, found.rows - 1)
    at = {"Q6_K": 208}.get(found.info.type_name, 0)
    with path.open("r+b") as file:
        file.seek(found.data.offset + row * found.row_bytes + at)
        file.write(bits)
    (finding,) = [item for item in check_file(open_gguf(path)).findings if item.severity == "error"]
    assert finding.id == "file.not-finite"
    assert finding.params == {"tensor": tensor, "row": row, "value": value}


@pytest.mark.parametrize(
    ("key", "id"),
    [
        (uint("tokenizer.ggml.eos_token_id", 99_999), "file.token-id"),
        (sints("tokenizer.ggml.token_type", [1, 2]), "file.vocabulary-length"),
        (texts("tokenizer.ggml.tokens", ["a", "b"]), "file.rows"),
        (uint("llama.block_count", 3), "file.block-missing"),
        (text("general.architecture", ""), "file.architecture-missing"),
    ],
)
def test_keys_that_do_not_fit(key: object, id: str, make: Callable[..., Path]) -> None:
    path = make(change=lambda plan: replace(plan, pairs=tuple(set_pair(plan.pairs, key))))
    assert id in ids(path)


@pytest.mark.parametrize(
    ("dropped", "id"),
    [("tokenizer.ggml.merges", "file.merges-missing"), ("tokenizer.ggml.model", "file.vocabulary-missing")],
)
def test_keys_that_are_missing(dropped: str, id: str, make: Callable[..., Path]) -> None:
    def change(plan: Plan) -> Plan:
        return replace(plan, pairs=tuple(pair for pair in plan.pairs if pair.key != dropped))

    assert ids(make(change=change)) == [id]


def test_cut_off_and_trailing(make: Callable[..., Path]) -> None:
    path = make()
    with path.open("ab") as file:
        file.write(bytes(64))
    assert ids(path) == ["file.trailing"]
    os.truncate(path, path.stat().st_size - 200)
    with pytest.raises(RfctlError, match=r"gguf\.data-truncated"):
        open_gguf(path)
    with pytest.raises(RfctlError, match=r"model\.file-unreadable"):
        open_gguf(path.with_name("none.gguf"))


@given(position=st.integers(0, 2500), data=st.binary(min_size=1, max_size=12))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_damaged_header_never_crashes(
    position: int, data: bytes, make: Callable[..., Path], tmp_path: Path
) -> None:
    path = tmp_path / "model.gguf"
    original = path.read_bytes() if path.exists() else make().read_bytes()
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(original[:position] + data + original[position + len(data) :])
    try:
        file = open_gguf(damaged)
        check_file(file)
        compare_files(open_gguf(path), file)
    except RfctlError:
        pass
