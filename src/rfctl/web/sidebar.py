"""Beside the conversation: assistants, earlier conversations, a file to keep, the language."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from rfctl.core.catalog import LANGUAGES, render
from rfctl.core.error import RfctlError, UsageError
from rfctl.ragflow_client.answer import SESSION_NAME, Message, Session, list_sessions
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.chat_option import ChatOptions
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.model import Model
from rfctl.web.asking import Turn, make_turn
from rfctl.web.markup import plain, shorten, strip_controls
from rfctl.web.place import Place
from rfctl.web.state import State
from rfctl.web.transcript import write_transcript

SHOWN_SESSIONS = 50
MANY_SESSIONS = 8
LIST_PIXELS = 330
TITLE_WIDTH = 60
_LANGUAGE_NAMES = {"en": "English", "zh": "中文"}
# Names that programs give, not people: the first question says more.
_EMPTY_NAMES = (SESSION_NAME, "New session", "")


def draw_sidebar(remembered: State, ragflow: Ragflow, here: Place, chats: Sequence[Chat]) -> Chat | None:
    """Draw it and return the chosen one of `chats`, or None. Raises as the calls of Ragflow."""
    with st.sidebar:
        if not remembered.is_restored:
            _restore(remembered, ragflow, chats, here)
        chat = _choose(remembered, chats)
        if chat is not None:
            if st.button(
                plain(remembered.text("web.new-conversation")),
                key="new",
                icon=":material/edit_square:",
                width="stretch",
            ):
                start(remembered, chat)
                st.rerun()
            _draw_sessions(remembered, ragflow, chat)
            with st.container(gap=None):
                _draw_actions(remembered, ragflow, chat)
        _draw_create(remembered, ragflow, is_open=not chats)
        _draw_language(remembered)
        profile = f"{here.profile} · " if here.profile else ""
        st.caption(plain(f"{profile}{ragflow.server.text}"))
    return chat


def start(remembered: State, chat: Chat) -> None:
    """Begin a new conversation, which the server hears of with the first question."""
    remembered.begin(chat)
    st.query_params.clear()
    st.query_params["chat"] = chat.id


def show(remembered: State, ragflow: Ragflow, chat: Chat, session: Session) -> None:
    """Turn to an earlier conversation."""
    remembered.begin(chat, session, to_turns(ragflow.messages(session)))
    st.query_params.from_dict({"chat": chat.id, "session": session.id})


def to_turns(messages: Sequence[Message]) -> list[Turn]:
    """Questions with their answers; an answer without a question is what the assistant begins with."""
    turns: list[Turn] = []
    question = ""
    for message in messages:
        if message.role == "user":
            if question:
                turns.append(Turn(question))
            question = message.text
        elif question or message.text.strip():
            turns.append(make_turn(question, message.text, message.thought, message.sources))
            question = ""
    return [*turns, Turn(question)] if question else turns


def _restore(remembered: State, ragflow: Ragflow, chats: Sequence[Chat], here: Place) -> None:
    """After a reload the address says which conversation it was; at first the command line does."""
    remembered.is_restored = True
    wanted = st.query_params.get("chat", "")
    chat = next((one for one in chats if one.id == wanted), None)
    if chat is None:
        named = ragflow.find_chat(here.chat) if here.chat else None
        chat = named or (chats[0] if chats else None)
        if chat is not None:
            start(remembered, chat)
        return
    try:
        show(remembered, ragflow, chat, ragflow.find_session(chat, st.query_params.get("session", "")))
    except UsageError:
        start(remembered, chat)


def _choose(remembered: State, chats: Sequence[Chat]) -> Chat | None:
    if not chats:
        remembered.chat = None
        return None
    known = {one.id: one for one in chats}
    current = remembered.chat.id if remembered.chat is not None else ""
    ids = list(known)
    chosen = st.selectbox(
        plain(remembered.text("web.assistant")),
        ids,
        index=ids.index(current) if current in known else 0,
        format_func=lambda id: shorten(known[id].name, 60),
        key=f"assistant-{current}-{len(ids)}",
    )
    chat = known[chosen]
    if chosen != current:
        start(remembered, chat)
        st.rerun()
    remembered.chat = chat
    return chat


def _draw_sessions(remembered: State, ragflow: Ragflow, chat: Chat) -> None:
    sessions = [one for one in list_sessions(ragflow.api, chat) if _is_worth(one)]
    if not sessions:
        return
    st.caption(plain(remembered.text("web.earlier")))
    current = remembered.session.id if remembered.session is not None else ""
    shown = sessions[:SHOWN_SESSIONS]
    height = LIST_PIXELS if len(shown) > MANY_SESSIONS else "content"
    with st.container(height=height, border=False, gap=None):
        for session in shown:
            name = plain(shorten(_title(session), TITLE_WIDTH))
            text = f"**{name}**" if session.id == current else name
            if st.button(text, key=f"open-{session.id}", type="tertiary", wrap=False):
                show(remembered, ragflow, chat, session)
                st.rerun()


def _offer_removal(remembered: State, ragflow: Ragflow, chat: Chat, session: Session) -> None:
    """Remove the conversation on the server, after a second click."""
    with st.popover(plain(remembered.text("web.remove")), icon=":material/delete:", type="tertiary"):
        st.caption(plain(remembered.text("web.remove-why")))
        if st.button(plain(remembered.text("web.remove-yes")), key="remove", type="primary"):
            try:
                ragflow.remove_session(session)
            except RfctlError as error:
                remembered.notice = error
            else:
                start(remembered, chat)
            st.rerun()


def _is_worth(session: Session) -> bool:
    """A conversation in which nothing was asked is not worth a line; some servers do not tell."""
    return bool(session.begins) or session.name not in _EMPTY_NAMES


def _title(session: Session) -> str:
    return session.begins if session.name in _EMPTY_NAMES else session.name


def _draw_actions(remembered: State, ragflow: Ragflow, chat: Chat) -> None:
    """What can be done with the conversation that is shown."""
    if not any(turn.question for turn in remembered.turns):
        return
    st.download_button(
        plain(remembered.text("web.export")),
        write_transcript(chat.name, remembered.turns, remembered.language),
        file_name="conversation.md",
        mime="text/markdown",
        key="export",
        icon=":material/download:",
        on_click="ignore",
        type="tertiary",
    )
    if remembered.session is not None:
        _offer_removal(remembered, ragflow, chat, remembered.session)


def _draw_create(remembered: State, ragflow: Ragflow, *, is_open: bool) -> None:
    """An assistant over chosen knowledge bases, as `rfctl chat create` makes it."""
    with st.expander(plain(remembered.text("web.new-chat")), expanded=is_open):
        datasets = {one.id: one for one in ragflow.datasets() if one.chunk_count}
        if not datasets:
            st.caption(plain(remembered.text("web.no-kb")))
            return
        ids = list(datasets)
        with st.form("create", border=False):
            chosen = st.multiselect(
                plain(remembered.text("web.kb")),
                ids,
                default=ids[:1] if len(ids) == 1 else [],
                format_func=lambda id: shorten(datasets[id].name, 60),
                placeholder=remembered.text("web.choose-kb"),
            )
            name = st.text_input(
                plain(remembered.text("web.name")),
                max_chars=100,
                placeholder=remembered.text("web.name-hint"),
            )
            model = _choose_model(remembered, ragflow.models("chat"))
            if st.form_submit_button(plain(remembered.text("web.create")), type="primary", width="stretch"):
                _create(remembered, ragflow, name, [datasets[id] for id in chosen], model)


def _choose_model(remembered: State, models: Sequence[Model]) -> str:
    """Full name of the model that is to answer, "" for the server's choice."""
    if len(models) < 2:
        return ""
    names = {one.full_name: one.name for one in models}
    default = next((place for place, one in enumerate(models) if one.is_default), 0)
    chosen: str = st.selectbox(
        plain(remembered.text("web.model")),
        list(names),
        index=default,
        format_func=lambda name: shorten(names[name], 60),
    )
    return chosen


def _create(remembered: State, ragflow: Ragflow, name: str, datasets: Sequence[Dataset], model: str) -> None:
    if not datasets:
        st.caption(plain(remembered.text("web.choose-kb")))
        return
    empty = render("chat.empty-response", remembered.language, {}).message
    try:
        chat, _ = ragflow.create_chat(
            strip_controls(name).strip() or datasets[0].name,
            datasets,
            model=model,
            options=ChatOptions(empty_response=empty),
        )
    except RfctlError as error:
        remembered.notice = error
    else:
        start(remembered, chat)
    st.rerun()


def _draw_language(remembered: State) -> None:
    chosen = st.segmented_control(
        plain(remembered.text("web.language")),
        LANGUAGES,
        default=remembered.language,
        format_func=lambda language: _LANGUAGE_NAMES[language],
        key="language",
        label_visibility="collapsed",
    )
    if chosen and chosen != remembered.language:
        remembered.language = chosen
        st.rerun()
