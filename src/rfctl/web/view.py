"""The page: one assistant, one conversation, and beside it what else there is."""

from __future__ import annotations

import streamlit as st

from rfctl.core.error import AuthError, RfctlError, UnreachableError
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.web import place
from rfctl.web.conversation import draw_conversation, draw_history
from rfctl.web.markup import plain
from rfctl.web.notice import draw_error
from rfctl.web.sidebar import draw_sidebar
from rfctl.web.state import State, state

ICON = (
    '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 32 32"><rect width="32" height="32" rx="8" '
    'fill="#2f6fb0"/><path d="M8 9h16v11H15l-5 4v-4H8z" fill="#fff"/></svg>'
)


def draw() -> None:
    """Draw the page for one visit or one click."""
    here = place.current()
    remembered = state(here.language)
    st.set_page_config(page_title="rfctl", page_icon=ICON, layout="centered")
    try:
        with st.spinner(plain(remembered.text("web.connecting")), show_time=True):
            ragflow, chats = _reach(here)
        chat = draw_sidebar(remembered, ragflow, here, chats)
    except (UnreachableError, AuthError) as error:
        _draw_failure(remembered, error)
        return
    except RfctlError as error:
        draw_error(remembered, error)
        _offer_retry(remembered)
        return
    if remembered.notice is not None:
        draw_error(remembered, remembered.notice)
    if chat is None:
        _draw_empty(remembered, ragflow)
        return
    draw_conversation(remembered, ragflow, chat)


def _reach(here: place.Place) -> tuple[Ragflow, tuple[Chat, ...]]:
    """The server with its assistants. The embedded engine is started again where it has stopped."""
    ragflow = place.client()
    try:
        return ragflow, ragflow.chats()
    except UnreachableError:
        if here.ragflow_url:
            raise
        place.drop()
        ragflow = place.client()
        return ragflow, ragflow.chats()


def _draw_failure(remembered: State, error: RfctlError) -> None:
    """The server is gone: what was said stays readable, what was asked is kept to be asked again."""
    place.drop()
    if remembered.chat is not None:
        draw_history(remembered, remembered.chat, error)
    if not remembered.turns or remembered.turns[-1].error is None:
        draw_error(remembered, error)
        _offer_retry(remembered)


def _offer_retry(remembered: State) -> None:
    if st.button(plain(remembered.text("web.retry")), key="retry", type="primary"):
        place.drop()
        st.rerun()


def _draw_empty(remembered: State, ragflow: Ragflow) -> None:
    st.title(plain(remembered.text("web.welcome")), anchor=False)
    id = "web.no-chat" if ragflow.datasets() else "web.no-kb"
    text = remembered.text(id)
    st.write(plain(text))
    if id == "web.no-kb":
        st.code("rfctl kb upload manual.pdf", language=None)
