"""Setting up a RAGFlow as somebody: the account, a key of it, and the web page as that account sees it."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.ragflow_model import read_secret
from rfctl.core.address import is_loopback
from rfctl.core.credential import RAGFLOW_VARIABLES, find_ragflow_key, store_ragflow_key
from rfctl.core.error import AuthError, UsageError
from rfctl.stack.project import Project

if TYPE_CHECKING:
    from rfctl.ragflow_client.transport import Api

_EMAIL, _PASSWORD = "RFCTL_ADMIN_EMAIL", "RFCTL_ADMIN_PASSWORD"


@dataclass(frozen=True)
class Place:
    """url: RAGFlow as this machine reaches it; env: the settings of the stack when it is the stack's."""

    url: str
    env: dict[str, str]


@dataclass(frozen=True)
class Key:
    """origin: "stored", a variable, or "account" when it came from a login; email: of its account, "" when
    the server does not tell; session: the token of that login, "" without one."""

    secret: str
    origin: str
    email: str = ""
    made_account: bool = False
    made_key: bool = False
    session: str = ""


def find_place(app: App, url: str | None) -> Place:
    """The server that is named or configured, or the stack of this machine. Raises UsageError."""
    from rfctl.ragflow_client.address import normalise_url
    from rfctl.stack.lifecycle import api_url

    project = Project(app.directories.data / "stack")
    env = project.read() if project.is_initialised else {}
    wanted = url or app.settings.endpoints().ragflow_url or (api_url(env) if env else "")
    if not wanted:
        raise UsageError("setup.no-server")
    place = normalise_url(wanted)
    return Place(place, env if env and place == api_url(env) else {})


def find_key(app: App, place: Place, email: str | None, *, register: bool) -> Key:
    """A key that the server takes: the known one, else one of the account. It is stored when it is new."""
    from rfctl.ragflow_client.account import Account, obtain_key

    folder = app.directories.config
    known = find_ragflow_key(place.url, os.environ, folder, keyring=app.settings.uses_keyring)
    if known is not None:
        # A key of an earlier installation is replaced; one that somebody set by hand is not.
        is_fixed = known.origin.removesuffix("_FILE") in RAGFLOW_VARIABLES
        try:
            owner = _find_owner(place.url, known.secret)
            if _is_wanted(owner, known.origin, place, email, is_fixed=is_fixed):
                return Key(known.secret, known.origin, owner)
        except AuthError:
            if is_fixed:
                raise
    if place.url.startswith("http:") and not is_loopback(place.url):
        app.out.warn("setup.plain-http", url=place.url)
    account = Account(*_ask_account(app, place, email))
    access = obtain_key(place.url, account, register=register)
    stored = store_ragflow_key(place.url, access.api_key, folder, keyring=app.settings.uses_keyring)
    if stored.problem:
        app.out.warn("auth.keyring-failed", path=stored.place, detail=stored.problem)
    return Key(access.api_key, "account", account.email, access.made_account, access.made_key, access.session)


def _find_owner(url: str, secret: str) -> str:
    """The address of the key's account, "" when the server does not tell. Raises AuthError for a bad key."""
    from rfctl.ragflow_client.ownership import find_owner
    from rfctl.ragflow_client.transport import Api

    with Api(url, secret) as api:
        api.call("GET", "/datasets", params={"page": 1, "page_size": 1})
        owner = find_owner(api)
    return owner.email if owner else ""


def _is_wanted(owner: str, origin: str, place: Place, email: str | None, *, is_fixed: bool) -> bool:
    """Whether a key of the account `owner` is the one to use; False: one of the account `email` replaces it.

    People log in to the web page with the account of stack.env, and would find nothing there of what another
    account's key makes. Raises UsageError `setup.other-account`, `setup.other-account-fixed`.
    """
    login = email or place.env.get(_EMAIL, "")
    if not owner or not login or owner.casefold() == login.casefold():
        return True
    if is_fixed:
        raise UsageError("setup.other-account-fixed", owner=owner, login=login, origin=origin)
    if email:
        return False
    raise UsageError("setup.other-account", owner=owner, login=login)


@contextlib.contextmanager
def open_page(place: Place, key: Key) -> Iterator[Api | None]:
    """The server as the web page of the account that has just logged in sees it; None without a login.

    Nobody is logged in for this alone: RAGFlow ends the other sessions of the account at every login.
    """
    from rfctl.ragflow_client.transport import Api

    if not key.session:
        yield None
        return
    with Api(place.url, None) as page:
        page.authorise(key.session)
        yield page


def _ask_account(app: App, place: Place, email: str | None) -> tuple[str, str]:
    """(address, password): from the stack's settings, the environment, a prompt, or a line of input."""
    own = place.env.get(_EMAIL, "")
    address = email or own or os.environ.get(_EMAIL, "").strip()
    is_terminal = sys.stdin.isatty()
    if not address:
        if not is_terminal:
            raise UsageError("setup.no-email")
        address = click.prompt(app.out.text("setup.prompt-email", url=place.url), err=True).strip()
    password = place.env.get(_PASSWORD, "") if address == own else ""
    password = password or read_secret(_PASSWORD)
    if not password and is_terminal:
        text = app.out.text("setup.prompt-password", email=address, url=place.url)
        password = click.prompt(text, hide_input=True, err=True)
    elif not password:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise UsageError("setup.no-password")
    return address, password
