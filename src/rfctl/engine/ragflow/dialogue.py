"""One question to an assistant: retrieval, prompt, the model's words, citations.

After RAGFlow v0.27.0 `dialog_service.py`. Deviations: `refine_multiturn` costs no call of the model, a
follow-up question that finds too little is searched again together with the question before it (a small
model's rewritten question spoils the search); without settings an answer from documents is asked for with
RAGFlow's preset "Precise" instead of Ollama's defaults, and at most 512 tokens long; a stream that breaks off
says so with `**ERROR**` (RAGFlow ends it like a complete answer); an assistant without datasets gets no
prompt about a knowledge base.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from rfctl.engine.ragflow import chat_store, citation, limit, model, prompt, retrieval
from rfctl.engine.ragflow.state import State
from rfctl.engine.text import similarity, token

_log = logging.getLogger(__name__)
TRUNCATED = "...\nThe answer is truncated by your chosen LLM due to its limitation on context length."
TRUNCATED_ZH = "······\n由于大模型的上下文窗口大小限制，回答已经被大模型截断。"
_STEPS = ("Check LLM", "Check Langfuse tracer", "Bind models", "Query refinement(LLM)", "Retrieval")
# For answers from documents, where neither the assistant nor the Modelfile says otherwise: RAGFlow's preset
# "Precise". Ollama's own defaults are for free writing.
_PRECISE = {"temperature": 0.1, "top_p": 0.3}
# Settings that go to Ollama as they are. frequency_penalty does not: it would become repeat_penalty.
_OPTIONS = ("temperature", "top_p", "top_k", "min_p", "seed", "stop", "repeat_penalty")


@dataclass(frozen=True)
class Question:
    """
    chat        the assistant's row; None = the bare model
    messages    the conversation, the last message from the user
    llm_id      a model other than the assistant's
    variables   values for the parameters of its prompt
    settings    over its llm_setting
    quote       False: no reference and no marks, whatever the assistant says
    """

    chat: sqlite3.Row | None
    messages: Sequence[dict[str, str]]
    llm_id: str = ""
    variables: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    document_ids: Sequence[str] | None = None
    quote: bool = True


@dataclass(frozen=True)
class Delta:
    """New text of the answer."""

    text: str


@dataclass(frozen=True)
class Final:
    """The end of an answer.

    kind        "answer" with knowledge, "empty" the fixed response, "plain" without datasets
    text        what the model wrote; marked: the same with marks
    reference   RAGFlow's reference object
    """

    kind: str
    text: str
    marked: str
    reference: dict[str, Any]
    prompt: str
    created_at: float


async def ask(state: State, question: Question) -> AsyncGenerator[Delta | Final]:
    """Deltas, then one Final. A failure of the chat model is an answer that begins with `**ERROR**`.

    Raises LookupError (no such model), model.EmbeddingError, KeyError (missing prompt variable).
    """
    begin = time.perf_counter()
    config = json.loads(question.chat["prompt_config_json"]) if question.chat is not None else {}
    ids = json.loads(question.chat["dataset_ids_json"]) if question.chat is not None else []
    target = await find_model(state, question)
    checked = time.perf_counter()
    if question.chat is None or not ids:
        steps = _talk(state, question, target, config)
    else:
        steps = _look_up(state, question, target, config, ids, begin, checked)
    async with aclosing(steps):
        async for step in steps:
            yield step


async def finish(state: State, question: Question) -> Final:
    """The end of the answer, waited for. Raises as `ask` does."""
    async with aclosing(ask(state, question)) as steps:
        async for step in steps:
            if isinstance(step, Final):
                return step
    raise RuntimeError("the dialogue ended without an end")


async def find_model(state: State, question: Question) -> model.Target:
    """The chat model that will answer. Raises LookupError."""
    if question.llm_id:
        try:
            return await model.resolve(state, question.llm_id, "chat")
        except LookupError as error:
            raise LookupError(f"Model {question.llm_id} not found.") from error
    own = str(question.chat["llm_id"]) if question.chat is not None else ""
    target = await (model.resolve(state, own, "chat") if own else model.default(state, "chat"))
    if target is None:
        raise LookupError("No default chat model is set.")
    return target


async def _talk(
    state: State, question: Question, target: model.Target, config: dict[str, Any]
) -> AsyncGenerator[Delta | Final]:
    system = str(config.get("system") or "")
    if system == chat_store.SYSTEM:
        system = ""
    text = ""
    words = _speak(state, question, target, system, config, ())
    async with aclosing(words):
        async for step in words:
            if isinstance(step, Delta):
                text += step.text
                yield step
    yield Final("plain", text, text, {"chunks": []}, "", time.time())


async def _look_up(
    state: State,
    question: Question,
    target: model.Target,
    config: dict[str, Any],
    ids: Sequence[str],
    begin: float,
    checked: float,
) -> AsyncGenerator[Delta | Final]:
    asked = question.messages[-1]["content"]
    found, rows = await _retrieve(state, question, config, ids)
    retrieved = time.perf_counter()
    if not rows and config.get("empty_response"):
        fixed = str(config["empty_response"])
        reference = {"total": 0, "chunks": [], "doc_aggs": []}
        yield Final("empty", fixed, fixed, reference, prompt.show("", asked, {}, ""), time.time())
        return
    text, used, system = "", 0, ""
    words = _speak(state, question, target, str(config.get("system") or ""), config, rows)
    async with aclosing(words):
        async for step in words:
            if isinstance(step, Delta):
                text += step.text
                yield step
            else:
                used, system = step.used, step.system
    generated = time.perf_counter()
    marked, reference = text, {}
    if question.quote and config.get("quote", True) and rows:
        marked, reference = await _cite(state, question, found, rows[:used] if used else rows, text)
    took = dict.fromkeys(("Total", *_STEPS, "Generate answer"), 0.0)
    took |= {"Total": time.perf_counter() - begin, "Check LLM": checked - begin}
    took |= {"Retrieval": retrieved - checked, "Generate answer": generated - retrieved}
    yield Final("answer", text, marked, reference, prompt.show(system, asked, took, text), time.time())


async def _retrieve(
    state: State, question: Question, config: dict[str, Any], ids: Sequence[str]
) -> tuple[retrieval.Found, list[retrieval.Row]]:
    chat = question.chat
    assert chat is not None
    users = [message["content"] for message in question.messages if message["role"] == "user"]

    async def search(text: str) -> retrieval.Found:
        return await retrieval.find(
            state,
            retrieval.Request(
                question=text,
                dataset_ids=ids,
                document_ids=question.document_ids,
                threshold=chat["similarity_threshold"],
                weight=chat["vector_similarity_weight"],
                top_k=max(1, chat["top_k"]),
            ),
        )

    found = await search(users[-1])
    count = max(0, chat["top_n"])
    if config.get("refine_multiturn", True) and len(users) > 1 and len(found.hits) < count:
        wider = await search(f"{users[-2]}\n{users[-1]}")
        seen = {hit.seq for hit in found.hits}
        more = tuple(hit for hit in wider.hits if hit.seq not in seen)
        found = retrieval.Found(found.hits + more, wider.doc_aggs if more else found.doc_aggs)
    return found, await retrieval.load(state, found.hits[:count])


async def _speak(
    state: State,
    question: Question,
    target: model.Target,
    system: str,
    config: dict[str, Any],
    rows: Sequence[retrieval.Row],
) -> AsyncGenerator[Delta | prompt.Prompt]:
    """The prompt that was sent, then the model's words; an error of the model's is words too."""
    bound = await limit.find(state, target)
    reserve = min(limit.MAX_ANSWER, bound.context // 4)
    history = [
        {"role": message["role"], "content": citation.strip(message["content"])}
        for message in question.messages
    ]
    while len(history) > 1 and history[0]["role"] != "user":
        history.pop(0)
    blocks = [prompt.Block(row.chunk["name"], row.chunk["content"]) for row in rows]
    parameters = config.get("parameters") or []
    try:
        built = prompt.build(system, parameters, question.variables, blocks, history, bound.context - reserve)
    except prompt.TooLongError as error:
        yield Delta(f"**ERROR**: {error}")
        return
    yield built
    setting = json.loads(question.chat["llm_setting_json"]) if question.chat is not None else {}
    options = _options(setting | dict(question.settings), bound, prompt.estimate(built.messages), bool(rows))
    written, done = "", False
    try:
        stream = model.chat(state, target, built.messages, options)
        async with aclosing(stream):  # type: ignore[type-var]
            async for piece in stream:
                if text := (piece.get("message") or {}).get("content"):
                    written += text
                    yield Delta(text)
                if piece.get("done"):
                    done = True
                    if piece.get("done_reason") == "length":
                        yield Delta(TRUNCATED_ZH if token.is_han(written) else TRUNCATED)
        if not done:
            raise model.ChatError("the model server ended the answer before it was complete")
    except model.ChatError as error:
        yield Delta(("\n" if written else "") + f"**ERROR**: {error}")


def _options(setting: dict[str, Any], bound: limit.Limit, size: int, precise: bool) -> dict[str, Any]:
    options = {key: value for key, value in _PRECISE.items() if precise and key not in bound.fixed}
    options |= {key: setting[key] for key in _OPTIONS if setting.get(key) is not None}
    if "num_ctx" not in bound.fixed:
        options["num_ctx"] = bound.context
    wanted = setting.get("max_tokens")
    if isinstance(wanted, int) and wanted > 0:
        options["num_predict"] = wanted
    elif "num_predict" not in bound.fixed:
        # Without a bound a small model that loops would write until the context is full, and then on.
        options["num_predict"] = max(64, min(limit.MAX_ANSWER, bound.context - size))
    return options


async def _cite(
    state: State, question: Question, found: retrieval.Found, rows: Sequence[retrieval.Row], text: str
) -> tuple[str, dict[str, Any]]:
    marked, cited = citation.clean(text, len(rows))
    if not cited and marked.strip() and "**ERROR**" not in marked:
        try:
            marked, cited = await _insert(state, question, rows, marked)
        except (model.EmbeddingError, LookupError) as error:
            _log.warning("no citations: %s", error)
    aggs = list(found.doc_aggs)
    documents = {rows[number].chunk["document_id"] for number in cited}
    aggs = [one for one in aggs if one["doc_id"] in documents] or aggs
    chunks = [describe(row) for row in rows]
    return marked, {"total": len(found.hits), "chunks": chunks, "doc_aggs": aggs}


async def _insert(
    state: State, question: Question, rows: Sequence[retrieval.Row], text: str
) -> tuple[str, set[int]]:
    sentences = citation.split(text)
    spoken = [sentence.text.strip() for sentence in sentences if sentence.is_text]
    if not spoken or question.chat is None:
        return text, set()
    ids = json.loads(question.chat["dataset_ids_json"])
    datasets = await state.database.read(lambda connection: retrieval.datasets_of(connection, ids))
    target = await retrieval.embedding_target(state, datasets)
    vectors = await model.embed(state, target, spoken)
    words = [
        similarity.chunk_words(
            token.content_words(row.chunk["tokens"]), token.coarse(token.title_text(row.chunk["name"]))
        )
        for row in rows
    ]
    return citation.insert(sentences, vectors, words, await retrieval.load_vectors(state, rows))


def describe(row: retrieval.Row) -> dict[str, Any]:
    """A chunk in a reference, keys in RAGFlow's order."""
    return {
        "id": row.chunk["id"],
        "content": row.chunk["content"],
        "document_id": row.chunk["document_id"],
        "document_name": row.chunk["name"],
        "dataset_id": row.chunk["dataset_id"],
        "image_id": row.chunk["image_id"],
        "positions": row.positions(),
        "url": None,
        "similarity": row.hit.similarity,
        "vector_similarity": row.hit.vector_similarity,
        "term_similarity": row.hit.term_similarity,
        "row_id": None,
        "doc_type": "",
        "document_metadata": None,
    }
