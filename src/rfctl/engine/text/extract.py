"""Text with places out of documents: PDF through a child process, text formats by their encoding.

Promises: whatever the file, the answer is an Extraction or a DocumentError; a broken PDF cannot crash or
stop the caller.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rfctl.core.error import RfctlError
from rfctl.engine.text import markup, pdf

# A line of a document takes some 200 bytes in memory beside its text; a book has a hundredth of this.
MAX_LINES = 5_000_000
# RAGFlow v0.27.0 refuses to parse larger files (`common/settings.py` DOC_MAXIMUM_SIZE).
MAX_BYTES = 128 << 20
TEXT_KINDS = frozenset({"txt", "md", "markdown", "mdx", "csv", "json", "jsonl", "html", "htm"})
# PDFium's mark for a hyphen at the end of a line, and the line end behind it.
_HYPHEN = re.compile("[\x02\ufffe]\\s*")
# Dot leaders of tables of contents: nothing to search for, and each dot costs a token.
_LEADERS = re.compile(r"(?:\s?[.\u2024\u2026\u00b7]){4,}")
_DIGITS = re.compile(r"\d+")
_LEAST_PAGES = 4
# Nothing longer is looked at as a running head.
_HEAD_LENGTH = 400
_WORD = re.compile(r"[^\W\d_]+")


class DocumentError(RfctlError):
    """A document whose text cannot be had; ids `document.*`."""


@dataclass(frozen=True, slots=True)
class Line:
    """A line of text and its box on the page, in PDF points from the top left (zeros if unknown)."""

    text: str
    x0: float = 0.0
    x1: float = 0.0
    top: float = 0.0
    bottom: float = 0.0


@dataclass(frozen=True)
class Page:
    """number is 1-based; width and height in PDF points, 0 for formats without pages."""

    number: int
    width: float
    height: float
    lines: tuple[Line, ...]
    damaged: bool = False


@dataclass(frozen=True)
class Extraction:
    """The text of a document, page by page in reading order."""

    pages: tuple[Page, ...]

    @property
    def blank_pages(self) -> tuple[int, ...]:
        """Numbers of the pages without any text (scanned or empty)."""
        return tuple(page.number for page in self.pages if not page.lines)

    @property
    def has_text(self) -> bool:
        """False for a scan without a text layer."""
        return any(page.lines for page in self.pages)


def extract(
    path: Path,
    kind: str,
    *,
    on_page: Callable[[int, int], None] | None = None,
    pages: Sequence[tuple[int, int]] | None = None,
    page_timeout: float = pdf.PAGE_TIMEOUT,
) -> Extraction:
    """The text of the file at `path`. kind: suffix without a dot ("pdf", "txt", "md", "html", "csv", "json").

    on_page(done, total) is called after each page of a PDF; pages restricts a PDF to ranges (first, end),
    1-based, end exclusive (RAGFlow's parser_config.pages); page_timeout in seconds.

    Raises DocumentError: document.empty, document.too-large, document.corrupt, document.encrypted,
    document.no-pages, document.too-many-pages, document.too-much-text, document.timeout,
    document.crashed, document.type-unsupported, document.encoding-unknown.
    A PDF without a text layer is no error: see `Extraction.has_text`.
    """
    try:
        size = path.stat().st_size
    except OSError as error:
        raise DocumentError(
            "document.unreadable", name=path.name, reason=error.strerror or str(error)
        ) from error
    if size == 0:
        raise DocumentError("document.empty", name=path.name)
    if size > MAX_BYTES:
        raise DocumentError("document.too-large", name=path.name, size=size, limit=MAX_BYTES)
    kind = kind.lower().lstrip(".")
    if kind == "pdf":
        return _extract_pdf(path, on_page, pages, page_timeout)
    if kind not in TEXT_KINDS:
        raise DocumentError("document.type-unsupported", name=path.name, kind=kind)
    try:
        lines = markup.read_lines(path.read_bytes(), kind)
    except UnicodeError as error:
        raise DocumentError("document.encoding-unknown", name=path.name) from error
    if len(lines) > MAX_LINES:
        raise DocumentError("document.too-much-text", name=path.name)
    return Extraction((Page(1, 0.0, 0.0, tuple(Line(line) for line in lines)),))


def _extract_pdf(
    path: Path,
    on_page: Callable[[int, int], None] | None,
    ranges: Sequence[tuple[int, int]] | None,
    page_timeout: float,
) -> Extraction:
    pages: list[Page] = []
    try:
        for raw, total in pdf.read_pages(path, ranges, page_timeout):
            lines = tuple(
                Line(_LEADERS.sub(" …", str(text)), *map(float, box)) for text, *box in raw["lines"]
            )
            damaged = "damaged" in raw
            pages.append(Page(raw["number"], float(raw["width"]), float(raw["height"]), lines, damaged))
            if on_page is not None:
                on_page(len(pages), total)
    except pdf.PdfError as error:
        raise DocumentError(f"document.{error.id}", name=path.name, detail=error.detail) from error
    if pages and all(page.damaged for page in pages):
        raise DocumentError("document.corrupt", name=path.name, detail="no page can be read")
    return Extraction(tuple(_join_hyphens(_drop_running_heads(pages))))


def _join_hyphens(pages: Sequence[Page]) -> list[Page]:
    """Resolve PDFium's mark for a hyphen at a line end: dropped if the joined word is used elsewhere in the
    document or the split one is not a compound, kept otherwise."""
    words = Counter[str]()
    for page in pages:
        for line in page.lines:
            words.update(word.lower() for word in _WORD.findall(line.text))

    def choose(left: str, right: str) -> str:
        if not left or not right:
            return "-" if left else ""
        joined = words[(left + right).lower()]
        return "" if joined or not (words[left.lower()] > 1 and words[right.lower()] > 1) else "-"

    def resolve(text: str) -> str:
        parts = _HYPHEN.split(text)
        found = parts[0]
        for left, right in itertools.pairwise(parts):
            found += choose(_last_word(left), re.split(r"\W", right, maxsplit=1)[0]) + right
        return found

    return [
        replace(page, lines=tuple(replace(line, text=resolve(line.text)) for line in page.lines))
        for page in pages
    ]


def _last_word(text: str) -> str:
    """The letters, digits and underscores at the end (a search for them would begin at every letter)."""
    at = len(text)
    while at and (text[at - 1].isalnum() or text[at - 1] == "_"):
        at -= 1
    return text[at:]


def _drop_running_heads(pages: Sequence[Page]) -> list[Page]:
    """Take away lines among the first and last two of a page that come back, digits aside, on more than half
    of the pages, or on four pages with a number that counts with them (from four pages on).

    A line with a number that neither stays nor counts with the pages holds what its page is about, such as
    the serial number on a form, and is kept.
    """
    if len(pages) < _LEAST_PAGES:
        return list(pages)
    seen = Counter[str]()
    numbers = defaultdict[tuple[str, int], list[tuple[int, int]]](list)
    for page in pages:
        edge = {line.text for line in (*page.lines[:2], *page.lines[-2:]) if len(line.text) <= _HEAD_LENGTH}
        seen.update({_mask(text) for text in edge})
        for text in edge:
            for place, digits in enumerate(_DIGITS.findall(text)):
                numbers[_mask(text), place].append((page.number, int(digits)))
    heads = {text for text, times in seen.items() if times > len(pages) / 2}
    heads |= {text for (text, _), found in numbers.items() if _count_along(found) >= _LEAST_PAGES}
    heads -= {text for (text, _), found in numbers.items() if _is_free(found)}
    if not heads:
        return list(pages)
    return [replace(page, lines=_strip(page.lines, heads)) for page in pages]


def _count_along(found: Sequence[tuple[int, int]]) -> int:
    """On how many pages the number is the page's own, give or take the same difference."""
    return max(Counter(value - page for page, value in found if value < 1_000_000).values(), default=0)


def _is_free(found: Sequence[tuple[int, int]]) -> bool:
    """Does the number change from page to page otherwise than page numbers do (one or two a page)?"""
    kinds = min(len({value - step * page for page, value in found}) for step in (0, 1, 2))
    return len(found) >= _LEAST_PAGES and kinds > len(found) / 2


def _strip(lines: tuple[Line, ...], heads: set[str]) -> tuple[Line, ...]:
    last = len(lines) - 2
    kept = tuple(
        line
        for index, line in enumerate(lines)
        if not ((index < 2 or index >= last) and _mask(line.text) in heads)
    )
    # Slides and forms are alike on every page: better a repeated line than an empty page.
    return kept or lines


def _mask(text: str) -> str:
    return _DIGITS.sub("#", text)
