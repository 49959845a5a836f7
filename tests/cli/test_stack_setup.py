"""`rfctl stack setup`, `rfctl kb use-model` and `rfctl model push --to-ragflow` as a user runs them."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fresh_server import Day, first_day
from ragflow_command import Run, serving

from rfctl.stack.ollama_address import container_urls, local_url

PASSWORD = "correct horse battery"


@pytest.fixture
def day(tmp_path: Path) -> Iterator[Day]:
    with first_day(tmp_path / "server") as made:
        del made.ollama.models["qwen2.5-coder:1.5b"], made.ollama.models["multilingual-e5-small:latest"]
        yield made


@pytest.fixture
def setup(day: Day, rfctl: Callable[..., Any]) -> Callable[..., Any]:
    """`setup(...)`: the command with that server and Ollama, the password in the environment."""

    def run(*arguments: str, **options: Any) -> Any:
        env = {"OLLAMA_HOST": day.ollama_url, "RFCTL_ADMIN_PASSWORD": PASSWORD} | options.pop("env", {})
        return rfctl("stack", "setup", "--url", day.url, *arguments, env=env, **options)

    return run


def test_a_fresh_server_is_ready_and_the_second_time_nothing_changes(
    day: Day, setup: Callable[..., Any], rfctl: Callable[..., Any], home: Path, tmp_path: Path
) -> None:
    first = setup("--email", "rf@example.com", "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert (report["unchanged"], report["made_account"], report["made_key"]) == (False, True, True)
    assert report["chat_model"] == "smollm2:135m@local@Ollama"
    assert report["embedding_model"] == "all-minilm:latest@local@Ollama"
    assert report["proof"]["similarity"] > 0.3
    assert report["profile"] == "docker"
    assert (report["web_page"], report["proof"]["on_page"]) == ({"datasets": 0, "chats": 0}, True)
    secrets = [PASSWORD, day.fresh.keys[0]]
    assert not any(secret in first.out + first.err for secret in secrets)
    (credentials,) = home.rglob("credentials.toml")
    assert day.fresh.keys[0] in credentials.read_text()
    if os.name != "nt":
        assert stat.S_IMODE(credentials.stat().st_mode) == 0o600
    # max_tokens is the num_ctx that the Modelfile of the model says.
    models = rfctl("chat", "ls", "--json")
    assert (models.code, json.loads(models.out)) == (0, [])

    again = setup("--email", "rf@example.com")
    assert again.code == 0, again.err
    assert again.out.splitlines()[-2:] == [
        "The key is of rf@example.com: log in with it at the web page to see the same",
        f"unchanged: {day.url} was set up already",
    ]
    # A login would end the sessions of the account's browsers.
    assert day.fresh.lines.count("POST /api/v1/auth/login") == 2  # before and after it was made
    assert "setup.made" not in again.err and len(day.fresh.keys) == 1
    assert rfctl("config", "show").out.count("docker") == 1

    # The commands that follow talk to that server.
    note = tmp_path / "note.txt"
    note.write_text("The heron is grey.")
    up = rfctl("kb", "upload", str(note), "--json")
    assert up.code == 0, up.err
    assert json.loads(up.out)["documents"][0]["status"] == "parsed"


def test_servers_that_somebody_chose_stay_chosen(
    day: Day, setup: Callable[..., Any], rfctl: Callable[..., Any]
) -> None:
    chosen = ("--ollama", "http://a:11434", "--ragflow", "http://b:9380")
    assert rfctl("profile", "add", "work", *chosen).code == 0
    assert rfctl("profile", "use", "work").code == 0
    local = ("--email", "rf@example.com", "--no-proof", "--ollama-url", day.ollama_url)
    env = {"RFCTL_PROFILE": "work"}
    done = setup(*local, env=env)
    assert done.code == 3  # the models are those of the chosen profile, and nobody is there
    assert rfctl("profile", "add", "work", "--ollama", day.ollama_url, "--ragflow", "http://b:9380").code == 0
    done = setup(*local, env=env)
    assert done.code == 0, done.err
    assert "rfctl profile use docker" in done.err
    assert rfctl("config", "show", "--json").out.count('"work"') == 1
    assert rfctl("profile", "add", "docker", *chosen).code == 0
    done = setup(*local, env=env)
    assert (done.code, f"--ragflow {day.url}" in done.err) == (0, True)
    assert "http://b:9380" in rfctl("profile", "ls").out


def test_a_key_of_an_earlier_installation_is_replaced(day: Day, setup: Callable[..., Any]) -> None:
    assert setup("--email", "rf@example.com", "--no-proof").code == 0
    day.fresh.keys.clear()
    day.fresh.accounts.clear()
    again = setup("--email", "rf@example.com", "--no-proof", "--json")
    assert again.code == 0, again.err
    assert json.loads(again.out)["made_account"] is True
    refused = setup("--no-proof", env={"RAGFLOW_API_KEY": "ragflow-" + "o" * 43})
    assert (refused.code, "ragflow.key-refused" in refused.err) == (4, True)


def test_the_stack_of_this_machine_knows_its_own_account(
    day: Day, rfctl: Callable[..., Any], home: Path
) -> None:
    """Nobody registers there: the first account is made from stack.env at the first start."""
    day.ollama.lists_capabilities = False  # as older ones do: each model is asked
    day.fresh.registers = False
    day.fresh.accounts["admin@rfctl.local"] = ""
    port = day.url.rsplit(":", 1)[1]
    made = rfctl("stack", "init", "--size", "small", "--api-port", port)
    assert made.code == 0, made.err
    done = rfctl("stack", "setup", "--json", env={"RFCTL_OLLAMA_URL": day.ollama_url})
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["account"], report["made_account"]) == ("admin@rfctl.local", False)


def test_a_key_of_another_account_than_the_web_pages(
    day: Day, setup: Callable[..., Any], rfctl: Callable[..., Any], home: Path
) -> None:
    """People log in with the account of stack.env and find an empty page."""
    assert setup("--email", "other@example.com", "--no-proof").code == 0
    day.fresh.accounts["admin@rfctl.local"] = ""
    port = day.url.rsplit(":", 1)[1]
    assert rfctl("stack", "init", "--size", "small", "--api-port", port).code == 0
    env = {"RFCTL_OLLAMA_URL": day.ollama_url}
    refused = rfctl("stack", "setup", "--no-proof", env=env)
    assert (refused.code, refused.err.splitlines()[:3]) == (
        2,
        [
            "error[setup.other-account]: The stored API key belongs to other@example.com, but the web page's "
            "account is admin@rfctl.local",
            "  why: Whoever logs in there as admin@rfctl.local sees nothing of what this key makes, and the "
            "other way round",
            "  next: rfctl stack setup --email admin@rfctl.local takes a key of that account; to stay with "
            "the other one: rfctl stack setup --email other@example.com",
        ],
    )
    doctor = json.loads(rfctl("doctor", "--only", "rag", "--json", env=env).out)
    found = next(row for row in doctor["findings"] if row["id"] == "rag.api-key")
    assert (found["verdict"], "belongs to other@example.com" in found["message"]) == ("warn", True), found
    stays = rfctl("stack", "setup", "--no-proof", "--email", "other@example.com", "--json", env=env)
    assert (stays.code, json.loads(stays.out)["made_key"]) == (0, False), stays.err
    fixed = {**env, "RAGFLOW_API_KEY": day.fresh.keys[0]}
    by_hand = rfctl("stack", "setup", "--no-proof", "--email", "admin@rfctl.local", env=fixed)
    assert (by_hand.code, "error[setup.other-account-fixed]" in by_hand.err) == (2, True)
    assert "Unset RAGFLOW_API_KEY" in by_hand.err
    taken = rfctl("stack", "setup", "--no-proof", "--email", "admin@rfctl.local", "--json", env=env)
    assert taken.code == 0, taken.err
    report = json.loads(taken.out)
    assert (report["account"], report["made_key"]) == ("admin@rfctl.local", True)
    assert day.fresh.owners[day.fresh.keys[-1]] == "admin@rfctl.local"
    assert rfctl("stack", "setup", "--no-proof", env=env).out.endswith("was set up already\n")


def test_what_the_page_does_not_show_is_said(
    day: Day, setup: Callable[..., Any], rfctl: Callable[..., Any]
) -> None:
    day.fresh.hidden = {"rfctl-setup-check"}
    failed = setup("--email", "rf@example.com")
    assert (failed.code, "error[proof.not-on-page]" in failed.err) == (1, True), failed.err
    assert json.loads(rfctl("kb", "ls", "--json").out) == []
    assert rfctl("kb", "create", "papers").code == 0
    day.fresh.hidden = {"papers"}
    failed = setup("--email", "a@example.com", "--no-proof")
    assert (failed.code, "do not see the same datasets: papers is missing" in failed.err) == (1, True)


EMAIL = ("--email", "rf@example.com")
MISSING: tuple[tuple[tuple[str, ...], dict[str, str], int, str], ...] = (
    ((), {}, 2, "setup.no-email"),
    (EMAIL, {"RFCTL_ADMIN_PASSWORD": ""}, 2, "setup.no-password"),
    (("--email", "nobody"), {}, 2, "account.email-invalid"),
    ((*EMAIL, "--no-register"), {}, 2, "account.unknown"),
    ((*EMAIL, "--chat-model", "nope"), {}, 1, "ollama.model-missing"),
    ((*EMAIL, "--chat-model", "all-minilm"), {}, 2, "setup.model-kind"),
    (EMAIL, {"OLLAMA_HOST": "http://127.0.0.1:9"}, 3, "ollama.unreachable"),
    ((*EMAIL, "--ollama-url", "http://127.0.0.1:9"), {}, 1, "ragflow.ollama-unreachable"),
)


def test_what_is_missing_is_said(setup: Callable[..., Any]) -> None:
    for number, (arguments, env, code, id) in enumerate(MISSING):
        done = setup(*arguments, env={**env, "RFCTL_LANG": "zh" if number % 2 else "en"})
        assert (done.code, done.out) == (code, ""), (id, done.err)
        assert f"[{id}]" in done.err
        assert PASSWORD not in done.err


def test_the_password_may_come_from_a_file_or_a_pipe(
    day: Day, setup: Callable[..., Any], tmp_path: Path
) -> None:
    secret = tmp_path / "secret"
    secret.write_text(PASSWORD + "\n")
    none = {"RFCTL_ADMIN_PASSWORD": ""}
    by_file = setup(
        "--email", "a@example.com", "--no-proof", env={**none, "RFCTL_ADMIN_PASSWORD_FILE": str(secret)}
    )
    assert by_file.code == 0, by_file.err
    day.fresh.keys.clear()
    by_pipe = setup("--email", "b@example.com", "--no-proof", stdin=PASSWORD + "\n", env=none)
    assert by_pipe.code == 0, by_pipe.err
    assert set(day.fresh.accounts) == {"a@example.com", "b@example.com"}


def test_several_models_are_not_guessed_between(day: Day, setup: Callable[..., Any]) -> None:
    day.ollama.models["other:latest"] = (["completion"], 8192)
    done = setup("--email", "rf@example.com")
    assert (done.code, "[setup.model-choose]" in done.err, "other:latest, smollm2:135m" in done.err) == (
        2,
        True,
        True,
    )
    del day.ollama.num_ctx["smollm2:135m"]
    done = setup("--email", "rf@example.com", "--chat-model", "smollm2:135m", "--no-proof")
    assert done.code == 0, done.err
    assert "RagFlow is told 4096 tokens".lower() in done.err.lower()
    del day.ollama.models["other:latest"], day.ollama.models["smollm2:135m"]
    done = setup("--email", "rf@example.com")
    assert (done.code, "[setup.no-model]" in done.err) == (2, True)


def test_no_server_and_no_ragflow(rfctl: Callable[..., Any], day: Day) -> None:
    done = rfctl("stack", "setup")
    assert (done.code, "[setup.no-server]" in done.err) == (2, True)
    assert rfctl("stack", "init", "--size", "small", "--api-port", "9").code == 0
    down = rfctl("stack", "setup")
    assert (down.code, "[setup.stack-down]" in down.err, "next: rfctl stack up" in down.err) == (
        3,
        True,
        True,
    )
    env = {"RFCTL_ADMIN_PASSWORD": PASSWORD}
    done = rfctl("stack", "setup", "--url", day.ollama_url, "--email", "a@b.org", env=env)
    assert (done.code, "[ragflow.not-ragflow]" in done.err) == (2, True)


def test_the_engine_needs_no_setting_up(rfctl: Run, tmp_path: Path) -> None:
    with serving(tmp_path, rfctl) as (engine, run):
        done = run("stack", "setup", "--url", engine.url)
        assert (done.code, "[setup.embedded]" in done.err) == (2, True)


def test_use_model_on_a_fresh_server(day: Day, setup: Callable[..., Any], rfctl: Callable[..., Any]) -> None:
    assert setup("--email", "rf@example.com", "--no-proof").code == 0
    day.ollama.models["tuned:latest"] = (["completion"], 8192)
    day.ollama.num_ctx["tuned:latest"] = 3072
    done = rfctl("kb", "use-model", "tuned", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert (report["unchanged"], report["full_name"]) == (False, "tuned:latest@local@Ollama")
    again = rfctl("kb", "use-model", "tuned")
    assert (again.code, again.out) == (0, "unchanged: RAGFlow has the model tuned:latest@local@Ollama\n")
    assert rfctl("kb", "use-model", "nope").code == 1


def test_use_model_on_the_engine(rfctl: Run, tmp_path: Path) -> None:
    with serving(tmp_path, rfctl) as (engine, run):
        done = run("kb", "use-model", "smollm2:135m", "--default")
        assert done.code == 0, done.err
        assert "smollm2:135m@local@Ollama" in done.out
        again = run("kb", "use-model", "smollm2:135m", "--default", "--json")
        assert json.loads(again.out)["unchanged"] is True
        assert engine.call("GET", "/models/default")["models"]


def test_the_addresses_of_an_ollama() -> None:
    own = {"RFCTL_ADDONS": "ollama-nvidia,tls", "RFCTL_OLLAMA_PORT": "11500"}
    here = "http://localhost:9380"
    assert local_url(own) == "http://127.0.0.1:11500"
    assert local_url({"RFCTL_ADDONS": "tls"}) == ""
    assert container_urls("http://127.0.0.1:11500", own, here) == ("http://ollama:11434",)
    assert container_urls("http://10.0.0.4:11434", {}, here) == ("http://10.0.0.4:11434",)
    assert container_urls("http://127.0.0.1:11434", {}, here)[0] == "http://host.docker.internal:11434"
    assert container_urls("http://[::1]:1234", {}, here) == (
        "http://host.docker.internal:1234",
        "http://172.17.0.1:1234",
        "http://host.containers.internal:1234",
        "http://[::1]:1234",
    )


def test_a_server_elsewhere_is_told_this_machines_address() -> None:
    """Never host.docker.internal: there that would be the other machine's own Ollama."""
    for url in ("http://192.0.2.7:9380", "http://no-such-host.invalid:9380"):
        (found,) = container_urls("http://127.0.0.1:11434", {}, url)
        assert found.startswith("http://") and found.endswith(":11434")
        assert "docker" not in found and "192.0.2.7" not in found
