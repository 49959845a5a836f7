"""From what a model server answers to an error a person can act on."""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from rfctl.core.error import AuthError, RfctlError, UnreachableError, UsageError, VerdictError
from rfctl.core.redact import redact

MAX_TEXT = 600
_KINDS: dict[str, type[RfctlError]] = {
    "failed": RfctlError,
    "usage": UsageError,
    "unreachable": UnreachableError,
    "auth": AuthError,
    "verdict": VerdictError,
}


@dataclass(frozen=True)
class _Rule:
    id: str
    kind: type[RfctlError]
    pattern: re.Pattern[str]


@cache
def _rules() -> tuple[_Rule, ...]:
    with (Path(__file__).parent / "failure.toml").open("rb") as file:
        entries = tomllib.load(file)["failure"]
    return tuple(
        _Rule(entry["id"], _KINDS[entry["kind"]], re.compile(entry["pattern"], re.IGNORECASE))
        for entry in entries
    )


def explain_failure(status: int, text: str, *, url: str, model: str = "") -> RfctlError:
    """The error for an answer with HTTP `status` (200 for an error inside a stream) and error text `text`.

    The text is the server's, cut to 600 characters, unwrapped when it is itself JSON.
    """
    detail = _unwrap(text)
    if status == 401:
        return AuthError("ollama.unauthorised", url=url, detail=detail)
    if status == 403 and not detail:
        return RfctlError("ollama.host-refused", url=url)
    for rule in _rules():
        if match := rule.pattern.search(detail):
            values = {name: value for name, value in match.groupdict().items() if value}
            if "importer" in values:
                values["architecture"] = values.pop("importer")
            known: dict[str, object] = {"model": model, "url": url, "detail": detail, **values}
            return rule.kind(rule.id, exit_code=None, **known)
    return RfctlError("ollama.server-error", url=url, status=status, detail=detail or "-", model=model)


def read_error(body: bytes) -> str:
    """The `error` text of a JSON answer, or the start of whatever came instead."""
    text = body.decode("utf-8", errors="replace").strip()
    try:
        document = json.loads(text)
    except ValueError:
        return text
    if isinstance(document, dict) and "error" in document:
        error = document["error"]
        return error if isinstance(error, str) else json.dumps(error, ensure_ascii=False)
    return text


def _unwrap(text: str) -> str:
    """llama-server's own error object arrives as text inside Ollama's; its message and type matter."""
    if text.startswith("{"):
        try:
            inner = json.loads(text)
        except ValueError:
            inner = None
        if isinstance(inner, dict) and isinstance(inner.get("error"), dict):
            error = inner["error"]
            text = f"{error.get('message', '')} ({error.get('type', '')})"
    # A failed load repeats its line.
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    if len(lines) > 1 and lines[0].endswith(lines[1]):
        del lines[1]
    return redact(" | ".join(lines))[:MAX_TEXT]
