"""What collectors found out about a machine: plain JSON values by name, so that a recording is a test.

Kinds of values: facts (numbers, texts, lists), captures of programs (`child.Capture` as an object) and
replies of servers (`Reply` as an object). No secret ever becomes evidence.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rfctl.core.file import write_atomic
from rfctl.core.redact import redact
from rfctl.stack.child import Capture


class MissingEvidenceError(LookupError):
    """A check asked for evidence that nobody collected."""


@dataclass(frozen=True)
class Reply:
    """One HTTP exchange. status 0: no answer, then `error` is "refused", "timeout" or another short word."""

    status: int
    body: str = ""
    error: str = ""
    date: str = ""

    def json(self) -> Any:
        """Raises ValueError."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Evidence:
    """All values by name."""

    values: Mapping[str, Any]

    def has(self, name: str) -> bool:
        return name in self.values

    def fact(self, name: str) -> Any:
        """Raises MissingEvidenceError."""
        if name not in self.values:
            raise MissingEvidenceError(name)
        return self.values[name]

    def number(self, name: str) -> int:
        return int(self.fact(name))

    def text(self, name: str) -> str:
        return str(self.fact(name))

    def command(self, name: str) -> Capture:
        return Capture(**self.fact(name))

    def reply(self, name: str) -> Reply:
        return Reply(**self.fact(name))


def write_report(path: Path, evidence: Evidence, report: Mapping[str, Any]) -> None:
    """A zip archive with `findings.json` and `evidence.json`, both redacted, for somebody who helps.

    Raises OSError.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, value in (("findings.json", report), ("evidence.json", evidence.values)):
            text = json.dumps(_redacted(value), ensure_ascii=False, indent=1, default=str)
            # JSON of a server may hold half a character.
            archive.writestr(name, text.encode("utf-8", "backslashreplace"))
    write_atomic(path, buffer.getvalue(), mode=0o600)


def _redacted(value: Any) -> Any:
    """Text by text: redacting the finished JSON could break it."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, Mapping):
        return {str(name): _redacted(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_redacted(item) for item in value]
    return value


def plain(value: object) -> Any:
    """The JSON form of a capture or a reply."""
    return asdict(value) if isinstance(value, Capture | Reply) else value
