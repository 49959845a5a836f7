"""Where a passage comes from: RAGFlow's chunks and citation marks as numbered sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfctl.ragflow_client.record import is_number, number, text

# [ID:3], [ID: 3], [3] is left alone; ##3$$ is the form of RAGFlow before 0.20.
_MARK = re.compile(r"\s?\[ID\s*:?\s*(\d+)\]|\s?\(ID\s*:\s*(\d+)\)|\s?##(\d+)\$\$", re.IGNORECASE)
# A mark that may go on in the next piece, with the blank in front of it.
_OPEN_MARK = re.compile(
    r"\s?(?:[\[(](?:I(?:D\s*:?\s*\d{0,6})?)?|#{1,2}(?:\d{1,6}\$?)?)$|\s$",
    re.IGNORECASE,
)
MAX_BOXES = 200
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
    boxes       all of them: DeepDoc gives one for each line, and those of a long passage lie on two pages
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
    boxes: tuple[Box, ...] = ()


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
        boxes=boxes[:MAX_BOXES],
    )


def number_sources(answer: str, chunks: Sequence[Mapping[str, Any]]) -> tuple[str, tuple[Source, ...]]:
    """The answer with `[ID:n]` as `[1]`, `[2]` in order of appearance, and the sources in that order.

    Marks beyond the list are the model's invention and are taken out. Sources that are not cited follow.
    """
    order: list[int] = []

    rewritten = _MARK.sub(lambda match: _number(match, order, len(chunks)), answer)
    rest = [index for index in range(len(chunks)) if index not in order]
    sources = tuple(
        read_source(chunks[index], place, cited=place <= len(order))
        for place, index in enumerate([*order, *rest], start=1)
    )
    return rewritten, sources


def plain_marks(answer: str) -> str:
    """The answer with `[ID:n]` as `[1]`, `[2]` where its sources are not at hand."""
    order: list[int] = []
    return _MARK.sub(lambda match: _number(match, order, len(answer)), answer).strip()


class MarkWriter:
    """Passes streamed text on with `[ID:n]` already as `[1]`, `[2]`; a mark may arrive in pieces.

    limit: how many passages the model can have been given; marks beyond are taken out.
    """

    def __init__(self, show: Callable[[str], None], limit: int) -> None:
        self._show = show
        self._limit = limit
        self._order: list[int] = []
        self._held = ""

    def write(self, piece: str) -> None:
        self._held += piece
        match = _OPEN_MARK.search(self._held)
        ready, self._held = (
            (self._held, "") if match is None else (self._held[: match.start()], self._held[match.start() :])
        )
        if ready:
            self._show(_MARK.sub(self._replace, ready))

    def finish(self) -> None:
        if self._held:
            self._show(_MARK.sub(self._replace, self._held))
            self._held = ""

    def _replace(self, match: re.Match[str]) -> str:
        return _number(match, self._order, self._limit)


def _number(match: re.Match[str], order: list[int], limit: int) -> str:
    digits = next(group for group in match.groups() if group)
    index = int(digits) if len(digits) < 10 else limit
    if index >= limit:
        return ""
    if index not in order:
        order.append(index)
    lead = match[0][0] if match[0][0].isspace() else ""
    return f"{lead}[{order.index(index) + 1}]"


def _boxes(positions: object) -> tuple[Box, ...]:
    if not isinstance(positions, list):
        return ()
    found = []
    for entry in positions:
        if not isinstance(entry, list) or len(entry) != 5:
            continue
        if not all(is_number(value) for value in entry):
            continue
        page, left, right, top, bottom = entry
        if page >= 1:
            found.append(Box(int(page), float(left), float(right), float(top), float(bottom)))
    return tuple(found)
