"""Exact conversions between float32, float16 and bfloat16, as ggml rounds.

bfloat16 and float16 bits travel as uint16 arrays. Rounding is to nearest, ties to even; a NaN stays a NaN
(bfloat16: quiet bit set, as `ggml_compute_fp32_to_bf16` in ggml-impl.h, llama.cpp b11434; float16: IEEE 754).
All functions take any shape, accept `out` of the result's shape and dtype, and return it.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

type U16 = npt.NDArray[np.uint16]
type F32 = npt.NDArray[np.float32]


def bf16_to_f32(bits: U16, out: F32 | None = None) -> F32:
    """bfloat16 bits to float32; exact."""
    if out is None:
        out = np.empty(bits.shape, np.float32)
    np.left_shift(bits, np.uint32(16), out=out.view(np.uint32), dtype=np.uint32, casting="unsafe")
    return out


def f16_to_f32(bits: U16, out: F32 | None = None) -> F32:
    """float16 bits to float32; exact."""
    if out is None:
        out = np.empty(bits.shape, np.float32)
    np.copyto(out, bits.view(np.float16))
    return out


def f32_to_bf16(values: F32, out: U16 | None = None) -> U16:
    """float32 to bfloat16 bits."""
    bits = np.ascontiguousarray(values).view(np.uint32)
    if out is None:
        out = np.empty(bits.shape, np.uint16)
    work = (bits >> np.uint32(16)) & np.uint32(1)
    work += np.uint32(0x7FFF)
    work += bits  # wraps only for negative NaNs, which are set below
    work >>= np.uint32(16)
    np.copyto(out, work, casting="unsafe")
    nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    if nan.any():
        out[nan] = ((bits[nan] >> np.uint32(16)) | np.uint32(64)).astype(np.uint16)
    return out


def f32_to_f16(values: F32, out: U16 | None = None) -> U16:
    """float32 to float16 bits; values beyond 65504 (after rounding) become infinities without a warning."""
    if out is None:
        out = np.empty(values.shape, np.uint16)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        np.copyto(out.view(np.float16), values, casting="unsafe")
    return out


def bf16_to_f16(bits: U16, out: U16 | None = None) -> U16:
    """bfloat16 bits to float16 bits by table; the same as through float32."""
    if out is None:
        out = np.empty(bits.shape, np.uint16)
    np.take(_bf16_to_f16_table(), bits, out=out, mode="clip")
    return out


@cache
def _bf16_to_f16_table() -> U16:
    return f32_to_f16(bf16_to_f32(np.arange(1 << 16, dtype=np.uint16)))


def to_f32(dtype: str, rows: npt.NDArray[Any]) -> F32:
    """A float32 copy of values in storage form (`expression.py`), exact but for F64 and wide integers."""
    if dtype == "BF16":
        return bf16_to_f32(rows)
    values: F32
    if dtype == "F8_E4M3":
        values = _decode_e4m3()[rows]
    elif dtype == "F8_E5M2":
        values = (rows.astype(np.uint16) << 8).view(np.float16).astype(np.float32)
    else:
        values = rows.astype(np.float32)
    return values


def from_f32(dtype: str, values: F32) -> npt.NDArray[Any]:
    """Values in the storage form of F32, F16 or BF16, rounded once to the nearest, ties to even."""
    if dtype == "BF16":
        return f32_to_bf16(values)
    return f32_to_f16(values).view(np.float16) if dtype == "F16" else values


@cache
def _decode_e4m3() -> F32:
    """The 256 values of float8 e4m3fn: no infinities, NaN is all ones (OCP 8-bit floating point, 1.0)."""
    code = np.arange(256)
    exponent, fraction = code >> 3 & 15, code & 7
    values = np.where(exponent, (8 + fraction) * 2.0 ** (exponent - 10.0), fraction * 2.0**-9)
    values[(code & 127) == 127] = np.nan
    return np.where(code & 128, -values, values).astype(np.float32)
