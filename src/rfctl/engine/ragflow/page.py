"""Paging parameters of documents, chunks, chats, sessions and retrieval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rfctl.engine.ragflow.envelope import EXCEPTION, Failure

DEFAULT_SIZE = 30
MAX_SIZE = 100


def read(values: Mapping[str, Any]) -> tuple[int, int]:
    """(page, page_size); what is no number or below 1 falls back to 1 and 30.

    Raises Failure with RAGFlow's text for a page_size over 100 (`api/utils/pagination_utils.py`).
    """
    page = _number(values.get("page"), 1)
    size = _number(values.get("page_size"), DEFAULT_SIZE)
    if size > MAX_SIZE:
        text = f"ValueError('page_size must be less than or equal to {MAX_SIZE}')"
        raise Failure(EXCEPTION, text, data=None)
    return page, size


def _number(value: Any, default: int) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        return default
    return number if number >= 1 else default
