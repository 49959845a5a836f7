"""The conversation itself: questions, answers as they come, and the field for the next one."""

from __future__ import annotations

import streamlit as st

from rfctl.core.error import AuthError, RfctlError, UnreachableError
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.web import place
from rfctl.web.asking import Asking, Turn
from rfctl.web.markup import plain, shorten, split_answer, strip_controls
from rfctl.web.notice import draw_error
from rfctl.web.source_view import draw_sources
from rfctl.web.state import State

MAX_QUESTION = 8000
# A redraw per piece would keep the browser busier than the model.
REDRAW_SECONDS = 0.12
SESSION_TITLE = 60
USER, ASSISTANT = ":material/person:", ":material/menu_book:"


def draw_conversation(remembered: State, ragflow: Ragflow, chat: Chat) -> None:
    """Draw what was said, what is being said, and the field."""
    _draw_turns(remembered, ragflow, chat)
    if not remembered.turns and remembered.asking is None:
        st.write(plain(remembered.text("web.hint")))
    question = _draw_field(remembered, chat)
    if question and remembered.asking is None:
        _ask(remembered, ragflow, chat, question)
    if remembered.asking is not None:
        _follow(remembered, remembered.asking)


def draw_history(remembered: State, chat: Chat, error: RfctlError) -> None:
    """Draw what was said while the server is gone; a question that comes now gets `error` for an answer."""
    if remembered.asking is not None:
        remembered.turns.append(remembered.asking.stop())
        remembered.asking = None
    _draw_turns(remembered, None, chat)
    if question := _draw_field(remembered, chat):
        remembered.turns.append(Turn(question, error=error))
        st.rerun()


def _draw_turns(remembered: State, ragflow: Ragflow | None, chat: Chat) -> None:
    st.subheader(plain(shorten(chat.name, 60)), anchor=False)
    made_of = [", ".join(chat.dataset_names), chat.model.partition("@")[0]]
    st.caption(plain(" · ".join(part for part in made_of if part)))
    for number, turn in enumerate(remembered.turns):
        _draw_turn(remembered, ragflow, chat, turn, number)


def _draw_field(remembered: State, chat: Chat) -> str:
    """The field for the next question, and the question that was sent with this click, "" for none."""
    question = st.chat_input(
        remembered.text("web.placeholder", name=shorten(chat.name, 40)),
        key="question",
        max_chars=MAX_QUESTION,
        disabled=remembered.asking is not None,
    )
    return strip_controls(question).strip() if question else ""


def _ask(remembered: State, ragflow: Ragflow, chat: Chat, question: str) -> None:
    """Send a question; the first one opens the conversation on the server and names it."""
    try:
        if remembered.session is None:
            remembered.session = ragflow.open_session(chat, shorten(question, SESSION_TITLE) or "-")
    except RfctlError as error:
        remembered.turns.append(Turn(question, error=error))
        if isinstance(error, UnreachableError | AuthError):
            place.drop()
    else:
        st.query_params.from_dict({"chat": chat.id, "session": remembered.session.id})
        remembered.asking = Asking(ragflow, chat, question, remembered.session)
    st.rerun()


def _follow(remembered: State, asking: Asking) -> None:
    """Show the answer while it grows. A click elsewhere ends this script, not the answer."""
    with st.chat_message("user", avatar=USER):
        st.write(plain(asking.question))
    with st.chat_message("assistant", avatar=ASSISTANT):
        waiting, thought, answer = st.empty(), st.empty(), st.empty()
        if st.button(plain(remembered.text("web.stop")), key="stop", icon=":material/stop_circle:"):
            _finish(remembered, asking.stop())
        while (turn := _look(remembered, asking)) is None:
            if asking.text:
                waiting.empty()
                with answer.container():
                    _draw_answer(asking.text)
            else:
                waiting.caption(plain(remembered.text("chat.stage-ask", name=asking.chat.name)) + " …")
            if asking.thought and not asking.text:
                thought.expander(plain(remembered.text("web.thinking"))).text(strip_controls(asking.thought))
            asking.await_news(1.0)
            asking.await_pause(REDRAW_SECONDS)
        _finish(remembered, turn)


def _look(remembered: State, asking: Asking) -> Turn | None:
    try:
        return asking.turn
    except BaseException:
        # A bug must show once, not at every click from now on.
        remembered.asking = None
        raise


def _finish(remembered: State, turn: Turn) -> None:
    remembered.turns.append(turn)
    remembered.asking = None
    if isinstance(turn.error, UnreachableError | AuthError):
        place.drop()
    st.rerun()


def _draw_turn(remembered: State, ragflow: Ragflow | None, chat: Chat, turn: Turn, number: int) -> None:
    if turn.question:
        with st.chat_message("user", avatar=USER):
            st.write(plain(turn.question))
    with st.chat_message("assistant", avatar=ASSISTANT):
        if turn.thought:
            label = plain(remembered.text("web.thought"))
            st.expander(label, icon=":material/psychology:").text(strip_controls(turn.thought))
        if turn.text:
            _draw_answer(turn.text, turn)
        if turn.is_stopped:
            st.caption(plain(remembered.text("web.stopped")))
        if turn.error is not None:
            draw_error(remembered, turn.error)
            if number == len(remembered.turns) - 1 and remembered.asking is None:
                label = plain(remembered.text("web.ask-again"))
                key = f"again-{remembered.epoch}-{number}"
                if st.button(label, key=key, icon=":material/refresh:") and ragflow is not None:
                    remembered.turns.pop()
                    _ask(remembered, ragflow, chat, turn.question)
        elif not turn.text and not turn.is_stopped:
            st.caption(plain(remembered.text("web.no-answer")))
        elif turn.question and not turn.is_stopped:
            draw_sources(remembered, ragflow, chat, turn, f"{remembered.epoch}-{number}")


def _draw_answer(text: str, turn: Turn | None = None) -> None:
    cited = frozenset(source.number for source in turn.sources if source.cited) if turn is not None else None
    for part in split_answer(text, frozenset(range(1, 100)) if cited is None else cited):
        if part.is_code:
            st.code(part.text, language=part.language or None)
        else:
            st.markdown(part.text)
