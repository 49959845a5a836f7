"""Quantized checkpoints: rows do not depend on the chunk, what does not fit is refused by id, and no
configuration or header makes it crash. That the values are the reference's is held in `test_family.py`.
"""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builder import make_tensor
from hypothesis import given, settings
from hypothesis import strategies as st
from small import load_small, make_small

from rfctl.cli.main import execute
from rfctl.converter.check import check
from rfctl.converter.convert import make_plan
from rfctl.converter.expression import Slice, count_rows
from rfctl.converter.header import DTYPE_BYTES, SourceTensor
from rfctl.converter.planner import plan_model
from rfctl.converter.source import ModelSource, open_source
from rfctl.converter.source_quantized import dequantize_source
from rfctl.core.catalog import entries
from rfctl.core.error import RfctlError

NAME = "model.layers.0.mlp.down_proj"


class Memory:
    """Tensors that are made where they are asked for."""

    def __init__(self, **values: bytes) -> None:
        self.values = values

    def read(self, tensor: SourceTensor, begin: int, size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        data = self.values.get(tensor.name)
        if data is None:
            spec = {"shape": tensor.shape, "dtype": tensor.dtype, "scale": 0.01, "offset": 0.02}
            data = make_tensor(len(tensor.name), spec)
        assert 0 <= begin <= begin + size <= len(data), "read beyond the tensor"
        return np.frombuffer(data[begin : begin + size], np.uint8).copy()


def tensor(name: str, dtype: str, *shape: int) -> SourceTensor:
    size = int(np.prod(shape, dtype=np.int64)) * DTYPE_BYTES[dtype]
    return SourceTensor(name, dtype, shape, Path("x.safetensors"), 0, size)


def make_source(config: Any, *tensors: SourceTensor) -> ModelSource:
    return ModelSource(
        Path("nowhere"), {"quantization_config": config}, {item.name: item for item in tensors}
    )


def packed(bits: int, weights: Any = None, strategy: str = "group") -> dict[str, Any]:
    plain = {"num_bits": bits, "type": "int", "strategy": strategy, "group_size": 16}
    groups = {"group_0": {"weights": plain if weights is None else weights}}
    return {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": groups}


def integers(*values: int) -> bytes:
    return np.asarray(values, "<i4").tobytes()


GPTQ = (
    tensor(f"{NAME}.qweight", "I32", 8, 40),
    tensor(f"{NAME}.qzeros", "I32", 4, 5),
    tensor(f"{NAME}.scales", "F16", 4, 40),
    tensor(f"{NAME}.g_idx", "I32", 64),
)
PACKED = (
    tensor(f"{NAME}.weight_packed", "I32", 20, 8),
    tensor(f"{NAME}.weight_scale", "BF16", 20, 4),
    tensor(f"{NAME}.weight_shape", "I64", 2),
    tensor(f"{NAME}.weight_zero_point", "I32", 3, 4),
)
FP8 = (
    tensor(f"{NAME}.weight", "F8_E4M3", 3, 20, 50),
    tensor(f"{NAME}.weight_scale_inv", "F32", 3, 3, 4),
)
MXFP4 = (
    tensor("experts.down_proj_blocks", "U8", 2, 5, 3, 16),
    tensor("experts.down_proj_scales", "U8", 2, 5, 3),
)
BITNET = (tensor(f"{NAME}.weight", "U8", 5, 12), tensor(f"{NAME}.weight_scale", "BF16", 1))
READABLE: list[tuple[Any, tuple[SourceTensor, ...], dict[str, bytes]]] = [
    ({"quant_method": "gptq", "bits": 4}, GPTQ, {f"{NAME}.g_idx": integers(*(i % 4 for i in range(64)))}),
    (packed(4), PACKED, {f"{NAME}.weight_shape": np.asarray([20, 64], "<i8").tobytes()}),
    ({"quant_method": "fp8", "weight_block_size": [8, 16]}, FP8, {}),
    ({"quant_method": "mxfp4"}, MXFP4, {}),
    ({"quant_method": "bitnet"}, BITNET, {}),
]


@pytest.mark.parametrize(("config", "tensors", "values"), READABLE)
def test_rows_do_not_depend_on_the_chunk(config: Any, tensors: Any, values: dict[str, bytes]) -> None:
    found = list(dequantize_source(make_source(config, *tensors)).tensors.values())
    assert len(found) == 1
    expression, reader = Slice(found[0]), Memory(**values)
    whole = expression.load(reader, 0, count_rows(expression.shape))
    assert whole.shape[0] == count_rows(expression.shape)
    for begin in range(0, len(whole), 3):
        for end in (begin + 1, min(begin + 7, len(whole))):
            part = expression.load(reader, begin, end)
            assert part.tobytes() == whole[begin:end].tobytes(), (begin, end)


def test_one_value_by_hand() -> None:
    """GPTQ, 4 bits: input 9 of output 2 lies in word 1, bits 4 to 7; its group is 3; zeros count from 1."""
    config, tensors, values = READABLE[0]
    weight = np.frombuffer(make_tensor(1, {"shape": [8, 40], "dtype": "I32"}), "<u4").reshape(8, 40)
    zeros = np.frombuffer(make_tensor(2, {"shape": [4, 5], "dtype": "I32"}), "<u4").reshape(4, 5)
    groups = integers(*(i // 3 % 4 for i in range(64)))
    values = {f"{NAME}.qweight": weight.tobytes(), f"{NAME}.qzeros": zeros.tobytes(), f"{NAME}.g_idx": groups}
    reader = Memory(**values)
    found = dequantize_source(make_source(config, *tensors)).tensors[f"{NAME}.weight"]
    scale = Slice(tensors[2]).load(reader, 3, 4)[0, 2]
    wanted = np.float32(scale) * ((int(weight[1, 2]) >> 4 & 15) - ((int(zeros[3, 0]) >> 8 & 15) + 1))
    assert Slice(found).load(reader, 2, 3)[0, 9] == wanted


GPTQ_4 = {"quant_method": "gptq", "bits": 4}
REFUSED: list[tuple[str, Any, tuple[SourceTensor, ...]]] = [
    ("model.quantized-bitsandbytes", {"load_in_4bit": True}, ()),
    ("model.quantized-bitsandbytes", {"quant_method": "bitsandbytes", "load_in_8bit": True}, ()),
    ("model.quantized-awq", {"quant_method": "awq", "bits": 4}, ()),
    ("model.quantized-gptq", {"quant_method": "gptq", "bits": 3}, GPTQ),
    ("model.quantized-gptq", {"quant_method": "gptq", "bits": True}, GPTQ),
    ("model.quantized-other", {"quant_method": "eetq"}, ()),
    ("model.quantized-other", {"quant_method": ["fp8"]}, ()),
    ("model.quantized-other", {"bits": 4}, ()),
    ("model.quantized-setting", [4], ()),
    ("model.quantized-setting", {"quant_method": "fp8", "weight_block_size": [0, 128]}, FP8),
    ("model.quantized-setting", {"quant_method": "fp8", "weight_block_size": "128x128"}, FP8),
    ("model.quantized-setting", {"quant_method": "compressed-tensors", "config_groups": 3}, ()),
    ("model.quantized-setting", packed(True), PACKED),
    ("model.quantized-setting", packed(4, strategy="tensor"), PACKED),
    ("model.quantized-setting", packed(4, weights={"num_bits": 4, "type": "float"}), PACKED),
    ("model.quantized-format", {**packed(4), "format": "nvfp4-pack-quantized"}, PACKED),
    ("model.quantized-format", {"quant_method": "modelopt", "quant_algo": "NVFP4"}, ()),
    ("model.quantized-scale", {"quant_method": "fp8", "weight_block_size": [8, 10]}, FP8),
    ("model.quantized-scale", {"quant_method": "fp8"}, FP8),
    ("model.quantized-dtype", {"quant_method": "fp8", "weight_block_size": [8, 16]},
     (tensor(f"{NAME}.weight", "I64", 3, 20, 50), FP8[1])),
    ("model.quantized-part-missing", {"quant_method": "fp8", "weight_block_size": [8, 16]}, FP8[1:]),
    ("model.quantized-part-missing", GPTQ_4, GPTQ[:3]),
    ("model.quantized-part-missing", packed(4), PACKED[:2]),
    ("model.quantized-part", packed(4), (*PACKED, tensor(f"{NAME}.weight_g_idx", "I32", 64))),
    ("model.tensor-shape", packed(8), PACKED),
    ("model.tensor-shape", GPTQ_4, (*GPTQ[:3], tensor(f"{NAME}.g_idx", "I32", 63))),
    ("model.tensor-shape", {"quant_method": "mxfp4"}, (MXFP4[0], tensor(MXFP4[1].name, "U8", 2, 5, 2))),
    ("model.tensor-duplicate", GPTQ_4, (*GPTQ, tensor(f"{NAME}.weight", "F16", 1))),
]  # fmt: skip


@pytest.mark.parametrize(("id", "config", "tensors"), REFUSED)
def test_refused(id: str, config: Any, tensors: tuple[SourceTensor, ...]) -> None:
    with pytest.raises(RfctlError) as caught:
        dequantize_source(make_source(config, *tensors))
    assert caught.value.id == id
    for language in ("en", "zh"):
        text = caught.value.text(language)
        assert text.next
        assert "{" not in text.message + text.why


def test_values_that_do_not_fit_are_found_while_reading() -> None:
    config, tensors, _ = READABLE[0]
    found = dequantize_source(make_source(config, *tensors)).tensors[f"{NAME}.weight"]
    reader = Memory(**{f"{NAME}.g_idx": integers(*([0] * 63), 4)})
    with pytest.raises(RfctlError, match=r"model\.quantized-group"):
        Slice(found).load(reader, 0, 1)
    config, tensors, _ = READABLE[1]
    found = dequantize_source(make_source(config, *tensors)).tensors[f"{NAME}.weight"]
    reader = Memory(**{f"{NAME}.weight_shape": np.asarray([20, 63], "<i8").tobytes()})
    with pytest.raises(RfctlError, match=r"model\.tensor-shape"):
        Slice(found).load(reader, 0, 1)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 1 << 70) | st.floats() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=4,
)
settings_ = st.fixed_dictionaries(
    {},
    optional={
        "quant_method": st.sampled_from(
            ["fp8", "gptq", "compressed-tensors", "modelopt", "bitnet", "mxfp4", "awq", "", 4]
        ),
        "bits": st.sampled_from([2, 3, 4, 8, 0]) | json_values,
        "weight_block_size": st.lists(st.integers(-1, 200), max_size=3) | json_values,
        "format": st.sampled_from(["pack-quantized", "float-quantized", "int-quantized", "x"]) | json_values,
        "quant_algo": st.sampled_from(["FP8", "NVFP4"]) | json_values,
        "config_groups": json_values
        | st.fixed_dictionaries(
            {"g": st.fixed_dictionaries({"weights": json_values
                | st.fixed_dictionaries({}, optional={
                    "num_bits": st.integers(1, 9) | json_values,
                    "strategy": st.sampled_from(["group", "channel", "block", "tensor"]) | json_values,
                    "group_size": st.sampled_from([16, 32, None, 0]) | json_values,
                    "block_structure": st.sampled_from([[8, 8], "8x8", None]) | json_values,
                    "type": st.sampled_from(["int", "float"]),
                })})}
        ),
    },
)  # fmt: skip
parts = st.lists(
    st.builds(
        tensor,
        st.sampled_from([part.name for group in (GPTQ, PACKED, FP8, MXFP4, BITNET) for part in group]),
        st.sampled_from(sorted(DTYPE_BYTES)),
    ),
    max_size=6,
)
shapes = st.lists(st.lists(st.sampled_from([0, 1, 2, 4, 5, 8, 16, 40]), max_size=4), min_size=6, max_size=6)
READ_IDS = ("model.quantized-", "model.tensor-", "model.shard-")


@settings(max_examples=300, deadline=None)
@given(config=settings_ | json_values, found=parts, extents=shapes, base=st.integers(0, 5))
def test_any_configuration_and_header_is_read_or_refused(
    config: Any, found: list[SourceTensor], extents: list[list[int]], base: int
) -> None:
    changed = [replace(item, shape=tuple(shape)) for item, shape in zip(found, extents, strict=False)]
    known = (GPTQ, PACKED, FP8, MXFP4, BITNET, ())[base]
    try:
        source = dequantize_source(make_source(config, *known, *changed))
        for item in source.tensors.values():
            if item.content is not None and item.count and item.count < 1 << 16:
                rows = count_rows(item.shape)
                with np.errstate(all="ignore"):
                    assert Slice(item).load(Memory(), 0, rows).shape[0] == rows
    except RfctlError as error:
        assert error.id.startswith(READ_IDS), error.id
        assert error.id in entries("en") and error.id in entries("zh")


def test_blocks_are_not_quantized_again(golden: Path, tmp_path: Path) -> None:
    source = open_source(make_small(golden, load_small("quantized-mxfp4"), tmp_path))
    with pytest.raises(RfctlError, match=r"model\.requantized"):
        plan_model(source, "Q4_K_M")
    assert {item.type for item in plan_model(source, "q8_0").tensors} >= {"MXFP4", "Q8_0", "F32"}


@pytest.mark.parametrize("name", ["pytorch_model.bin", "consolidated.00.pth", "model.pt"])
def test_pickled_weights_are_refused_with_the_command(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RFCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RFCTL_LANG", "zh")
    folder = tmp_path / "a model"
    folder.mkdir()
    (folder / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', "utf-8")
    (folder / name).write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    (folder / "training_args.bin").write_bytes(b"x")
    for path in (folder, folder / name):
        with pytest.raises(RfctlError) as caught:
            make_plan(path)
        assert caught.value.id == "model.weights-pickled"
    assert execute(["model", "convert", str(folder), "-o", str(tmp_path / "x.gguf")]) == 1
    shown = capsys.readouterr().err
    assert "model.weights-pickled" in shown and "training_args" not in shown
    finding = next(f for f in check(folder).findings if f.id == "model.weights-pickled")
    words = shlex.split(finding.text("zh").next)
    assert words[:2] == ["python", "-c"]
    compile(words[2], "command", "exec")
    assert words[3:] == [str(folder), f"{folder}-safetensors"]


def test_a_hub_file_beside_the_configuration_names_the_method(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    document = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "W4A8"}}
    (folder / "hf_quant_config.json").write_text(json.dumps(document), "utf-8")
    with pytest.raises(RfctlError) as caught:
        dequantize_source(ModelSource(folder, {}, {}))
    assert (caught.value.id, caught.value.params["format"]) == ("model.quantized-format", "W4A8")
