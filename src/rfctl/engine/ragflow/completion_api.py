"""Questions to assistants: POST /chats/<id>/completions and /chat/completions (RAGFlow v0.27.0).

Deviations: see `dialogue`; the Content-Type of streams is not doubled; words are sent at least every tenth of
a second (RAGFlow: about 16 tokens per frame); an answer that the client did not wait for is not stored.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.core.thought import Mark, ThoughtSplitter
from rfctl.engine.ragflow import body, chat_store, dialogue, model, session_store, sse, state
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, ok, refused
from rfctl.engine.ragflow.stamp import new_id
from rfctl.engine.text.chunk import count_tokens

_log = logging.getLogger(__name__)
FRAME_TOKENS = 16
FRAME_SECONDS = 0.1
# What an answer can fail with through no fault of the engine.
EXPECTED = (model.EmbeddingError, LookupError)
_SETTINGS = ("temperature", "top_p", "max_tokens")
# Keys of the body that are not values for the prompt.
_OWN = {
    *("question", "messages", "session_id", "chat_id", "stream", "legacy", "llm_id", "reasoning", "doc_ids"),
    *("pass_all_history_messages", "store_history_messages", "user_id", "id", *_SETTINGS),
}


@dataclass(frozen=True)
class Asked:
    """A checked request. session: "" = keep nothing."""

    question: dialogue.Question
    chat_id: str
    session: str
    message_id: str
    legacy: bool

    def head(self) -> dict[str, Any]:
        """The ids in every answer."""
        ids = {"id": self.message_id, "session_id": self.session}
        return ids | {"chat_id": self.chat_id} if self.chat_id else ids


async def complete_chat(request: Request) -> Response:
    """Ask the assistant of the path; `question` or `messages`."""
    payload = await body.read_object(request)
    shared = state.of(request)
    chat_id = request.path_params["chat"]
    await shared.database.read(lambda connection: chat_store.get(connection, chat_id))
    question = payload.get("question")
    if question is not None and "messages" not in payload:
        if not isinstance(question, str):
            kind = type(question).__name__
            raise refused(TypeError(f"sequence item 0: expected str instance, {kind} found"))
        payload["messages"] = [{"role": "user", "content": question}]
    return await _complete(shared, payload | {"chat_id": chat_id})


async def complete(request: Request) -> Response:
    """Ask the assistant `chat_id`, or without one the bare model."""
    return await _complete(state.of(request), await body.read_object(request))


async def _complete(shared: state.State, payload: dict[str, Any]) -> Response:
    messages = check_messages(payload)
    asked = await _prepare(shared, payload, messages)
    if payload.get("stream", True):
        return sse.respond(_stream(shared, asked))
    try:
        end = await dialogue.finish(shared, asked.question)
    except EXPECTED as error:
        raise refused(error) from error
    await _store(shared, asked, end, end.marked)
    return ok(_whole(asked, end), "success")


def check_messages(payload: dict[str, Any]) -> list[dict[str, Any]]:
    """The `messages` of a body. Raises Failure 101 and 102 with RAGFlow's texts."""
    if payload.get("messages") is None:
        raise Failure(ARGUMENT, "required argument are missing: messages")
    messages = payload["messages"]
    if not isinstance(messages, list) or not messages:
        raise Failure(ARGUMENT, "`messages` must be a non-empty list.")
    for message in messages:
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            raise Failure(ARGUMENT, "Every item in `messages` must include `role` and `content`.")
    if not any(message["role"] == "user" for message in messages):
        raise Failure(ARGUMENT, "`messages` must contain a user message.")
    if messages[-1]["role"] != "user":
        raise Failure(ARGUMENT, "The last message must be from user.")
    if payload.get("session_id") and not payload.get("chat_id"):
        raise Failure(DATA, "`chat_id` is required when `session_id` is provided.")
    if payload.get("store_history_messages") is False and not payload.get("pass_all_history_messages"):
        raise Failure(
            DATA, "`pass_all_history_messages` must be true when `store_history_messages` is false."
        )
    return messages


async def _prepare(shared: state.State, payload: dict[str, Any], messages: list[dict[str, Any]]) -> Asked:
    chat_id, session_id = str(payload.get("chat_id") or ""), str(payload.get("session_id") or "")
    last = {"role": "user", "content": str(messages[-1]["content"])}
    sent = [{"role": str(one["role"]), "content": str(one["content"])} for one in messages]
    keeps = bool(chat_id) and payload.get("store_history_messages", True) is not False

    def look(connection: sqlite3.Connection) -> tuple[sqlite3.Row | None, sqlite3.Row | None]:
        chat = chat_store.get(connection, chat_id) if chat_id else None
        if session_id:
            return chat, session_store.get(connection, chat_id, session_id)
        if chat is not None and keeps:
            return chat, session_store.create(connection, chat, last["content"] or "New session")
        return chat, None

    work = shared.database.read if session_id or not keeps else shared.database.write
    chat, session = await work(look)
    if payload.get("pass_all_history_messages") or session is None or not session_id:
        history = sent
    else:
        old = session_store.describe(session, shared.tenant_id)["messages"]
        history = [{"role": one["role"], "content": one["content"]} for one in old] + [last]
    documents = payload.get("doc_ids")
    if isinstance(documents, str):
        documents = [id for id in documents.split(",") if id]
    question = dialogue.Question(
        chat=chat,
        messages=history,
        llm_id=str(payload.get("llm_id") or ""),
        variables={key: value for key, value in payload.items() if key not in _OWN},
        settings={key: payload[key] for key in _SETTINGS if payload.get(key) is not None},
        document_ids=documents or None,
    )
    return Asked(
        question=question,
        chat_id=chat_id,
        session=str(session["id"]) if session is not None and keeps else session_id,
        message_id=str(messages[-1].get("id") or new_id()),
        legacy=payload.get("legacy") is True,
    )


async def _store(shared: state.State, asked: Asked, end: dialogue.Final, text: str) -> None:
    if not asked.session:
        return
    messages: list[dict[str, Any]] = [
        {"content": asked.question.messages[-1]["content"], "id": asked.message_id, "role": "user"},
        {"content": text, "created_at": end.created_at, "id": asked.message_id, "role": "assistant"},
    ]
    reference = end.reference
    await shared.database.write(
        lambda connection: session_store.append(connection, asked.session, messages, reference)
    )


def _whole(asked: Asked, end: dialogue.Final) -> dict[str, Any]:
    shown: dict[str, Any] = {"answer": end.marked, "audio_binary": None, **asked.head()}
    if end.kind == "empty":
        return shown | {"final": False, "prompt": "", "reference": {"chunks": []}}
    return shown | {"created_at": end.created_at, "prompt": end.prompt, "reference": end.reference}


async def _stream(shared: state.State, asked: Asked) -> AsyncIterator[bytes]:
    try:
        text = ""
        splitter = ThoughtSplitter()
        async for step in gather(dialogue.ask(shared, asked.question)):
            if isinstance(step, dialogue.Delta):
                text += step.text
                if asked.legacy:
                    yield _frame(_delta(asked, text))
                    continue
                for piece in splitter.feed(step.text):
                    yield _frame(_piece(asked, piece))
                continue
            for piece in splitter.finish():
                yield _frame(_piece(asked, piece))
            await _store(shared, asked, step, step.text)
            if step.kind == "empty":
                yield _frame(_delta(asked, step.text) | {"prompt": ""})
            if step.kind != "plain":
                yield _frame(_end(asked, step))
    except Exception as error:  # RAGFlow's contract: whatever happens in a stream is a frame with code 500
        if not isinstance(error, EXPECTED):
            _log.exception("a streamed answer failed")
        failed = {"answer": f"**ERROR**: {error}", "reference": []}
        yield sse.frame({"code": 500, "message": str(error), "data": failed})
    yield _frame(True)


def _frame(data: Any) -> bytes:
    return sse.frame({"code": 0, "message": "", "data": data})


def _delta(asked: Asked, text: str) -> dict[str, Any]:
    shown: dict[str, Any] = {"answer": text, "reference": {"chunks": []}, "audio_binary": None}
    if not asked.chat_id or asked.question.chat is None or asked.question.chat["dataset_ids_json"] == "[]":
        shown |= {"prompt": "", "created_at": time.time()}
    return shown | {"final": False} | asked.head()


def _piece(asked: Asked, piece: str | Mark) -> dict[str, Any]:
    """New text, or the mark of a thought's begin or end (structure_answer of RAGFlow v0.27.0)."""
    if isinstance(piece, Mark):
        return _delta(asked, "") | {"start_to_think" if piece is Mark.OPEN else "end_to_think": True}
    return _delta(asked, piece)


def _end(asked: Asked, end: dialogue.Final) -> dict[str, Any]:
    whole = end.kind == "empty" or asked.legacy
    shown: dict[str, Any] = {
        "answer": end.text if whole else "",
        "reference": end.reference,
        "prompt": end.prompt,
    }
    if end.kind != "empty":
        shown["created_at"] = end.created_at
    return shown | {"final": True, "audio_binary": None} | asked.head()


async def gather(
    steps: AsyncGenerator[dialogue.Delta | dialogue.Final],
) -> AsyncGenerator[dialogue.Delta | dialogue.Final]:
    """The same with deltas put together to about 16 tokens or a tenth of a second."""
    text, since = "", time.monotonic()
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, dialogue.Delta):
                text += step.text
                if count_tokens(text) < FRAME_TOKENS and time.monotonic() - since < FRAME_SECONDS:
                    continue
            if text:
                yield dialogue.Delta(text)
                text, since = "", time.monotonic()
            if isinstance(step, dialogue.Final):
                yield step


ROUTES = [
    Route("/chats/{chat}/completions", complete_chat, methods=["POST"]),
    Route("/chat/completions", complete, methods=["POST"]),
]
