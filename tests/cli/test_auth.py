"""`rfctl auth login ragflow`: where the key comes from, whether the server takes it, and where it is kept."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ragflow_command import KEY
from scripted_server import ScriptedServer, http

TAKEN = http(200, {"code": 0, "data": []})
REFUSED = http(401, {"code": 401, "data": None, "message": "<Unauthorized '401: Unauthorized'>"})


def stored(home: Path) -> str:
    files = list(home.rglob("credentials.toml"))
    if files and os.name != "nt":
        assert stat.S_IMODE(files[0].stat().st_mode) == 0o600
    return files[0].read_text() if files else ""


def test_the_key_from_a_pipe_the_environment_and_a_file(
    rfctl: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    secret = tmp_path / "key"
    secret.write_text(f"{KEY}\n")
    with ScriptedServer() as server:
        for options in (
            {"stdin": f' "{KEY}" \n'},
            {"env": {"RAGFLOW_API_KEY": KEY}},
            {"env": {"RAGFLOW_API_KEY_FILE": str(secret)}},
        ):
            server.say(TAKEN)
            env = {"RAGFLOW_BASE_URL": server.url} | options.get("env", {})  # type: ignore[operator]
            done = rfctl("auth", "login", "ragflow", "--json", env=env, stdin=options.get("stdin", ""))
            assert done.code == 0, done.err
            assert json.loads(done.out)["checked"] is True
            assert KEY not in done.out + done.err
            assert KEY in stored(home)
            assert rfctl("auth", "logout", env={"RAGFLOW_BASE_URL": server.url}).code == 0
            assert KEY not in stored(home)
        assert {request.header("Authorization") for request in server.requests} == {f"Bearer {KEY}"}


def test_a_key_that_the_server_refuses_is_not_kept(rfctl: Callable[..., Any], home: Path) -> None:
    with ScriptedServer() as server:
        server.say(REFUSED)
        done = rfctl("auth", "login", env={"RAGFLOW_BASE_URL": server.url}, stdin=KEY)
    assert (done.code, done.out, "[ragflow.key-refused]" in done.err) == (4, "", True)
    assert stored(home) == ""


def test_a_server_that_is_away_leaves_it_open(rfctl: Callable[..., Any], home: Path) -> None:
    with ScriptedServer() as server:
        url = server.url
    done = rfctl("auth", "login", env={"RAGFLOW_BASE_URL": url}, stdin=KEY)
    assert (done.code, "could not be asked" in done.err, KEY in stored(home)) == (0, True, True)


def test_no_key_at_all(rfctl: Callable[..., Any]) -> None:
    done = rfctl("auth", "login", env={"RAGFLOW_BASE_URL": "http://127.0.0.1:9"})
    assert (done.code, "[auth.key-malformed]" in done.err) == (2, True)
