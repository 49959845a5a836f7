"""Bytes of a tensor type back to float32, for telling how far two tensors lie apart (gguf's numpy code)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.quantization.dtype import bf16_to_f32, f16_to_f32

_PLAIN = {"F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}


def dequantize(type_name: str, data: NDArray[np.uint8]) -> NDArray[Any] | None:
    """The values of `data` (n, row bytes) as (n, columns); None for a type that nothing here reads.

    Broken scales give NaN or infinity, without a warning.
    """
    if type_name in _PLAIN:
        return np.ascontiguousarray(data).view(_PLAIN[type_name])
    if type_name == "F16":
        return f16_to_f32(np.ascontiguousarray(data).view("<u2"))
    if type_name == "BF16":
        return bf16_to_f32(np.ascontiguousarray(data).view("<u2"))
    from gguf import GGMLQuantizationType, quants

    try:
        kind = GGMLQuantizationType[type_name]
        with np.errstate(all="ignore"):
            values: NDArray[Any] = quants.dequantize(np.ascontiguousarray(data), kind)
    except (KeyError, NotImplementedError):
        return None
    return values
