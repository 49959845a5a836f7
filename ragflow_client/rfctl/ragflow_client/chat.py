"""Assistants: create, list, edit, remove."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import RefusedError, RfctlError, UsageError
from rfctl.core.near import find_near
from rfctl.ragflow_client.chat_option import ChatOptions, check_options, citing, compare, place, read_options
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
_UNPARSED = "doesn't own parsed file"


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
        names = [one.name for one in list_chats(api)]
        known = ", ".join(names[:20]) or "-"
        raise UsageError("chat.unknown", name=name, known=known, near=find_near(name, names))
    return found


def create_chat(
    api: Api,
    name: str,
    datasets: Sequence[Dataset],
    *,
    model: str = "",
    options: ChatOptions | None = None,
    insist: Sequence[str] = (),
) -> tuple[Chat, bool]:
    """Create an assistant; (assistant, whether it is new). One of that name is kept if it fits the wish.

    model: as `choose_model` takes it, "" for the account's default. insist: names of the options that one of
    that name must have too. Without datasets the model answers from what it was trained on. Raises UsageError
    `chat.name-invalid`, `chat.other-datasets`, `chat.other-model`, `chat.other-options`,
    `dataset.not-parsed`, `dataset.different-models`, and the errors of `choose_model`.
    """
    name = _check_name(name)
    chosen = options or ChatOptions()
    chosen.check()
    existing = find_chat(api, name)
    if existing is not None:
        _check_same(api, existing, datasets, model)
        wanted = {option: getattr(chosen, option) for option in insist}
        different = compare(_fetch(api, existing), wanted, knowledge=bool(datasets)) if wanted else ()
        if different:
            raise UsageError("chat.other-options", name=existing.name, options=", ".join(different))
        return existing, False
    _check_parsed(datasets)
    body = {
        "name": name,
        "dataset_ids": check_ids([one.id for one in datasets]) if datasets else [],
        "llm_id": choose_model(api, "chat", model).full_name,
        **chosen.to_body(knowledge=bool(datasets)),
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


def edit_chat(
    api: Api,
    chat: Chat,
    *,
    name: str = "",
    datasets: Sequence[Dataset] | None = None,
    model: str = "",
    options: Mapping[str, Any] | None = None,
) -> tuple[Chat, tuple[str, ...]]:
    """Change what is given of an assistant; (assistant, names of what differed). Its sessions stay.

    options: names of ChatOptions with new values; the others keep theirs, also those that only the server's
    own pages know. Raises what `create_chat` raises, and UsageError `chat.name-taken`.
    """
    wanted = dict(options or {})
    check_options(wanted)
    row = _fetch(api, chat)
    body: dict[str, Any] = {}
    if name and _check_name(name) != chat.name:
        other = find_chat(api, name)
        if other is not None and other.id != chat.id:
            raise UsageError("chat.name-taken", name=other.name)
        body["name"] = _check_name(name)
    changed = ["name"] if body else []
    if datasets is not None and {one.id for one in datasets} != set(chat.dataset_ids):
        _check_parsed(datasets)
        body["dataset_ids"] = check_ids([one.id for one in datasets]) if datasets else []
        changed.append("kb")
    if model:
        target = choose_model(api, "chat", model)
        if chat.model not in (target.full_name, target.id):
            body["llm_id"] = target.full_name
            changed.append("model")
    knowledge = bool(chat.dataset_ids if datasets is None else datasets)
    different = compare(row, wanted, knowledge=knowledge)
    placed = {option: wanted[option] for option in different}
    if knowledge != bool(chat.dataset_ids):
        placed.setdefault("system", read_options(row).get("system", ""))
        body["prompt_config"] = citing(knowledge=knowledge)
    for key, value in place(placed, knowledge=knowledge).items():
        body[key] = {**body.get(key, {}), **value} if isinstance(value, dict) else value
    changed += different
    if not body:
        return chat, ()
    path = f"/chats/{check_ids([chat.id])[0]}"
    data = api.call("PATCH", path, json=body, repeatable=True)
    after = _read(data) if isinstance(data, Mapping) and text(data, "id") else get_chat(api, chat.id)
    return after, tuple(changed)


def describe_options(api: Api, chat: Chat) -> dict[str, Any]:
    """The options of an assistant by name, as the server has them; braces of the system text unescaped."""
    return read_options(_fetch(api, chat))


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


def _check_name(name: str) -> str:
    name = name.strip()
    if not name or len(name.encode("utf-8", errors="replace")) > MAX_NAME_BYTES or not name.isprintable():
        raise UsageError("chat.name-invalid", name=name[:40], limit=MAX_NAME_BYTES)
    return name


def _check_parsed(datasets: Sequence[Dataset]) -> None:
    for dataset in datasets:
        if dataset.chunk_count == 0:
            raise UsageError("dataset.not-parsed", name=dataset.name)
    check_one_model(datasets)


def _fetch(api: Api, chat: Chat) -> Mapping[str, Any]:
    path = f"/chats/{check_ids([chat.id])[0]}"
    return record(api.call("GET", path), path)


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
