"""What the tests of a push share: a server that keeps what it is given, and the checks of a result."""

from __future__ import annotations

from pathlib import Path

from ollama_server import Keeper

from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.push import Push

MESSAGES = [{"role": "user", "content": "hi"}]


def keeper(path: Path, **faults: object) -> Keeper:
    candidate = read_candidate(path)
    return Keeper(template=candidate.template, **faults)  # type: ignore[arg-type]


def ids(result: Push) -> list[str]:
    return [check.id for check in result.checks]
