"""The quantizers against recorded output of ggml, and the float conversions against all 65536 values."""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.converter.quantization import kernel
from rfctl.converter.quantization.dtype import bf16_to_f16, bf16_to_f32, f16_to_f32, f32_to_bf16, f32_to_f16
from rfctl.converter.quantization.kernel import kernel_info, quantize
from rfctl.converter.quantization.type import tensor_type
from rfctl.core.error import RfctlError

ROWS, COLUMNS = 64, 512
TYPES = [
    "F16", "BF16", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL",
    "IQ4_XS",
]  # fmt: skip


def uniform(t: int) -> npt.NDArray[np.float64]:
    """The formula of the golden README, in plain Python integers."""
    values = []
    for i in range(ROWS * COLUMNS):
        x = (i * 2654435761 + t * 40503 + 12345) % 2**32
        x ^= x >> 15
        x = x * 2246822519 % 2**32
        x ^= x >> 13
        x = x * 3266489917 % 2**32
        x ^= x >> 16
        values.append((x >> 8) / 2**24)
    return np.array(values)


@pytest.fixture(scope="module")
def inputs() -> dict[str, npt.NDArray[np.float32]]:
    bell = (((uniform(0) + uniform(1)) + uniform(2)) + uniform(3) - 2.0) * 0.05
    w = uniform(4) - 0.5
    row, column = np.divmod(np.arange(ROWS * COLUMNS), COLUMNS)
    return {
        title: values.astype(np.float32).reshape(ROWS, COLUMNS)
        for title, values in {
            "normal_like": bell,
            "heavy_tails": (w / (0.2501 - w * w)) * 0.004,
            "all_zero": np.zeros(ROWS * COLUMNS),
            "constant_rows": (row - 32) * 0.01,
            "zero_sub_blocks": np.where((row + column // 32) % 3 == 0, 0.0, bell),
        }.items()
    }


@pytest.mark.parametrize("name", TYPES)
def test_bytes_equal_ggml(golden: Path, inputs: dict[str, npt.NDArray[np.float32]], name: str) -> None:
    blocks = json.loads((golden / "converter" / "quantize" / "blocks.json").read_text("utf-8"))
    wanted = blocks["outputs"][name]
    kind = tensor_type(name)
    assert (kind.number, kind.block, kind.block_bytes) == (
        wanted["ggml_type"],
        wanted["block_values"],
        wanted["block_bytes"],
    )
    for title, rows in inputs.items():
        assert hashlib.sha256(rows.tobytes()).hexdigest() == blocks["inputs"][title]["sha256_f32_le"]
        out = quantize(name, rows)
        assert hashlib.sha256(out.tobytes()).hexdigest() == wanted["results"][title]["sha256"], title


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_the_numpy_fallback_proves_itself_too(name: str) -> None:
    assert kernel._is_proved(name, kernel._through_gguf(name))


def test_a_wrong_kernel_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Different bytes: fall to numpy; where numpy has no code, refuse the type."""

    def liar(number: int, source: int, target: int, first: int, n: int, columns: int, weights: None) -> int:
        return n * columns // 256 * 144 if number == 12 else n * columns // 32 * 34

    monkeypatch.setattr(kernel, "_library", lambda: ("liar.so", liar))
    monkeypatch.setattr(kernel, "_READY", {})
    assert kernel_info()["Q8_0"] == "numpy"
    with pytest.raises(RfctlError) as caught:
        quantize("Q4_K", np.zeros((1, 256), np.float32))
    assert caught.value.id == "model.kernel-missing"


def test_without_any_library_simple_types_still_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_library", lambda: None)
    monkeypatch.setattr(kernel, "_READY", {})
    info = kernel_info()
    assert info["Q4_0"] == "numpy" and info["Q4_K"] == "none" and info["F16"] == "numpy"


def test_threads_write_into_one_buffer(inputs: dict[str, npt.NDArray[np.float32]]) -> None:
    rows = inputs["heavy_tails"]
    out = np.empty((ROWS, tensor_type("Q6_K").row_bytes(COLUMNS)), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda i: quantize("q6_k", rows[i : i + 8], out[i : i + 8]), range(0, ROWS, 8)))
    assert np.array_equal(out, quantize("Q6_K", rows))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple"):
        quantize("Q4_K", np.zeros((1, 255), np.float32))
    with pytest.raises(ValueError, match="contiguous"):
        quantize("Q8_0", np.zeros((2, 32), np.float32), np.empty((2, 35), np.uint8))
    with pytest.raises(ValueError, match="float32"):
        quantize("Q8_0", np.zeros((2, 32), np.float64))  # type: ignore[arg-type]


def test_every_half_value_converts_exactly() -> None:
    bits = np.arange(1 << 16, dtype=np.uint16)
    from_half = f16_to_f32(bits)
    assert np.array_equal(from_half, bits.view(np.float16).astype(np.float32), equal_nan=True)
    number = ~np.isnan(from_half)
    assert np.array_equal(f32_to_f16(from_half)[number], bits[number])
    from_brain = bf16_to_f32(bits)
    assert np.array_equal(from_brain.view(np.uint32), bits.astype(np.uint32) << 16)
    number = ~np.isnan(from_brain)
    assert np.array_equal(f32_to_bf16(from_brain)[number], bits[number])
    assert np.isnan(bf16_to_f32(f32_to_bf16(from_brain)[~number])).all()
    assert np.array_equal(bf16_to_f16(bits), f32_to_f16(from_brain))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1, max_size=8))
def test_bfloat16_rounds_to_the_nearest_even(values: list[float]) -> None:
    array = np.array(values, np.float32)
    result = f32_to_bf16(array)
    for value, bits in zip(array, result, strict=True):
        raw = int(value.view(np.uint32))
        down, rest = raw >> 16, raw & 0xFFFF
        up = rest > 0x8000 or (rest == 0x8000 and down & 1)
        assert int(bits) == down + bool(up)
