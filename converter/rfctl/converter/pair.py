"""Key/value pairs of a GGUF file by the type of their value (short constructors, so that tables read as
tables).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rfctl.converter.plan import KeyValue, ValueType


def text(key: str, value: str) -> KeyValue:
    """A string."""
    return KeyValue(key, ValueType.STRING, value)


def uint(key: str, value: int) -> KeyValue:
    """An unsigned 32-bit number."""
    return KeyValue(key, ValueType.UINT32, int(value))


def sint(key: str, value: int) -> KeyValue:
    """A signed 32-bit number."""
    return KeyValue(key, ValueType.INT32, int(value))


def real(key: str, value: float) -> KeyValue:
    """A float32."""
    return KeyValue(key, ValueType.FLOAT32, float(value))


def flag(key: str, value: bool) -> KeyValue:
    """A bool."""
    return KeyValue(key, ValueType.BOOL, bool(value))


def texts(key: str, values: Sequence[str | bytes]) -> KeyValue:
    """An array of strings; bytes are taken as UTF-8."""
    return KeyValue(key, ValueType.ARRAY, values, ValueType.STRING)


def sints(key: str, values: Sequence[int] | Any) -> KeyValue:
    """An array of signed 32-bit numbers."""
    return KeyValue(key, ValueType.ARRAY, values, ValueType.INT32)


def reals(key: str, values: Sequence[float] | Any) -> KeyValue:
    """An array of float32."""
    return KeyValue(key, ValueType.ARRAY, values, ValueType.FLOAT32)


def flags(key: str, values: Sequence[bool]) -> KeyValue:
    """An array of bools."""
    return KeyValue(key, ValueType.ARRAY, [bool(value) for value in values], ValueType.BOOL)
