"""The fields of a protobuf message, as far as a SentencePiece model needs them (encoding: protobuf.dev)."""

from __future__ import annotations

from collections.abc import Iterator

from rfctl.core.error import RfctlError

_VARINT, _LONG, _BYTES, _SHORT = 0, 1, 2, 5
_FIXED = {_LONG: 8, _SHORT: 4}


def list_fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) of the message: a whole number for a varint, bytes for the other kinds.

    Raises RfctlError `model.tokenizer-malformed`.
    """
    at = 0
    while at < len(data):
        tag, at = _read_varint(data, at)
        kind = tag & 7
        if kind == _VARINT:
            value, at = _read_varint(data, at)
            yield tag >> 3, value
            continue
        if kind == _BYTES:
            size, at = _read_varint(data, at)
        elif kind in _FIXED:
            size = _FIXED[kind]
        else:
            raise _malformed()
        if size > len(data) - at:
            raise _malformed()
        yield tag >> 3, data[at : at + size]
        at += size


def _read_varint(data: bytes, at: int) -> tuple[int, int]:
    value = 0
    for number in range(10):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << (7 * number)
        if byte < 0x80:
            return value, at
    raise _malformed()


def _malformed() -> RfctlError:
    return RfctlError("model.tokenizer-malformed", file="SentencePiece", what="protobuf")
