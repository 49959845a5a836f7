"""Assistants: create, list, remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.failure import ServerError, UncertainError
from rfctl.ragflow_client.model import choose_model
from rfctl.ragflow_client.record import (
    PAGE_SIZE,
    check_ids,
    is_id,
    mapping,
    number,
    pages,
    record,
    records,
    text,
    whole,
)
from rfctl.ragflow_client.retrieval import check_one_model
from rfctl.ragflow_client.transport import Api

MAX_NAME_BYTES = 255
KNOWLEDGE = "{knowledge}"
# Short on purpose: RAGFlow adds about 1,500 tokens of rules for citations to every prompt.
SYSTEM = (
    "Answer the question from the passages below, in the language of the question. Keep to what they say and "
    "cite each passage you use as [ID:n]. If they do not hold the answer, say so.\n" + KNOWLEDGE
)
_UNPARSED = "doesn't own parsed file"


@dataclass(frozen=True)
class ChatOptions:
    """How an assistant answers.

    system          instructions; `{knowledge}` stands for the passages and is added when missing
    empty_response  what is said, without a model, when nothing was found; "" lets the model answer freely
    top_n           passages per question; similarity_threshold and vector_similarity_weight are 0-1
    """

    system: str = SYSTEM
    opener: str = ""
    empty_response: str = ""
    top_n: int = 6
    similarity_threshold: float = 0.2
    vector_similarity_weight: float = 0.3
    top_k: int = 1024
    temperature: float = 0.1
    top_p: float = 0.3
    refine_multiturn: bool = False

    def check(self) -> None:
        """Raise UsageError `dataset.option-invalid`: RAGFlow does not look at these numbers."""
        for name, least, most in (
            ("top_n", 1, 100),
            ("top_k", 1, 2048),
            ("similarity_threshold", 0, 1),
            ("vector_similarity_weight", 0, 1),
            ("temperature", 0, 2),
            ("top_p", 0, 1),
        ):
            value = getattr(self, name)
            if not least <= value <= most:
                raise UsageError(
                    "dataset.option-invalid", option=name, value=value, allowed=f"{least}-{most}"
                )

    def to_body(self) -> dict[str, Any]:
        """The fields of a chat in the form of RAGFlow 0.25 and later, which older servers take too."""
        return {
            # No frequency_penalty: LiteLLM makes it repeat_penalty, which below 1 rewards repetition.
            "llm_setting": {"temperature": self.temperature, "top_p": self.top_p},
            "prompt_config": {
                "system": _prepare(self.system),
                "prologue": self.opener,
                "parameters": [{"key": "knowledge", "optional": False}],
                "empty_response": self.empty_response,
                "quote": True,
                "tts": False,
                "refine_multiturn": self.refine_multiturn,
            },
            "similarity_threshold": self.similarity_threshold,
            "vector_similarity_weight": self.vector_similarity_weight,
            "top_n": self.top_n,
            "top_k": self.top_k,
            "rerank_id": "",
        }


@dataclass(frozen=True)
class Chat:
    """An assistant as listed. model: the full name, or a model's id where it was made without one."""

    id: str
    name: str
    model: str
    dataset_ids: tuple[str, ...]
    dataset_names: tuple[str, ...]
    top_n: int = 0
    similarity_threshold: float = 0.0
    created: str = ""


def list_chats(api: Api) -> tuple[Chat, ...]:
    """All assistants, newest first."""
    found: dict[str, Chat] = {}
    for page in pages():
        data = api.call("GET", "/chats", params={"page": page, "page_size": PAGE_SIZE})
        rows = records(data if isinstance(data, list) else mapping(data).get("chats"), "/chats")
        for row in rows:
            found.setdefault(text(row, "id"), _read(row))
        if len(rows) < PAGE_SIZE:
            break
    return tuple(found.values())


def find_chat(api: Api, name: str) -> Chat | None:
    """The assistant with this name (case does not matter: the server compares so) or id, or None."""
    wanted = name.strip()
    for one in list_chats(api):
        if one.name.casefold() == wanted.casefold() or (is_id(wanted) and one.id == wanted):
            return one
    return None


def get_chat(api: Api, name: str) -> Chat:
    """Like `find_chat`. Raises UsageError `chat.unknown`."""
    found = find_chat(api, name)
    if found is None:
        known = ", ".join(one.name for one in list_chats(api)[:20]) or "-"
        raise UsageError("chat.unknown", name=name, known=known)
    return found


def create_chat(
    api: Api, name: str, datasets: Sequence[Dataset], *, model: str = "", options: ChatOptions | None = None
) -> tuple[Chat, bool]:
    """Create an assistant; (assistant, whether it is new). One of that name is kept if it fits the wish.

    model: as `choose_model` takes it, "" for the account's default. Raises UsageError `chat.name-invalid`,
    `chat.other-datasets`, `chat.other-model`, `dataset.not-parsed`, `dataset.different-models`, and the
    errors of `choose_model`.
    """
    name = name.strip()
    if not name or len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES or not name.isprintable():
        raise UsageError("chat.name-invalid", name=name[:40], limit=MAX_NAME_BYTES)
    chosen = options or ChatOptions()
    chosen.check()
    existing = find_chat(api, name)
    if existing is not None:
        _check_same(api, existing, datasets, model)
        return existing, False
    for dataset in datasets:
        if dataset.chunk_count == 0:
            raise UsageError("dataset.not-parsed", name=dataset.name)
    check_one_model(datasets)
    body = {
        "name": name,
        "dataset_ids": check_ids([one.id for one in datasets]) if datasets else [],
        "llm_id": choose_model(api, "chat", model).full_name,
        **chosen.to_body(),
    }
    try:
        return _read(record(api.call("POST", "/chats", json=body), "/chats")), True
    except UncertainError:
        found = find_chat(api, name)
        if found is None:
            raise
        return found, True
    except ServerError as error:
        if _UNPARSED in error.message:
            raise UsageError("dataset.not-parsed", name=", ".join(one.name for one in datasets)) from error
        raise


def remove_chat(api: Api, chat: Chat) -> None:
    """Delete an assistant with its sessions. Succeeds when it is gone, whoever removed it."""
    ids = check_ids([chat.id])
    try:
        api.call("DELETE", "/chats", json={"ids": ids})
    except (ServerError, UncertainError):
        if any(one.id == chat.id for one in list_chats(api)):
            raise
        return
    if any(one.id == chat.id for one in list_chats(api)):
        raise RefusedError("chat.still-there", name=chat.name)


def escape_braces(text: str) -> str:
    """Braces doubled, but for `{knowledge}`: the server formats the system text (str.format)."""
    return KNOWLEDGE.join(part.replace("{", "{{").replace("}", "}}") for part in text.split(KNOWLEDGE))


def _prepare(system: str) -> str:
    escaped = escape_braces(system)
    return escaped if KNOWLEDGE in escaped else f"{escaped}\n{KNOWLEDGE}"


def _check_same(api: Api, chat: Chat, datasets: Sequence[Dataset], model: str) -> None:
    if set(chat.dataset_ids) != {one.id for one in datasets}:
        have = ", ".join(chat.dataset_names) or "-"
        raise UsageError("chat.other-datasets", name=chat.name, have=have)
    if model:
        wanted = choose_model(api, "chat", model)
        if chat.model not in (wanted.full_name, wanted.id):
            raise UsageError("chat.other-model", name=chat.name, have=chat.model, wanted=wanted.name)


def _read(row: Mapping[str, Any]) -> Chat:
    def texts(key: str) -> tuple[str, ...]:
        values = row.get(key)
        return tuple(str(value) for value in values) if isinstance(values, list) else ()

    ids = texts("dataset_ids")
    if not ids and isinstance(row.get("datasets"), list):
        ids = tuple(text(one, "id") for one in records(row["datasets"], "/chats"))
    if not text(row, "id"):
        raise RfctlError("ragflow.shape", url="/chats", detail=text(row, "name"))
    return Chat(
        id=text(row, "id"),
        name=text(row, "name"),
        model=text(row, "llm_id"),
        dataset_ids=ids,
        dataset_names=texts("kb_names"),
        top_n=whole(row, "top_n"),
        similarity_threshold=number(row, "similarity_threshold"),
        created=text(row, "create_date"),
    )
