"""Reading the server's records without trusting their form: a missing or wrong field costs that field."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeGuard

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.failure import ServerError, shorten

PAGE_SIZE = 100  # the most that RAGFlow lists at once (api/utils/pagination_utils.py, v0.27.0)
MAX_PAGES = 1000
_ID = re.compile(r"[0-9a-f]{32}")


def text(record: Mapping[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def whole(record: Mapping[str, Any], key: str) -> int:
    value = record.get(key)
    return int(value) if is_number(value) else 0


def number(record: Mapping[str, Any], key: str) -> float:
    value = record.get(key)
    return float(value) if is_number(value) else 0.0


def is_number(value: object) -> TypeGuard[int | float]:
    """A number that fits into 64 bits: JSON as Python reads it has Infinity, NaN and any number of digits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1 << 63


def mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def records(value: object, what: str) -> list[Mapping[str, Any]]:
    """A list of objects. Raises ServerError when it is something else."""
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise ServerError("ragflow.shape", url=what, detail=shorten(str(value)[:200]))
    return [item for item in value if isinstance(item, Mapping)]


def record(value: object, what: str) -> Mapping[str, Any]:
    """One object that has an id. Raises ServerError when it is something else."""
    if not isinstance(value, Mapping) or not text(value, "id"):
        raise ServerError("ragflow.shape", url=what, detail=shorten(str(value)[:200]))
    return value


def check_ids(ids: Sequence[str]) -> list[str]:
    """`ids` for a delete call: an empty list or an empty id has once meant "everything" (RAGFlow up to 0.24).

    Raises ValueError, which is a fault of the caller.
    """
    if not ids or not all(_ID.fullmatch(id) for id in ids):
        raise ValueError(f"not a list of ids: {ids!r}")
    return list(dict.fromkeys(ids))


def is_id(value: str) -> bool:
    return _ID.fullmatch(value) is not None


def pages() -> Iterator[int]:
    """Page numbers from 1. Raises RfctlError when a server never comes to an end."""
    yield from range(1, MAX_PAGES + 1)
    raise RfctlError("ragflow.list-endless", pages=MAX_PAGES)
