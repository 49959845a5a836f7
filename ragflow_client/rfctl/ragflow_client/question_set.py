"""Questions with what is expected of their answers, from TOML or JSON Lines.

[[question]]
question = "How long is the warranty?"
document = "manual.pdf"     # and/or text = "24 months": a passage that must be found
pages = [12, 13]            # any of them
answer = "24 months"        # what an assistant should say
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import UsageError

MAX_FILE_BYTES = 16 << 20
_KEYS = ("question", "document", "pages", "page", "text", "answer")


@dataclass(frozen=True)
class Question:
    """document, pages, text describe the passage that must be found ("" or () where nothing is asked of it);
    answer is what an assistant should say, "" where that is not judged."""

    question: str
    document: str = ""
    pages: tuple[int, ...] = ()
    text: str = ""
    answer: str = ""

    @property
    def expects_passage(self) -> bool:
        return bool(self.document or self.text)


def read_questions(path: Path) -> tuple[Question, ...]:
    """The questions of a `.jsonl`/`.ndjson` file, or of a TOML file.

    Raises UsageError `eval.file-unreadable`, `eval.file-broken`, `eval.question-broken`,
    `eval.line-broken`, `eval.line-not-json`, `eval.key-unknown`, `eval.no-questions`.
    """
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise UsageError("eval.file-broken", path=path, detail=f"> {MAX_FILE_BYTES} bytes")
        content = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError("eval.file-unreadable", path=path, detail=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise UsageError("eval.file-broken", path=path, detail=f"UTF-8: {error}") from error
    if path.suffix.lower() in (".jsonl", ".ndjson"):
        entries, broken = _read_lines(path, content), "eval.line-broken"
    else:
        entries, broken = _read_toml(path, content), "eval.question-broken"
    questions = tuple(_read(path, place, entry, broken) for place, entry in entries)
    if not questions:
        raise UsageError("eval.no-questions", path=path)
    return questions


def _read_lines(path: Path, content: str) -> list[tuple[int, object]]:
    entries: list[tuple[int, object]] = []
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            entries.append((number, json.loads(line)))
        except (ValueError, RecursionError) as error:
            detail = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
            raise UsageError("eval.line-not-json", path=path, place=number, detail=detail) from error
    return entries


def _read_toml(path: Path, content: str) -> list[tuple[int, object]]:
    try:
        document = tomllib.loads(content)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError("eval.file-broken", path=path, detail=str(error)) from error
    entries = document.get("question")
    others = sorted(set(document) - {"question"})
    if others or (entries is not None and not isinstance(entries, list)):
        raise UsageError("eval.file-broken", path=path, detail=f"[[question]], {', '.join(others)}")
    return [(number, entry) for number, entry in enumerate(entries or [], start=1)]


def _read(path: Path, place: int, entry: object, broken: str) -> Question:
    def refuse(detail: str) -> UsageError:
        return UsageError(broken, path=path, place=place, detail=detail)

    if not isinstance(entry, Mapping):
        raise refuse(str(entry)[:80])
    if unknown := sorted(set(entry) - set(_KEYS)):
        raise UsageError(
            "eval.key-unknown", path=path, place=place, keys=", ".join(unknown), known=", ".join(_KEYS)
        )
    texts = {key: _text(entry, key, refuse) for key in ("question", "document", "text", "answer")}
    pages = entry.get("pages", entry.get("page", []))
    pages = pages if isinstance(pages, list) else [pages]
    if not all(isinstance(page, int) and not isinstance(page, bool) and page >= 1 for page in pages):
        raise refuse("pages")
    question = Question(pages=tuple(pages), **texts)
    if not question.question:
        raise refuse("question")
    if not (question.expects_passage or question.answer):
        raise refuse("document / text / answer")
    if question.pages and not question.document:
        raise refuse("document")
    return question


def _text(entry: Mapping[str, Any], key: str, refuse: Any) -> str:
    value = entry.get(key, "")
    if not isinstance(value, str):
        raise refuse(key)
    return value.strip()
