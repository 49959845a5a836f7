"""The system's keyring as a place for API keys, by the `keyring` library with a backend over a file."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ragflow_command import KEY
from scripted_server import ScriptedServer, http

pytest.importorskip("keyring", reason="the extra `keyring` is not installed")

EMPTY = http(200, {"code": 0, "data": []})
OLD, NEW = KEY, "ragflow-" + "n" * 43


class Desk:
    """A machine with a keyring: `run(...)` is the command line there, `entries` what the keyring holds."""

    def __init__(self, rfctl: Callable[..., Any], home: Path, server: ScriptedServer) -> None:
        self.rfctl, self.home, self.server = rfctl, home, server
        self.file = home.parent / "keyring.json"
        self.mode = ""
        self.last: Any = None

    def run(self, *arguments: str, stdin: str = "", **env: str) -> Any:
        base = {
            "RAGFLOW_BASE_URL": self.server.url,
            "RFCTL_KEYRING": "auto",
            "PYTHONPATH": str(Path(__file__).parent),
            "PYTHON_KEYRING_BACKEND": "file_keyring.FileKeyring",
            "FILE_KEYRING": str(self.file),
            "FILE_KEYRING_MODE": self.mode,
        }
        return self.rfctl(*arguments, env=base | env, stdin=stdin)

    def login(self, key: str, **env: str) -> Any:
        self.server.say(EMPTY)
        done = self.run("auth", "login", stdin=key, **env)
        assert key not in done.out + done.err
        return done

    def sent(self, **env: str) -> str:
        """The key that a command sends, "" when it ends before that."""
        before = len(self.server.requests)
        self.server.say(EMPTY, EMPTY, EMPTY)
        self.last = self.run("kb", "ls", **env)
        found = self.server.requests[before:]
        return (found[-1].header("Authorization") or "").removeprefix("Bearer ") if found else ""

    @property
    def entries(self) -> dict[str, str]:
        return dict(json.loads(self.file.read_text())) if self.file.exists() else {}

    @property
    def stored(self) -> str:
        return "".join(file.read_text() for file in self.home.rglob("credentials.toml"))


@pytest.fixture
def desk(rfctl: Callable[..., Any], home: Path) -> Iterator[Desk]:
    with ScriptedServer() as server:
        yield Desk(rfctl, home, server)


def test_a_key_is_kept_in_the_keyring_used_from_there_and_removed(desk: Desk) -> None:
    done = desk.login(OLD)
    assert done.code == 0, done.err
    assert "is stored in file keyring FileKeyring" in done.out
    assert desk.entries == {f"rfctl {desk.server.url}": OLD}  # service, address
    assert desk.stored == ""
    assert desk.sent() == OLD
    assert desk.sent(RAGFLOW_API_KEY=NEW) == NEW  # the environment is asked first
    gone = desk.run("auth", "logout", "--json")
    assert (gone.code, json.loads(gone.out)["removed"], desk.entries) == (0, True, {})
    assert json.loads(desk.run("auth", "logout", "--json").out)["removed"] is False


def test_a_key_in_the_file_moves_into_the_keyring_and_the_other_way_round(desk: Desk) -> None:
    assert desk.login(OLD, RFCTL_KEYRING="off").code == 0
    assert (OLD in desk.stored, desk.entries) == (True, {})
    assert desk.sent() == OLD  # nothing in the keyring: the file
    assert desk.login(NEW).code == 0
    assert OLD not in desk.stored and NEW not in desk.stored
    assert desk.sent() == NEW
    # Without the keyring the key is not known, whatever it holds.
    assert (desk.sent(RFCTL_KEYRING="off"), "[config.key-missing]" in desk.last.err) == ("", True)
    assert desk.run("config", "set", "keyring", "off").code == 0
    assert (desk.sent(RFCTL_KEYRING=""), desk.last.code) == ("", 2)
    # Logging out forgets both.
    assert desk.login(OLD, RFCTL_KEYRING="off").code == 0
    assert desk.run("auth", "logout").code == 0
    assert (desk.stored.count("ragflow-"), desk.entries) == (0, {})


@pytest.mark.parametrize("mode", ["broken", "forgetful"])
def test_a_keyring_that_does_not_keep_it_costs_nobody_the_key(desk: Desk, mode: str) -> None:
    desk.mode = mode
    done = desk.login(OLD)
    assert (done.code, "did not take" in done.err) == (0, True), done
    assert ("session bus is gone" if mode == "broken" else "did not keep it") in done.err
    assert OLD in desk.stored
    assert desk.sent() == OLD


def test_a_backend_that_is_no_better_than_a_file_is_left_alone(desk: Desk) -> None:
    desk.mode = "weak"
    assert desk.login(OLD).code == 0
    assert (OLD in desk.stored, desk.entries) == (True, {})
    desk.mode = ""
    assert desk.login(NEW, PYTHON_KEYRING_BACKEND="keyring.backends.null.Keyring").code == 0
    assert NEW in desk.stored


def test_a_locked_keyring_ends_in_time_and_says_so(desk: Desk) -> None:
    assert desk.login(OLD).code == 0
    desk.mode = "locked"
    began = time.monotonic()
    assert desk.sent() == ""
    assert time.monotonic() - began < 20
    assert (desk.last.code, "[config.keyring-silent]" in desk.last.err) == (4, True), desk.last
    assert "Traceback" not in desk.last.err
    out = desk.run("auth", "logout")
    assert (out.code, "[config.keyring-silent]" in out.err) == (4, True)  # it may still be there
    desk.mode = ""
    assert desk.sent() == OLD


def test_help_and_commands_without_a_key_do_not_load_it(desk: Desk) -> None:
    for arguments in (("--help",), ("auth", "login", "--help"), ("config", "show")):
        code = f"import sys; sys.argv = ['rfctl', *{arguments!r}]\n" + (
            "import rfctl.cli.main as m\n"
            "try: m.run()\n"
            "except SystemExit: pass\n"
            "sys.exit('keyring' in sys.modules)"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=desk.home.parent, capture_output=True, timeout=60, check=False
        )
        assert done.returncode == 0, done.stderr


def test_the_suite_never_reaches_the_keyring_of_its_user() -> None:
    import keyring

    assert type(keyring.get_keyring()).__module__ == "keyring.backends.fail"
