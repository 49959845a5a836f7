"""Whose an API key is, and whether RAGFlow's web page shows to its account what the key sees.

The page and the API are one server behind two kinds of credentials: the facts, and where they were read, are
in web_page.toml.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError, UsageError
from rfctl.ragflow_client.chat import list_chats
from rfctl.ragflow_client.dataset import list_datasets
from rfctl.ragflow_client.envelope import check
from rfctl.ragflow_client.record import mapping, text
from rfctl.ragflow_client.transport import Api

# A colleague's change between the two lists makes them differ once.
_ATTEMPTS = 3


@dataclass(frozen=True)
class Owner:
    """An account. email: "" where the server does not tell (the embedded engine)."""

    id: str
    email: str


@dataclass(frozen=True)
class SameView:
    """How many datasets and chats the page and the key both see."""

    datasets: int
    chats: int


def find_owner(api: Api) -> Owner | None:
    """The account behind the credentials of `api`; None where the server has no route that tells.

    Raises AuthError for credentials that the server refuses, and what a call raises.
    """
    for route in _facts()["account"]:
        reply = api.send("GET", route["path"], outside=route["outside"], repeatable=True, checked=False)
        if reply.status_code == 404 or reply.looks_like_page():
            continue
        check(reply)
        data = mapping(reply.json().get("data"))
        if text(data, "id"):
            return Owner(text(data, "id"), text(data, "email"))
    return None


def compare_views(key: Api, page: Api) -> SameView:
    """Read the lists that the web page shows, once as the page does and once with the key.

    page: with the session token of the account that logs in there. Raises UsageError
    `ownership.other-account`, RfctlError `ownership.differs`, and what a call raises.
    """
    mine, theirs = find_owner(key), find_owner(page)
    if mine and theirs and mine.id != theirs.id:
        raise UsageError("ownership.other-account", key=mine.email, page=theirs.email)
    return SameView(
        _compare("datasets", key, page, lambda api: {one.id: one.name for one in list_datasets(api)}),
        _compare("chats", key, page, lambda api: {one.id: one.name for one in list_chats(api)}),
    )


def _compare(kind: str, key: Api, page: Api, read: Callable[[Api], Mapping[str, str]]) -> int:
    mine: Mapping[str, str] = {}
    shown: Mapping[str, str] = {}
    for _ in range(_ATTEMPTS):
        mine, shown = read(key), read(page)
        if mine.keys() == shown.keys():
            return len(mine)
    name = {**shown, **mine}[min(mine.keys() ^ shown.keys())]
    raise RfctlError("ownership.differs", kind=kind, name=name, key=len(mine), page=len(shown))


@cache
def _facts() -> Mapping[str, Any]:
    with Path(__file__).with_name("web_page.toml").open("rb") as file:
        return tomllib.load(file)
