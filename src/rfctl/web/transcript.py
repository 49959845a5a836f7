"""A conversation as a Markdown file to keep."""

from __future__ import annotations

from collections.abc import Sequence

from rfctl.core.catalog import render
from rfctl.ragflow_client.reference import Source
from rfctl.web.asking import Turn
from rfctl.web.markup import quote, shorten, split_answer

PASSAGE_WIDTH = 400


def write_transcript(title: str, turns: Sequence[Turn], language: str) -> str:
    """Questions, answers and their sources. What a document brought in is no image or link here either."""
    parts = [f"# {quote(title)}"]
    for turn in turns:
        if turn.question:
            parts.append(f"## {quote(turn.question)}")
        if turn.thought:
            label = render("web.thought", language, {}).message
            parts.append(f"> {quote(label)}: {quote(turn.thought)}")
        parts += [_write_part(part.text, part.is_code, part.language) for part in split_answer(turn.text)]
        if turn.is_stopped:
            parts.append(f"*{render('web.stopped', language, {}).message}*")
        if turn.error is not None:
            parts.append(f"**{quote(turn.error.text(language).message)}**")
        if turn.sources:
            heading = "chat.sources" if any(one.cited for one in turn.sources) else "chat.sources-uncited"
            listed = [one for one in turn.sources if one.cited] or turn.sources
            lines = [render(heading, language, {}).message, ""]
            lines += [_write_source(source, language) for source in listed]
            parts.append("\n".join(lines))
    return "\n\n".join(parts) + "\n"


def describe_place(source: Source, language: str) -> str:
    """ "manual.pdf, page 3"; the document alone where it has no pages."""
    pages = source.pages
    if not pages:
        return source.document
    if len(pages) == 1:
        where = render("kb.page", language, {"page": pages[0]}).message
    else:
        where = render("kb.pages", language, {"first": min(pages), "last": max(pages)}).message
    return f"{source.document}, {where}"


def _write_source(source: Source, language: str) -> str:
    place = quote(describe_place(source, language))
    return f"- \\[{source.number}\\] {place}\n\n  > {quote(shorten(source.content, PASSAGE_WIDTH))}\n"


def _write_part(text: str, is_code: bool, language: str) -> str:
    if not is_code:
        return text.strip("\n")
    fence = "```"
    while fence in text:
        fence += "`"
    return f"{fence}{language}\n{text}\n{fence}"
