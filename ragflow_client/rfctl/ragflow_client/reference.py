"""Where a passage comes from: RAGFlow's chunks and citation marks as numbered sources."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfctl.ragflow_client.record import number, text

# [ID:3], [ID: 3], [3] is left alone; ##3$$ is the form of RAGFlow before 0.20.
_MARK = re.compile(r"\s?\[ID\s*:?\s*(\d+)\]|\s?\(ID\s*:\s*(\d+)\)|\s?##(\d+)\$\$", re.IGNORECASE)
_PAGED = (".pdf", ".ppt", ".pptx")


@dataclass(frozen=True)
class Box:
    """A rectangle on a page in PDF points, origin top left; page is 1-based."""

    page: int
    left: float
    right: float
    top: float
    bottom: float


@dataclass(frozen=True)
class Source:
    """A passage.

    number      its number in the answer, from 1
    pages       pages it covers (1-based), empty where the format has none or the parser kept none
    box         the first rectangle, or None
    similarity  RAGFlow's mixed score 0-1, with the two parts it is mixed of
    cited       whether the answer refers to it
    """

    number: int
    document: str
    pages: tuple[int, ...]
    box: Box | None
    similarity: float
    vector_similarity: float
    term_similarity: float
    content: str
    document_id: str = ""
    cited: bool = False


def read_source(row: Mapping[str, Any], place: int, *, cited: bool = False) -> Source:
    """A source from a chunk of a retrieval or of an answer; they name the document differently."""
    document = text(row, "document_name") or text(row, "document_keyword") or text(row, "docnm_kwd")
    boxes = _boxes(row.get("positions")) if document.lower().endswith(_PAGED) else ()
    return Source(
        number=place,
        document=document,
        pages=tuple(dict.fromkeys(box.page for box in boxes)),
        box=boxes[0] if boxes else None,
        similarity=number(row, "similarity"),
        vector_similarity=number(row, "vector_similarity"),
        term_similarity=number(row, "term_similarity"),
        content=(text(row, "content") or text(row, "content_with_weight")).strip(),
        document_id=text(row, "document_id"),
        cited=cited,
    )


def number_sources(answer: str, chunks: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[Source, ...]]:
    """The answer with `[ID:n]` as `[1]`, `[2]` in order of appearance, and the sources in that order.

    Marks beyond the list are the model's invention and are taken out. Sources that are not cited follow.
    """
    order: list[int] = []

    def replace(match: re.Match[str]) -> str:
        index = int(next(group for group in match.groups() if group))
        if index >= len(chunks):
            return ""
        if index not in order:
            order.append(index)
        lead = " " if match[0][0].isspace() else ""
        return f"{lead}[{order.index(index) + 1}]"

    rewritten = _MARK.sub(replace, answer)
    rest = [index for index in range(len(chunks)) if index not in order]
    sources = tuple(
        read_source(chunks[index], place, cited=place <= len(order))
        for place, index in enumerate([*order, *rest], start=1)
    )
    return rewritten, sources


def _boxes(positions: object) -> tuple[Box, ...]:
    if not isinstance(positions, list):
        return ()
    found = []
    for entry in positions:
        if not isinstance(entry, list) or len(entry) != 5:
            continue
        if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in entry):
            continue
        page, left, right, top, bottom = entry
        if page >= 1:
            found.append(Box(int(page), float(left), float(right), float(top), float(bottom)))
    return tuple(found)
