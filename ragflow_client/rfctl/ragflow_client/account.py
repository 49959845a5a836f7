"""An account on a RAGFlow server and its API key, without the web page.

Routes: 0.25.1 and later below /api/v1, 0.25.0 partly below /v1 (api/apps/restful_apis/user_api.py and
system_api.py of v0.27.0, api/apps/user_app.py of v0.25.0). The answer to a login carries the session token in
the header Authorization; it goes back as it is, without the word Bearer.
"""

from __future__ import annotations

import base64
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.ragflow_client.envelope import Reply, check_status
from rfctl.ragflow_client.failure import ServerError, UncertainError, shorten
from rfctl.ragflow_client.record import mapping, records, text
from rfctl.ragflow_client.transport import Api

_EMAIL = re.compile(r"[\w._-]+@([\w_-]+\.)+[\w-]{2,}")
_AUTHENTICATION, _OPERATING, _CRYPT, _FORBIDDEN = 109, 103, 500, 403
_PKCS1_BYTES = 11  # of every block (RFC 8017, 7.2)


@dataclass(frozen=True)
class Account:
    """Who logs in. nickname: only for a new account."""

    email: str
    password: str = field(repr=False)
    nickname: str = ""


@dataclass(frozen=True)
class Access:
    """A key of the account; what was made for it. session: the token with which the web page would go on."""

    api_key: str = field(repr=False)
    made_account: bool = False
    made_key: bool = False
    session: str = field(default="", repr=False)


def obtain_key(base_url: str, account: Account, *, register: bool = True) -> Access:
    """Log in, register before that if the server does not know the address, and take a key of the account.

    A key that the account has is taken before one is made, so that doing this twice makes nothing. register
    False: an unknown address is an error. Raises UsageError `account.email-invalid`,
    `account.password-long`, `account.unknown`, `account.registration-off`, AuthError
    `account.password-wrong`, `account.disabled`, RfctlError `account.key-differs`, and what a call raises.
    """
    if not _EMAIL.fullmatch(account.email):
        raise UsageError("account.email-invalid", email=account.email)
    with Api(base_url, None) as api:
        password = encrypt_password(account.password)
        made = False
        token = _log_in(api, account.email, password)
        if not token:
            if not register:
                raise UsageError("account.unknown", email=account.email, url=api.url)
            made = _register(api, account, encrypt_password(account.password))
            token = _log_in(api, account.email, password)
        if not token:
            raise UsageError("account.unknown", email=account.email, url=api.url)
        api.authorise(token)
        if key := _find_key(api):
            return Access(key, made_account=made, session=token)
        data = mapping(api.call("POST", "/system/tokens"))
        key = text(data, "token") or _find_key(api)
        if not key:
            raise ServerError("ragflow.shape", url="/system/tokens", detail=shorten(", ".join(data)))
        return Access(key, made_account=made, made_key=True, session=token)


def encrypt_password(password: str, public_key: str = "") -> str:
    """The field `password` of registration and login. public_key: PEM, "" for the one every server has.

    Raises UsageError `account.password-long`.
    """
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    key = load_pem_public_key((public_key or _public_key()).encode())
    assert isinstance(key, RSAPublicKey)
    message = base64.b64encode(password.encode())
    limit = key.key_size // 8 - _PKCS1_BYTES
    if len(message) > limit:
        raise UsageError("account.password-long", limit=limit // 4 * 3)
    return base64.b64encode(key.encrypt(message, PKCS1v15())).decode()


@cache
def _public_key() -> str:
    with Path(__file__).with_name("login.toml").open("rb") as file:
        return str(tomllib.load(file)["public_key"])


def _log_in(api: Api, email: str, password: str) -> str:
    """The session token, "" for an address that the server does not know."""
    body = {"email": email, "password": password}
    reply, code, message = _ask(api, "/auth/login", "/v1/user/login", body)
    if code == 0:
        token = reply.headers.get("Authorization", "")
        if not token:
            raise ServerError("ragflow.shape", url=reply.url, detail="Authorization")
        return token
    if code == _AUTHENTICATION and "not registered" in message:
        return ""
    if code == _AUTHENTICATION:
        raise AuthError("account.password-wrong", email=email, url=api.url)
    if code == _FORBIDDEN:
        raise AuthError("account.disabled", email=email, url=api.url)
    if code == _CRYPT and "crypt" in message:
        raise RfctlError("account.key-differs", url=api.url)
    raise ServerError("ragflow.refused", code=code, message=message)


def _register(api: Api, account: Account, password: str) -> bool:
    """Whether the account was made now (and not by somebody else in between)."""
    nickname = account.nickname or account.email.partition("@")[0]
    body = {"nickname": nickname, "email": account.email, "password": password}
    try:
        _, code, message = _ask(api, "/users", "/v1/user/register", body)
    except UncertainError:
        return True  # the login that follows tells whether it was made
    if code == 0:
        return True
    if code == _OPERATING and "already registered" in message:
        return False
    if code == _OPERATING and "disabled" in message:
        raise UsageError("account.registration-off", email=account.email, url=api.url)
    if code == _OPERATING and "Invalid email" in message:
        raise UsageError("account.email-invalid", email=account.email)
    raise ServerError("ragflow.refused", code=code, message=message)


def _ask(api: Api, path: str, old: str, body: Mapping[str, Any]) -> tuple[Reply, int, str]:
    """(answer, code, message) of the route, or of its predecessor where the server does not have it."""
    reply = api.send("POST", path, json=body, checked=False)
    code, message = _read(reply)
    if reply.status_code == 404 or "NotFound" in message or "MethodNotAllowed" in message:
        reply = api.send("POST", old, json=body, outside=True, checked=False)
        code, message = _read(reply)
    return reply, code, message


def _read(reply: Reply) -> tuple[int, str]:
    if reply.status_code not in (401, 404):
        check_status(reply)
    elif reply.looks_like_page():
        raise ServerError("ragflow.not-api", url=reply.url, detail=shorten(reply.text[:200]))
    document = reply.json()
    code = document.get("code") if isinstance(document, dict) else None
    if not isinstance(code, int) or isinstance(code, bool):
        raise ServerError("ragflow.shape", url=reply.url, detail=shorten(str(document)[:200]))
    return code, shorten(str(document.get("message") or ""))


def _find_key(api: Api) -> str:
    """The oldest key of the account: one that was made twice by a repeated request stays without a user."""
    rows = records(api.call("GET", "/system/tokens"), "/system/tokens")
    rows.sort(key=lambda row: str(row.get("create_time") or ""))
    return next((text(row, "token") for row in rows if text(row, "token")), "")
