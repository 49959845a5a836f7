"""torch's dtypes and shapes, for the stand-ins."""

from __future__ import annotations

import math

from rfctl.converter.expression import STORAGE


class DType:
    """A dtype under its torch name. `code`: safetensors name."""

    def __init__(self, name: str, code: str) -> None:
        self.name, self.code = name, code
        self.itemsize = STORAGE[code].itemsize
        self.is_floating_point = code[0] in "FB" and code != "BOOL"

    def __repr__(self) -> str:
        return f"torch.{self.name}"


DTYPES = {
    code: DType(name, code)
    for name, code in (
        ("float64", "F64"), ("float32", "F32"), ("float16", "F16"), ("bfloat16", "BF16"), ("int64", "I64"),
        ("int32", "I32"), ("int16", "I16"), ("int8", "I8"), ("uint8", "U8"), ("uint16", "U16"),
        ("uint32", "U32"), ("uint64", "U64"), ("bool", "BOOL"), ("float8_e4m3fn", "F8_E4M3"),
        ("float8_e5m2", "F8_E5M2"), ("float8_e8m0fnu", "F8_E8M0"),
    )
}  # fmt: skip
BY_NUMPY = {
    kind: code for code, kind in STORAGE.items() if code not in ("BF16", "F8_E4M3", "F8_E5M2", "F8_E8M0")
}


class Size(tuple[int, ...]):
    """torch.Size."""

    def numel(self) -> int:
        return math.prod(self)
