"""An account and a key from a server that has none, by the routes of each version."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import padding
from fresh_server import Day, first_day, pair
from recording import KEY, RecordedServer
from scripted_server import ScriptedServer, Step, http

from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.ragflow_client.account import Access, Account, encrypt_password, obtain_key
from rfctl.ragflow_client.transport import Api

ACCOUNT = Account("rf@example.com", "pass word 密码", "rf")
NO_ROUTE = http(404, {"code": 404, "error": "Not Found", "message": "Not Found: /api/v1/auth/login"})


def say(code: int, message: str) -> bytes:
    return http(200, {"code": code, "data": False, "message": message})


WELCOME = http(200, {"code": 0, "data": {}, "message": "Welcome back!"}, Authorization="IjEyMyI.token")
NO_KEYS = http(200, {"code": 0, "data": []})
UNKNOWN = say(109, "Email: rf@example.com is not registered!")


def test_the_password_is_what_the_web_page_sends() -> None:
    private, public = pair()
    one, other = (encrypt_password("pass word 密码", public) for _ in range(2))
    assert one != other  # PKCS#1 v1.5 pads with chance
    plain = private.decrypt(base64.b64decode(one), padding.PKCS1v15())
    assert base64.b64decode(plain).decode() == "pass word 密码"
    assert len(base64.b64decode(encrypt_password("x"))) == 256
    with pytest.raises(UsageError) as caught:
        encrypt_password("x" * 184)
    assert (caught.value.id, caught.value.params["limit"]) == ("account.password-long", 183)
    assert encrypt_password("x" * 183)


def test_secrets_do_not_show() -> None:
    assert "pass" not in repr(ACCOUNT)
    assert "ragflow-secret" not in repr(Access("ragflow-secret"))


def test_the_recorded_exchanges(recorded: Callable[..., RecordedServer]) -> None:
    """Login, registration, login, key, as a real 0.27.0 has answered them."""
    server = recorded("setup")
    for exchange in server.exchanges:
        # The recorded client once gave a wrong password; encrypted it looks like the right one.
        exchange.used = "do not match" in str(exchange.response.get("json", {}).get("message"))
    access = obtain_key(server.url, ACCOUNT)
    assert server.problems == []
    assert (access.api_key, access.made_account) == (KEY, True)
    assert server.lines == [
        "POST /api/v1/auth/login",
        "POST /api/v1/users",
        "POST /api/v1/auth/login",
        "GET /api/v1/system/tokens",
    ]


@pytest.mark.parametrize("version", ["v0.25.0", "v0.25.1", "v0.26.0", "v0.27.0"])
def test_a_fresh_server_is_registered_with_once(tmp_path: Path, version: str) -> None:
    with first_day(tmp_path, version) as day:
        first = obtain_key(day.url, ACCOUNT)
        assert (first.made_account, first.made_key) == (True, True)
        assert first.api_key == day.fresh.keys[0]
        again = obtain_key(day.url, ACCOUNT)
        assert (again.api_key, again.made_account, again.made_key) == (first.api_key, False, False)
        assert len(day.fresh.keys) == 1
        with Api(day.url, first.api_key) as api:
            assert api.call("GET", "/datasets") == []
        before = "/v1/user/" if version == "v0.25.0" else "/api/v1/auth/"
        assert f"POST {before}login" in day.fresh.lines


def test_the_superuser_logs_in_where_nobody_registers(tmp_path: Path) -> None:
    """The stack of this machine makes its first account itself and has REGISTER_ENABLED=0."""
    with first_day(tmp_path) as day:
        day.fresh.registers = False
        with pytest.raises(UsageError) as caught:
            obtain_key(day.url, ACCOUNT)
        assert caught.value.id == "account.registration-off"
        day.fresh.accounts[ACCOUNT.email] = ""
        assert not obtain_key(day.url, ACCOUNT).made_account


def test_a_server_with_another_key_pair(tmp_path: Path) -> None:
    with first_day(tmp_path) as day:
        day.fresh.private = pair(1024)[0]
        day.fresh.accounts[ACCOUNT.email] = "other"
        with pytest.raises(RfctlError) as caught:
            obtain_key(day.url, ACCOUNT)
        assert caught.value.id == "account.key-differs"


@pytest.mark.parametrize(
    ("answers", "id", "kind"),
    [
        ([say(109, "Email and password do not match!")], "account.password-wrong", AuthError),
        ([say(403, "This account has been disabled!")], "account.disabled", AuthError),
        ([say(500, "Fail to crypt password")], "account.key-differs", RfctlError),
        ([UNKNOWN, say(103, "User registration is disabled!")], "account.registration-off", UsageError),
        ([UNKNOWN, say(103, "Invalid email address: rf@example.com!")], "account.email-invalid", UsageError),
        ([UNKNOWN, say(100, "boom")], "ragflow.refused", RfctlError),
        ([http(200, {"code": 0, "data": {}})], "ragflow.shape", RfctlError),
        ([http(200, "<!doctype html><html></html>", "text/html")], "ragflow.not-api", RfctlError),
        ([http(404, "<!doctype html><html></html>", "text/html")], "ragflow.not-api", RfctlError),
        ([http(200, "[1]")], "ragflow.shape", RfctlError),
        ([http(502, "", "text/html")], "ragflow.gateway", RfctlError),
        ([NO_ROUTE, say(109, "Email and password do not match!")], "account.password-wrong", AuthError),
        ([WELCOME, NO_KEYS, http(200, {"code": 0, "data": {}}), NO_KEYS], "ragflow.shape", RfctlError),
    ],
)
def test_refusals_say_what_to_do(
    scripted: ScriptedServer, answers: list[bytes], id: str, kind: type[RfctlError]
) -> None:
    scripted.say(*answers)
    with pytest.raises(kind) as caught:
        obtain_key(scripted.url, ACCOUNT)
    assert caught.value.id == id
    for language in ("en", "zh"):
        text = caught.value.text(language)
        assert "{" not in text.message + text.why + text.next
        assert ACCOUNT.password not in text.message + text.why + text.next


@pytest.mark.parametrize("email", ["", "admin", "a b@c.de", "a@b", "a@b.c\r\nX: y"])
def test_addresses_that_the_server_would_refuse(scripted: ScriptedServer, email: str) -> None:
    with pytest.raises(UsageError, match=r"account\.email-invalid"):
        obtain_key(scripted.url, Account(email, "x"))
    assert scripted.requests == []


def test_a_lost_answer_to_the_registration_is_looked_after(scripted: ScriptedServer) -> None:
    tokens = http(200, {"code": 0, "data": [{"token": KEY, "create_time": 1}]})
    scripted.say(UNKNOWN, b"", WELCOME, tokens)
    access = obtain_key(scripted.url, ACCOUNT)
    assert (access.api_key, access.made_key) == (KEY, False)
    assert [request.line.split()[1] for request in scripted.requests] == [
        "/api/v1/auth/login",
        "/api/v1/users",
        "/api/v1/auth/login",
        "/api/v1/system/tokens",
    ]
    # The session token goes back raw; before it nothing is sent, not even a key from the environment.
    assert [request.header("Authorization") for request in scripted.requests] == ["", "", "", "IjEyMyI.token"]
    sent = json.loads(scripted.requests[1].body)
    assert (sent["nickname"], sent["email"]) == ("rf", "rf@example.com")
    assert ACCOUNT.password.encode() not in scripted.requests[1].body


def test_the_server_that_is_silent(scripted: ScriptedServer) -> None:
    scripted.say(Step(WELCOME, hang=0), Step(b""))
    with pytest.raises(RfctlError) as caught:
        obtain_key(scripted.url, ACCOUNT)
    assert caught.value.exit_code == 3


def test_a_day_is_a_day(tmp_path: Path) -> None:
    """The double itself: without a key it opens nothing."""
    with first_day(tmp_path) as day:
        assert isinstance(day, Day)
        with Api(day.url, KEY) as api, pytest.raises(AuthError):
            api.call("GET", "/datasets")
