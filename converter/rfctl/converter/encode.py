"""Rows in storage form to the bytes of a tensor type, with the checks that llama-quantize makes on rows.

Storage forms are those of `expression.py`. Checks: `ggml_validate_row_data`, llama.cpp b11434.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.quantization.dtype import bf16_to_f16, bf16_to_f32
from rfctl.converter.quantization.kernel import is_native, quantize
from rfctl.converter.quantization.type import tensor_type

# Where the half-precision scales lie in a block (bytes): ggml/src/ggml-common.h.
_SCALES = {
    "Q4_0": (0,), "Q4_1": (0, 2), "Q5_0": (0,), "Q5_1": (0, 2), "Q8_0": (0,), "IQ4_NL": (0,), "IQ4_XS": (0,),
    "Q2_K": (80, 82), "Q3_K": (108,), "Q4_K": (0, 2), "Q5_K": (0, 2), "Q6_K": (208,),
}  # fmt: skip
_BF16_EXPONENT = 0x7F80
_F16_EXPONENT = 0x7C00


def check_finite(dtype: str, rows: NDArray[Any]) -> tuple[int, int, str] | None:
    """(row, column, "NaN" or "inf") of the first value that is not finite, None if all are."""
    if not rows.size:
        return None
    if dtype == "BF16":
        exponents = rows & np.uint16(_BF16_EXPONENT)
        if exponents.max() != _BF16_EXPONENT:  # the usual case, at a quarter of the cost
            return None
        bad = exponents == _BF16_EXPONENT
    elif dtype in ("F16", "F32", "F64"):
        bad = ~np.isfinite(rows)
    else:
        return None
    if not bad.any():
        return None
    row, column = (int(index) for index in np.unravel_index(int(bad.argmax()), bad.shape))
    value = rows[row, column]
    is_nan = bool(value & 0x7F) if dtype == "BF16" else bool(np.isnan(value))
    return row, column, "NaN" if is_nan else "inf"


def widen(dtype: str, rows: NDArray[Any]) -> NDArray[np.float32]:
    """Rows as float32 (exact for F16, BF16, F32)."""
    if dtype == "BF16":
        return bf16_to_f32(rows)
    with np.errstate(over="ignore"):
        return rows.astype(np.float32, copy=False)


def encode_rows(type_name: str, dtype: str, rows: NDArray[Any]) -> tuple[NDArray[Any], int | None]:
    """The rows in `type_name`, and the first row with a value (or block scale) that the type cannot hold.

    rows   (n, columns), finite, C-contiguous, storage form of `dtype`
    A block with an infinite scale would decode to NaN.
    """
    if type_name == dtype:
        return rows, None
    if type_name == "F16":
        if dtype == "BF16" and not is_native("F16"):
            halves = bf16_to_f16(rows)  # by table, faster than numpy through float32
        else:
            halves = quantize("F16", widen(dtype, rows)).view(np.uint16)
        return halves, _find_infinite(halves, _F16_EXPONENT)
    values = widen(dtype, rows)
    if type_name == "F32":
        return values, None if dtype != "F64" else _find_false(np.isfinite(values))
    if type_name == "BF16":
        bits = quantize("BF16", values).view(np.uint16)
        return bits, _find_infinite(bits, _BF16_EXPONENT)
    data = quantize(type_name, values)
    return data, find_infinite_scale(type_name, data)


def _find_infinite(bits: NDArray[np.uint16], exponent: int) -> int | None:
    exponents = bits & np.uint16(exponent)
    return None if exponents.max() != exponent else _find_false(exponents != exponent)


def has_scales(type_name: str) -> bool:
    """Whether it is known where the half-precision scales of this type lie."""
    return type_name in _SCALES


def find_infinite_scale(type_name: str, data: NDArray[np.uint8]) -> int | None:
    """The first row (n, row bytes) with a scale that is NaN or infinite."""
    blocks = data.reshape(data.shape[0], -1, tensor_type(type_name).block_bytes)
    for offset in _SCALES[type_name]:
        scales = np.ascontiguousarray(blocks[:, :, offset : offset + 2]).view("<u2")[:, :, 0]
        row = _find_infinite(scales, _F16_EXPONENT)
        if row is not None:
            return row
    return None


def _find_false(good: NDArray[np.bool_]) -> int | None:
    if good.all():
        return None
    return int(np.unravel_index(int(good.argmin()), good.shape)[0])
