"""The numbered sources under an answer: document, page and passage, and the page itself on demand."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import streamlit as st

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.reference import Source
from rfctl.web.asking import Turn
from rfctl.web.markup import plain, shorten, strip_controls
from rfctl.web.notice import draw_error
from rfctl.web.source_file import draw_source, has_page, read_file
from rfctl.web.state import State
from rfctl.web.transcript import describe_place

MAX_PASSAGE = 6000


def draw_sources(remembered: State, ragflow: Ragflow | None, chat: Chat, turn: Turn, key: str) -> None:
    """Cited passages first, each to unfold; what else the model was given lies behind one line."""
    cited = [source for source in turn.sources if source.cited]
    others = [source for source in turn.sources if not source.cited]
    if not turn.sources:
        if chat.dataset_ids:
            st.caption(plain(remembered.text("chat.no-sources")))
        return
    if not cited:
        st.caption(plain(remembered.text("chat.sources-uncited")))
        _draw_all(remembered, ragflow, chat, others, key)
        return
    st.caption(plain(remembered.text("web.sources-matched" if turn.is_matched else "chat.sources")))
    _draw_all(remembered, ragflow, chat, cited, key)
    if others:
        label = remembered.text("chat.sources-other").rstrip(":：")
        with st.expander(plain(f"{label} ({len(others)})"), type="compact"):
            _draw_all(remembered, ragflow, chat, others, key)


def _draw_all(
    remembered: State, ragflow: Ragflow | None, chat: Chat, sources: Sequence[Source], key: str
) -> None:
    for source in sources:
        title = plain(shorten(describe_place(source, remembered.language), 90))
        with st.expander(f":blue-badge[{source.number}] {title}"):
            _draw_source(remembered, ragflow, chat, source, f"{key}-{source.number}")


def _draw_source(remembered: State, ragflow: Ragflow | None, chat: Chat, source: Source, key: str) -> None:
    st.text(strip_controls(source.content[:MAX_PASSAGE]))
    score = f"{source.similarity:.2f}"
    st.caption(plain(remembered.text("web.similarity", score=score)))
    if not source.document_id or ragflow is None:
        return
    with st.container(horizontal=True, vertical_alignment="center"):
        if has_page(source):
            st.toggle(plain(remembered.text("web.show-page")), key=f"page-{key}")
        st.download_button(
            plain(remembered.text("web.download")),
            functools.partial(_read, ragflow, chat, source),
            file_name=_file_name(source.document),
            mime="application/octet-stream",
            key=f"file-{key}",
            icon=":material/download:",
            type="tertiary",
            on_click="ignore",
        )
    if has_page(source) and st.session_state.get(f"page-{key}"):
        _draw_page(remembered, ragflow, chat, source)


def _draw_page(remembered: State, ragflow: Ragflow, chat: Chat, source: Source) -> None:
    key = f"{source.document_id}/{source.pages}/{source.boxes}"
    if key not in remembered.pictures:
        try:
            with st.spinner(plain(remembered.text("web.drawing"))):
                remembered.keep_picture(key, draw_source(ragflow, chat, source))
        except RfctlError as error:
            draw_error(remembered, error)
            return
    for picture in remembered.pictures[key]:
        st.image(picture, width="stretch")


def _read(ragflow: Ragflow, chat: Chat, source: Source) -> bytes:
    return read_file(ragflow, chat, source)


def _file_name(document: str) -> str:
    """A name as the server tells it, made fit for a header and a folder."""
    name = "".join(char for char in document if char.isprintable() and char not in '/\\:*?"<>|')
    return name.strip(". ")[:120] or "document"
