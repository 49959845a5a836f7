"""The OpenAI-compatible route of assistants (RAGFlow v0.27.0 `openai_api.py`).

Deviations: token counts are estimates; metadata conditions and reference_metadata are ignored.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from rfctl.engine.ragflow import body, chat_store, completion_api, dialogue, sse, state
from rfctl.engine.ragflow.envelope import ARGUMENT, DATA, Failure, JsonResponse
from rfctl.engine.text.chunk import count_tokens

_SETTINGS = ("temperature", "top_p", "max_tokens")


async def complete_openai(request: Request) -> Response:
    """Answer in OpenAI's form; `extra_body.reference` adds the chunks."""
    shared = state.of(request)
    payload = await body.read_object(request)
    for key in ("model", "messages"):
        if key not in payload:
            raise Failure(ARGUMENT, f"required argument are missing: {key}; ", data=None)
    extra = payload.get("extra_body") or {}
    if not isinstance(extra, dict):
        raise Failure(DATA, "extra_body must be an object.")
    messages = _messages(payload["messages"])
    chat_id = request.path_params["chat"]
    chat = await shared.database.read(lambda connection: chat_store.find(connection, chat_id))
    if chat is None:
        raise Failure(DATA, f"You don't own the chat {chat_id}")
    wanted = str(payload["model"])
    referenced = bool(extra.get("reference"))
    question = dialogue.Question(
        chat=chat,
        messages=[message for message in messages if message["role"] != "system"],
        llm_id="" if wanted == "model" else wanted,
        settings={key: payload[key] for key in _SETTINGS if payload.get(key) is not None},
        quote=referenced,
    )
    try:
        target = await dialogue.find_model(shared, question)
    except LookupError as error:
        raise Failure(ARGUMENT, f"`llm_id` {wanted} doesn't exist") from error
    head = {
        "id": f"chatcmpl-{chat_id}",
        "created": int(time.time()),
        "model": target.full_name if wanted == "model" else wanted,
    }
    if payload.get("stream"):
        return sse.respond(_stream(shared, question, head, referenced))
    try:
        end = await dialogue.finish(shared, question)
    except completion_api.EXPECTED as error:
        raise Failure(400, repr(error), data=None) from error
    message: dict[str, Any] = {"content": end.marked, "role": "assistant"}
    if referenced:
        message["reference"] = end.reference.get("chunks", [])
    choice = {"finish_reason": "stop", "index": 0, "logprobs": None, "message": message}
    usage = _usage(messages, end.marked)
    usage["completion_tokens_details"] = {
        "accepted_prediction_tokens": usage["completion_tokens"],
        "reasoning_tokens": sum(count_tokens(one["content"]) for one in messages),
        "rejected_prediction_tokens": 0,
    }
    return JsonResponse(head | {"object": "chat.completion", "choices": [choice], "usage": usage})


def _messages(value: Any) -> list[dict[str, str]]:
    if not isinstance(value, list):
        raise Failure(DATA, "messages must be an array.")
    messages = []
    for message in value:
        content = message.get("content") if isinstance(message, dict) else None
        if isinstance(content, list):
            texts = [part.get("text", "") for part in content if isinstance(part, dict)]
            content = "\n".join(str(text) for text in texts)
        if not isinstance(content, str):
            raise Failure(DATA, "messages[].content must be a string or an array of content parts.")
        messages.append({"role": str(message.get("role", "user")), "content": content})
    if not messages:
        raise Failure(DATA, "You have to provide messages.")
    if messages[-1]["role"] != "user":
        raise Failure(DATA, "The last content of this conversation is not from user.")
    return messages


async def _stream(
    shared: state.State, question: dialogue.Question, head: dict[str, Any], referenced: bool
) -> AsyncIterator[bytes]:
    head = head | {"object": "chat.completion.chunk", "system_fingerprint": ""}
    empty = {"role": "assistant", "function_call": None, "tool_calls": None, "reasoning_content": None}

    def chunk(delta: dict[str, Any], reason: str | None, usage: dict[str, Any] | None) -> bytes:
        choice = {"delta": empty | delta, "finish_reason": reason, "index": 0, "logprobs": None}
        return sse.frame(head | {"choices": [choice], "usage": usage})

    text = ""
    last: dict[str, Any] = {"content": None}
    try:
        async for step in completion_api.gather(dialogue.ask(shared, question)):
            if isinstance(step, dialogue.Delta):
                text += step.text
                yield chunk({"content": step.text}, None, None)
                continue
            if step.kind == "empty":
                text = step.text
                yield chunk({"content": text}, None, None)
            if referenced:
                last |= {"reference": step.reference.get("chunks", []), "final_content": step.text}
    except completion_api.EXPECTED as error:
        yield chunk({"content": f"**ERROR**: {error}", "reasoning_content": ""}, None, None)
    yield chunk(last, "stop", _usage(question.messages, text))
    yield b"data:[DONE]\n\n"


def _usage(messages: Any, answer: str) -> dict[str, Any]:
    asked, given = count_tokens(messages[-1]["content"]), count_tokens(answer)
    return {"prompt_tokens": asked, "completion_tokens": given, "total_tokens": asked + given}


ROUTES = [
    Route("/openai/{chat}/chat/completions", complete_openai, methods=["POST"]),
    Route("/chats_openai/{chat}/chat/completions", complete_openai, methods=["POST"]),
]
