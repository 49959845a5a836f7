"""Asking an assistant, with the answer's sources, in one piece or as a stream."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.thought import Mark, ThoughtSplitter
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.failure import ServerError, shorten
from rfctl.ragflow_client.record import check_ids, is_id, mapping, record, records, text
from rfctl.ragflow_client.reference import MarkWriter, Source, number_sources, plain_marks
from rfctl.ragflow_client.transport import ANSWER_SECONDS, Api

_ERROR = "**ERROR**"
_THOUGHT = re.compile(r"\s*<think>(.*?)(?:</think>|\Z)\s*", re.DOTALL)
SESSION_NAME = "rfctl"
# No model has a context that holds such an answer; a server that never ends would fill the memory.
MAX_CHARACTERS = 16 << 20
_TOP_N = 6  # of an assistant made without one


@dataclass(frozen=True)
class Session:
    """A conversation of an assistant. begins: its first question, where it was listed, "" otherwise."""

    id: str
    name: str
    chat_id: str
    begins: str = ""


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. role: "user" or "assistant"; sources and thought as in Answer."""

    role: str
    text: str
    sources: tuple[Source, ...] = ()
    thought: str = ""


@dataclass(frozen=True)
class Answer:
    """An answer with citations `[1]`... that are the numbers of `sources`.

    sources    cited passages first, in the order of their marks, then the others that the model was given
    thought    what a reasoning model wrote before the answer
    """

    text: str
    sources: tuple[Source, ...]
    session_id: str
    thought: str = ""

    @property
    def cited(self) -> tuple[Source, ...]:
        return tuple(source for source in self.sources if source.cited)


def open_session(api: Api, chat: Chat, name: str = SESSION_NAME) -> Session:
    """Begin a conversation. Old servers ignore a question that comes without one."""
    path = f"/chats/{_id(chat.id)}/sessions"
    row = record(api.call("POST", path, json={"name": name}), path)
    return Session(text(row, "id"), text(row, "name"), chat.id)


def list_sessions(api: Api, chat: Chat) -> tuple[Session, ...]:
    """The newest hundred conversations."""
    path = f"/chats/{_id(chat.id)}/sessions"
    rows = records(api.call("GET", path, params={"page": 1, "page_size": 100}), path)
    return tuple(Session(text(row, "id"), text(row, "name"), chat.id, _first_question(row)) for row in rows)


def find_session(api: Api, chat: Chat, id: str) -> Session:
    """The conversation with this id. Raises UsageError `chat.session-unknown`."""
    if is_id(id):
        try:
            path = f"/chats/{_id(chat.id)}/sessions/{id}"
            row = record(api.call("GET", path), path)
            return Session(text(row, "id"), text(row, "name"), chat.id)
        except ServerError as error:
            if error.id not in ("ragflow.refused", "ragflow.not-yours"):
                raise
    raise UsageError("chat.session-unknown", id=id, name=chat.name)


def read_messages(api: Api, session: Session) -> tuple[Message, ...]:
    """What was said in a conversation, oldest first, marks as `[1]`. RAGFlow 0.25 and later.

    The server keeps one reference for each answer to a question, none for the words an assistant begins with.
    """
    path = f"/chats/{_id(session.chat_id)}/sessions/{_id(session.id)}"
    found = record(api.call("GET", path), path)
    rows = records(found.get("messages") or [], path)
    references = found.get("reference")
    kept = iter(references if isinstance(references, list) else ())
    messages = []
    is_asked = False
    for row in rows:
        role, said = text(row, "role"), text(row, "content")
        thought, spoken = _split_thought(said)
        chunks = _chunks(next(kept, None)) if role == "assistant" and is_asked else []
        is_asked = is_asked or role == "user"
        if role == "user":
            messages.append(Message(role, said))
        elif chunks:
            rewritten, sources = number_sources(spoken.strip(), chunks)
            messages.append(Message(role, rewritten, sources, thought))
        else:
            messages.append(Message(role, plain_marks(spoken), (), thought))
    return tuple(messages)


def remove_session(api: Api, session: Session) -> None:
    path = f"/chats/{_id(session.chat_id)}/sessions"
    api.call("DELETE", path, json={"ids": check_ids([session.id])})


def ask(api: Api, chat: Chat, question: str, session: Session | None = None) -> Answer:
    """Ask and wait for the whole answer: only this way the server adds citations the model left out.

    Raises RfctlError `chat.model-failed` (the model or the embedding service), `chat.answer-empty`,
    UsageError `retrieval.question-empty`, and what a call raises. Waits up to ten minutes.
    """
    if not question.strip():
        raise UsageError("retrieval.question-empty")
    session = session or open_session(api, chat)
    body = {"question": question, "session_id": session.id, "stream": False}
    path = f"/chats/{_id(chat.id)}/completions"
    try:
        data = mapping(api.call("POST", path, json=body, read_seconds=ANSWER_SECONDS))
    except ServerError as error:
        raise _translate(error, chat) from error
    if "answer" not in data:
        raise ServerError("ragflow.shape", url=path, detail=shorten(str(dict(data))[:200]))
    return _answer(text(data, "answer"), data.get("reference"), session.id, chat)


def ask_stream(
    api: Api,
    chat: Chat,
    question: str,
    show: Callable[[str], None],
    session: Session | None = None,
    *,
    think: Callable[[str], None] = lambda _: None,
) -> Answer:
    """Ask and hand over the text as it comes; the answer at the end is put together by `join_frames`.

    think gets what a reasoning model writes before its answer.

    The stream of RAGFlow 0.24, 0.26.4 and later carries no citation that the server would add. Raises as
    `ask`.
    """
    if not question.strip():
        raise UsageError("retrieval.question-empty")
    session = session or open_session(api, chat)
    body = {"question": question, "session_id": session.id, "stream": True}
    frames = api.stream(f"/chats/{_id(chat.id)}/completions", body)
    writer = MarkWriter(show, chat.top_n or _TOP_N)
    try:
        whole, reference = join_frames((mapping(frame.get("data")) for frame in frames), writer.write, think)
    except ServerError as error:
        raise _translate(error, chat) from error
    writer.finish()
    return _answer(whole, reference, session.id, chat)


def join_frames(
    frames: Iterable[Mapping[str, Any]],
    show: Callable[[str], None] = lambda _: None,
    think: Callable[[str], None] = lambda _: None,
) -> tuple[str, object]:
    """The text and the reference of a stream, whichever version sent it.

    Without the key `final` (up to 0.23) each frame holds the whole text so far; with it false is new text,
    and true the whole text or, where that is empty (0.24, 0.26.4 and later), the end. `show` gets only new
    text, `think` that between the marks of a thought.
    """
    whole = ""
    reference: object = {}
    splitter = ThoughtSplitter()

    def tell(piece: str) -> None:
        for part in splitter.feed(piece):
            if isinstance(part, str):
                (think if splitter.is_thinking else show)(part)

    for frame in frames:
        piece = text(frame, "answer")
        if piece.startswith(_ERROR):
            raise ServerError("chat.model-failed", message=piece, detail=_words(piece))
        if frame.get("start_to_think") is True and not splitter.is_thinking:
            piece = Mark.OPEN.value
        elif frame.get("end_to_think") is True and splitter.is_thinking:
            piece = Mark.CLOSE.value
        if "final" not in frame or (frame["final"] is True and piece):
            if piece.startswith(whole):
                tell(piece[len(whole) :])
            whole = piece
        elif frame["final"] is False:
            whole += piece
            tell(piece)
        if len(whole) > MAX_CHARACTERS:
            raise ServerError("ragflow.answer-too-large", limit=MAX_CHARACTERS)
        found = frame.get("reference")
        if isinstance(found, Mapping) and found.get("chunks"):
            reference = found
    for part in splitter.finish():
        (think if splitter.is_thinking else show)(part)
    return whole, reference


def _answer(whole: str, reference: object, session_id: str, chat: Chat) -> Answer:
    if whole.lstrip().startswith(_ERROR):
        raise RfctlError("chat.model-failed", name=chat.name, detail=_words(whole))
    thought, spoken = _split_thought(whole)
    rewritten, sources = number_sources(spoken.strip(), _chunks(reference))
    if not rewritten and not sources:
        raise RfctlError("chat.answer-empty", name=chat.name)
    return Answer(rewritten, sources, session_id, thought)


def _split_thought(whole: str) -> tuple[str, str]:
    """(what a reasoning model thought, what it said)."""
    if Mark.CLOSE.value in whole and Mark.OPEN.value not in whole:
        # The prompt of DeepSeek-R1 and others ends with the opening mark, so that the model never writes it.
        whole = Mark.OPEN.value + whole
    thought = _THOUGHT.match(whole)
    return (thought[1].strip(), whole[thought.end() :]) if thought else ("", whole)


def _chunks(reference: object) -> list[Mapping[str, Any]]:
    chunks = mapping(reference).get("chunks")
    if isinstance(chunks, Mapping):  # some versions number them in an object
        chunks = list(chunks.values())
    return list(records(chunks or [], "reference"))


def _first_question(row: Mapping[str, Any]) -> str:
    said = row.get("messages")
    messages = [one for one in said if isinstance(one, Mapping)] if isinstance(said, list) else []
    return next((text(one, "content") for one in messages if text(one, "role") == "user"), "")


def _translate(error: ServerError, chat: Chat) -> RfctlError:
    """Errors of the models come as codes 100 and 500; those of the request keep their own."""
    if error.id == "chat.model-failed":
        return RfctlError("chat.model-failed", name=chat.name, detail=error.params["detail"])
    if error.id == "ragflow.refused" and error.code in (100, 500):
        return RfctlError("chat.model-failed", name=chat.name, detail=error.message)
    return error


def _words(text: str) -> str:
    return shorten(text.strip().removeprefix(_ERROR).lstrip(": "))


def _id(id: str) -> str:
    return check_ids([id])[0]
