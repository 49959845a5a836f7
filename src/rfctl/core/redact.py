"""One redactor for every output, log line and traceback."""

from __future__ import annotations

import re

_PATTERNS = (
    re.compile(r"(?i)(authorization\s*[:=]\s*)(?:bearer\s+)?[^\s,;'\"}]+"),
    re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]{8,}"),
    re.compile(r"()\bragflow-[A-Za-z0-9_-]{16,}"),
    re.compile(r"()\bhf_[A-Za-z0-9]{16,}"),
    re.compile(r"(?i)((?:api[_-]?key|token|password|secret)[\"']?\s*[:=]\s*[\"']?)[^\s,;'\"}&]{6,}"),
    re.compile(r"(://[^/\s:@]+:)[^/\s@]+(?=@)"),
)
MASK = "***"


def redact(text: str) -> str:
    """`text` with keys, bearer tokens and passwords replaced by `***`."""
    for pattern in _PATTERNS:
        text = pattern.sub(lambda match: match.group(1) + MASK, text)
    return text
