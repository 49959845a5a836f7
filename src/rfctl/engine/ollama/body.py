"""Request bodies of the Ollama API: JSON, checked field by field with the texts of Go's decoder.

Ollama decodes into Go structs: unknown keys are ignored, null means absent, a wrong type is a 400.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.requests import Request

from rfctl.engine.failure import ApiError

MAX_BYTES = 64 << 20
# The longest duration that Go has (2^63 ns); a date that far ahead can still be written.
MAX_SECONDS = 9.2e9

# Go's names for the types of fields: what Python types they take.
_TYPES: dict[str, tuple[type, ...]] = {
    "string": (str,),
    "bool": (bool,),
    "int": (int,),
    "[]api.Message": (list,),
    "[]string": (list,),
    "api.Tools": (list,),
    "map[string]string": (dict,),
    "map[string]interface {}": (dict,),
}


async def read_body(request: Request, struct: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """The JSON object of the request. struct: Go's name of the request type; fields: key -> Go type.

    Raises ApiError 400 as Ollama answers, 413 for more than 64 MiB.
    """
    raw = bytearray()
    async for piece in request.stream():
        raw += piece
        if len(raw) > MAX_BYTES:
            raise ApiError(413, "http: request body too large")
    if not raw.strip():
        raise ApiError(400, "missing request body")
    return check_fields(parse_json(raw.decode("utf-8", errors="replace")), struct, fields)


def parse_json(text: str) -> object:
    """The first JSON value of `text`. Raises ApiError 400 with the text of Go's decoder."""
    start = len(text) - len(text.lstrip())
    try:
        value, _ = json.JSONDecoder(parse_constant=_refuse).raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise ApiError(400, _describe(error)) from None
    except RecursionError:
        raise ApiError(400, "exceeded max depth") from None
    except ValueError:  # a whole number of thousands of digits
        raise ApiError(400, "json: cannot unmarshal number into Go value") from None
    return value


def check_fields(value: object, struct: str, fields: Mapping[str, str]) -> dict[str, Any]:
    """`value` if it is an object whose known fields have their types. Raises ApiError 400."""
    if not isinstance(value, dict):
        kind = _kind(value)
        raise ApiError(400, f"json: cannot unmarshal {kind} into Go value of type api.{struct}")
    known = {key: item for key, item in value.items() if item is not None}
    for key, go_type in fields.items():
        item = known.get(key)
        allowed = _TYPES[go_type]
        fits = isinstance(item, allowed) and not (isinstance(item, bool) and bool not in allowed)
        if item is not None and not fits:
            raise ApiError(
                400,
                f"json: cannot unmarshal {_kind(item)} into Go struct field {struct}.{key} of type {go_type}",
            )
    return known


def parse_duration(value: object) -> float | None:
    """Seconds of a `keep_alive`: a number of seconds or a Go duration ("5m", "1h30m"); negative = for ever.

    None when absent. Raises ApiError 400.
    """
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        return -1.0 if value < 0 else float(min(value, MAX_SECONDS))
    if isinstance(value, str):
        seconds = _go_duration(value)
        return -1.0 if seconds < 0 else min(seconds, MAX_SECONDS)
    raise ApiError(400, f"Unsupported type: '{_kind(value)}'")


_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def _go_duration(text: str) -> float:
    sign = -1.0 if text.startswith("-") else 1.0
    rest = text[1:] if text[:1] in ("-", "+") else text
    if rest == "0":
        return 0.0
    wrong = ApiError(400, f"time: invalid duration {json.dumps(text, ensure_ascii=False)}")
    total = 0.0
    if not rest:
        raise wrong
    while rest:
        number = len(rest) - len(rest.lstrip("0123456789."))
        unit_end = number
        while unit_end < len(rest) and rest[unit_end] not in "0123456789.":
            unit_end += 1
        digits, unit, rest = rest[:number], rest[number:unit_end], rest[unit_end:]
        if not digits.strip(".") or digits.count(".") > 1:
            raise wrong
        if unit not in _UNITS:
            detail = f'unknown unit "{unit}"' if unit else "missing unit"
            raise ApiError(400, f'time: {detail} in duration "{text}"')
        total += float(digits) * _UNITS[unit]
    return sign * total


def _refuse(name: str) -> object:
    raise ApiError(400, f"invalid character '{name[0]}' looking for beginning of value")


def _kind(value: object) -> str:
    match value:
        case bool():
            return "bool"
        case str():
            return "string"
        case int() | float():
            return "number"
        case list():
            return "array"
        case dict():
            return "object"
    return "null"


def _describe(error: json.JSONDecodeError) -> str:
    if error.pos >= len(error.doc.rstrip()):
        return "unexpected EOF"
    place = {
        "Expecting property name": "looking for beginning of object key string",
        "Expecting value": "looking for beginning of value",
        "Expecting ':'": "after object key",
        "Expecting ','": "after object key:value pair",
        "Invalid control character": "in string literal",
        "Invalid \\escape": "in string escape code",
    }
    where = next((text for start, text in place.items() if error.msg.startswith(start)), "in literal")
    character = error.doc[error.pos]
    shown = {"'": "\\'", "\n": "\\n", "\t": "\\t", "\r": "\\r"}.get(character, character)
    return f"invalid character '{shown}' {where}"
