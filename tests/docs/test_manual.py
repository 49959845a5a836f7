"""The manual's PDF says what its source says, one section a page."""

from __future__ import annotations

import re
from pathlib import Path

import pypdfium2

DOCS = Path(__file__).resolve().parents[2] / "docs"


def letters(text: str) -> str:
    """Letters and digits only: a PDF breaks lines and hyphenates where it likes."""
    return re.sub(r"\W+", "", text)


def test_the_pdf_was_made_from_the_source() -> None:
    source = (DOCS / "en/manual.md").read_text(encoding="utf-8")
    sections = re.split(r"^## ", source, flags=re.MULTILINE)[1:]
    document = pypdfium2.PdfDocument(DOCS / "manual.pdf")
    assert len(document) == len(sections)
    for page, section in zip(document, sections, strict=True):
        assert letters(section) in letters(page.get_textpage().get_text_range())
