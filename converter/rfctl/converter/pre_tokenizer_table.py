"""The fixed text by which llama.cpp's converter knows a pre-tokenizer, and the names by its hash.

Rule: `conversion/base.py` get_vocab_base_pre, llama.cpp b11434. Table: `data/pre-tokenizer.json`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data" / "pre-tokenizer.json"


def list_inside(tokens: Iterable[str]) -> tuple[str, ...]:
    """Those of the added tokens that would take a part of the fixed text for themselves, sorted."""
    text = read_hashes()["check_text"]
    return tuple(sorted({token for token in tokens if token in text}))


@cache
def read_hashes() -> dict[str, Any]:
    """The table: `hash` has hash -> name, `check_text` the fixed text."""
    table: dict[str, Any] = json.loads(_DATA.read_text(encoding="utf-8"))
    return table
