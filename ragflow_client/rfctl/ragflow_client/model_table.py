"""Models of a server before 0.26: one table per account, without provider instances.

Routes: api/apps/llm_app.py and api/apps/user_app.py of v0.25.0, user_api.py of v0.25.1. From 0.26 on the same
routes answer code 0 and write a table that nothing reads, so they are used only where /providers is missing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.record import mapping, records, text, whole
from rfctl.ragflow_client.transport import ANSWER_SECONDS, Api

_DEFAULTS = {"chat": "llm_id", "embedding": "embd_id"}
_OTHERS = ("asr_id", "img2txt_id")


@dataclass(frozen=True)
class Row:
    """A registered model. max_tokens is 8192 where the server does not say."""

    name: str
    kind: str
    provider: str
    url: str
    max_tokens: int
    is_active: bool


def read_table(api: Api) -> tuple[Row, ...]:
    """All models of the account. Raises what a call raises."""
    path = "/v1/llm/my_llms"
    data = mapping(api.call("GET", path, params={"include_details": "true"}, outside=True))
    return tuple(
        Row(
            name=text(entry, "name"),
            kind=text(entry, "type"),
            provider=provider,
            url=text(entry, "api_base"),
            max_tokens=whole(entry, "max_tokens"),
            is_active=str(entry.get("status", "1")) == "1",
        )
        for provider, group in data.items()
        for entry in records(mapping(group).get("llm") or [], path)
    )


def add_row(api: Api, provider: str, name: str, kind: str, url: str, max_tokens: int, key: str) -> None:
    """Register or change a model. The server calls it before it answers, each one.

    Raises RfctlError `ragflow.model-fails` with the server's reason.
    """
    body = {
        "llm_factory": provider,
        "llm_name": name,
        "model_type": kind,
        "api_base": url,
        "api_key": key,
        "max_tokens": max_tokens,
    }
    try:
        # Adding is an upsert by name, so a lost answer may be asked for again.
        api.call(
            "POST",
            "/v1/llm/add_llm",
            json=body,
            outside=True,
            repeatable=True,
            read_seconds=ANSWER_SECONDS,
        )
    except ServerError as error:
        if error.id != "ragflow.refused":
            raise
        raise RfctlError("ragflow.model-fails", name=name, detail=error.message) from error


def read_default(api: Api, kind: str) -> str:
    """`model@provider` of the account's default, or ""."""
    return text(_read_account(api)[0], _DEFAULTS.get(kind, ""))


def write_default(api: Api, kind: str, full_name: str) -> None:
    """Choose the default of a kind; the others keep theirs (the server wants all of them at once)."""
    account, is_new = _read_account(api)
    keys = (*_DEFAULTS.values(), *_OTHERS)
    body = {"tenant_id": text(account, "tenant_id"), **{key: text(account, key) for key in keys}}
    body[_DEFAULTS[kind]] = full_name
    if is_new:
        api.call("PATCH", "/users/me/models", json=body, repeatable=True)
    else:
        api.call("POST", "/v1/user/set_tenant_info", json=body, outside=True, repeatable=True)


def _read_account(api: Api) -> tuple[Mapping[str, Any], bool]:
    """The account's defaults, and whether they are under /api/v1 (0.25.1 and later)."""
    try:
        return mapping(api.call("GET", "/users/me/models")), True
    except ServerError as error:
        if error.id != "ragflow.route-missing":
            raise
    return mapping(api.call("GET", "/v1/user/tenant_info", outside=True)), False
