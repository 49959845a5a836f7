"""Routes that RAGFlow has and the engine has not (`unsupported.toml`)."""

from __future__ import annotations

import re
import tomllib
from functools import cache
from pathlib import Path


def is_known(path: str) -> bool:
    """True if RAGFlow v0.27.0 serves `path` (relative to /api/v1)."""
    return _pattern().fullmatch(path) is not None


@cache
def _pattern() -> re.Pattern[str]:
    with Path(__file__).with_name("unsupported.toml").open("rb") as file:
        routes = tomllib.load(file)["routes"]
    return re.compile(
        "|".join(re.sub(r"<\w+>", "[^/]+", route).replace("/...", "(?:/.*)?") for route in routes)
    )
