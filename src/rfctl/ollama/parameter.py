"""The typed model parameters of Ollama (`num_ctx`, `temperature`, `stop`, ...).

The server does not check `parameters` of a create request: a wrong type fails at the first chat. So they are
typed here, by Ollama's own rules (api/types.go, FormatParams, v0.33.0-rc2).
"""

from __future__ import annotations

import math
import re
import struct
import tomllib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from rfctl.core.error import UsageError

type Scalar = int | float | bool | str
type Value = int | float | bool | tuple[str, ...]

_INT = re.compile(r"[+-]?[0-9]+")
_FLOAT = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TRUE = ("1", "t", "T", "TRUE", "true", "True")
_FALSE = ("0", "f", "F", "FALSE", "false", "False")


class ParameterError(UsageError):
    """A parameter that Ollama does not know or whose value has the wrong type; `reason` is Ollama's text."""

    def __init__(self, id: str, reason: str, **params: object) -> None:
        super().__init__(id, exit_code=None, detail=reason, **params)
        self.reason = reason


@cache
def kinds() -> Mapping[str, str]:
    """Parameter name -> "int", "float", "bool", "list" or "deprecated"."""
    with (Path(__file__).parent / "parameter.toml").open("rb") as file:
        table = tomllib.load(file)
    return {name: kind for kind, names in table.items() for name in names}


def parse_parameter(name: str, text: str) -> int | float | bool | str:
    """The value of one textual parameter; for `stop` one element of its list.

    Raises ParameterError for an unknown name and for text of the wrong type.
    """
    kind = kinds().get(name)
    if kind is None or kind == "deprecated":
        raise ParameterError("ollama.parameter-unknown", f"unknown parameter '{name}'", name=name)
    if kind == "int":
        if _INT.fullmatch(text) and -(2**63) <= int(text) < 2**63:
            return int(text)
    elif kind == "float":
        if _FLOAT.fullmatch(text) and math.isfinite(number := _round_single(float(text))):
            return number
    elif kind == "bool":
        if text in _TRUE + _FALSE:
            return text in _TRUE
    else:
        return text
    raise ParameterError(
        "ollama.parameter-type", f"invalid {kind} value [{text}]", name=name, value=text, kind=kind
    )


def check_parameters(values: Mapping[str, object]) -> dict[str, Value]:
    """Values from Python or JSON in the types that Ollama wants; `stop` becomes a tuple.

    Raises ParameterError for an unknown name and for a value of the wrong type.
    """
    checked: dict[str, Value] = {}
    for name, value in values.items():
        kind = kinds().get(name)
        if kind is None or kind == "deprecated":
            raise ParameterError("ollama.parameter-unknown", f"unknown parameter '{name}'", name=name)
        good: Value | None = None
        match value:
            case bool():
                good = value if kind == "bool" else None
            case int():
                good = value if kind == "int" else float(value) if kind == "float" else None
            case float():
                good = value if kind == "float" and math.isfinite(value) else None
            case str():
                good = (value,) if kind == "list" else None
            case Sequence():
                texts = tuple(item for item in value if isinstance(item, str))
                good = texts if kind == "list" and len(texts) == len(value) else None
        if good is None:
            raise ParameterError(
                "ollama.parameter-type",
                f'option "{name}" must be of type {kind}',
                name=name,
                value=value,
                kind=kind,
            )
        checked[name] = good
    return checked


def _round_single(number: float) -> float:
    """The shortest decimal that is the same single-precision number: Ollama parses into float32."""
    try:
        wanted = struct.pack("<f", number)
    except OverflowError:
        return math.inf
    for digits in range(1, 10):
        short = float(f"{number:.{digits}g}")
        if struct.pack("<f", short) == wanted:
            return short
    return number
