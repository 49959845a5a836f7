"""Ids and times in RAGFlow's forms."""

from __future__ import annotations

import time
import uuid
from datetime import datetime


def new_id() -> str:
    """32 lower-case hex digits (a version 1 UUID, which RAGFlow's own validation asks for)."""
    return uuid.uuid1().hex


def now() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def iso(milliseconds: int | None) -> str | None:
    """`YYYY-MM-DDTHH:MM:SS` in local time."""
    if milliseconds is None:
        return None
    return datetime.fromtimestamp(milliseconds / 1000).isoformat(timespec="seconds")
