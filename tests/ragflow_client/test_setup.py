"""From a server without anything to one that answers: models, defaults, proof, and the traps on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from fresh_server import Day, first_day
from scripted_server import ScriptedServer, http

from rfctl.core.error import RefusedError, RfctlError, UnreachableError, UsageError
from rfctl.ragflow_client.account import Account, obtain_key
from rfctl.ragflow_client.chat import create_chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.model import default_model, list_models
from rfctl.ragflow_client.model_table import read_default, read_table
from rfctl.ragflow_client.offer import find_ollama
from rfctl.ragflow_client.parse import Patience
from rfctl.ragflow_client.proof import NAME, prove
from rfctl.ragflow_client.provider import ModelSpec, Registration
from rfctl.ragflow_client.transport import Api

VERSIONS = ["v0.25.0", "v0.25.1", "v0.26.0", "v0.27.0"]
CHAT, EMBEDDING = ModelSpec("smollm2:135m", 2048), ModelSpec("all-minilm", 512)
QUICK = Patience(poll=0.2, total=60)


@contextmanager
def opened(tmp_path: Path, version: str = "v0.27.0", *, warm: bool = True) -> Iterator[tuple[Day, Ragflow]]:
    with first_day(tmp_path, version) as day:
        if warm:
            day.ollama.loaded |= set(day.ollama.models)
        key = obtain_key(day.url, Account("rf@example.com", "secret")).api_key
        with Ragflow(Api(day.url, key)) as ragflow:
            yield day, ragflow


def ensure(day: Day, ragflow: Ragflow, chat: ModelSpec | None = CHAT, **options: bool | None) -> Registration:
    return ragflow.ensure_models(ollama_url=day.ollama_url, chat=chat, embedding=EMBEDDING, **options)


def writes(day: Day) -> list[str]:
    return [line for line in day.fresh.lines if not line.startswith("GET")]


@pytest.mark.parametrize("version", VERSIONS)
def test_models_are_registered_made_defaults_and_proved(tmp_path: Path, version: str) -> None:
    with opened(tmp_path, version) as (day, ragflow):
        assert ragflow.server.has_providers == (version >= "v0.26")
        first = ensure(day, ragflow)
        assert first.changed
        assert first.chat is not None and first.chat.is_default
        assert first.embedding is not None and first.embedding.is_default
        suffix = "@local@Ollama" if version >= "v0.26" else "@Ollama"
        assert first.chat.full_name == "smollm2:135m" + suffix
        assert first.embedding.full_name == "all-minilm:latest" + suffix
        assert [one.name for one in list_models(ragflow.api, "chat")] == ["smollm2:135m"]

        proof = prove(ragflow.api, first.embedding, first.chat, patience=QUICK)
        assert proof.similarity > 0.3
        assert proof.answer.startswith("The launch code name is Heron.")
        assert (ragflow.datasets(), ragflow.chats()) == ((), ())

        before = len(writes(day))
        again = ensure(day, ragflow, prove=False)
        assert not again.changed
        # The question for the provider is a PUT that says that it is there.
        assert [line for line in writes(day)[before:] if line != "PUT /api/v1/providers"] == []

        # Another context: the model is registered anew and stays the default.
        longer = ensure(day, ragflow, ModelSpec("smollm2:135m", 8192))
        assert longer.changed and longer.chat is not None and longer.chat.is_default
        assert tokens(ragflow)["smollm2:135m"] == 8192
        assert not ensure(day, ragflow, ModelSpec("smollm2:135m", 8192)).changed

        # A model that was pushed later is usable in an assistant at once, and takes nobody's place.
        pushed = ModelSpec("qwen2.5-coder:1.5b", 4096)
        later = ragflow.ensure_models(ollama_url=day.ollama_url, chat=pushed, default=None)
        assert later.chat is not None and not later.chat.is_default
        chat, _ = create_chat(ragflow.api, "helper", [], model="qwen2.5-coder:1.5b")
        assert ragflow.ask(chat, "Who are you?").text
        asked = [body["model"] for kind, body in day.ollama.requests if kind == "chat"]
        assert asked[-1] == "qwen2.5-coder:1.5b"


def tokens(ragflow: Ragflow) -> dict[str, int]:
    if not ragflow.server.has_providers:
        return {row.name: row.max_tokens for row in read_table(ragflow.api)}
    rows = ragflow.api.call("GET", "/providers/Ollama/instances/local/models")
    return {row["name"]: row["max_tokens"] for row in rows}


def test_a_repeated_instance_name_is_never_sent(tmp_path: Path) -> None:
    """The server would make `local(1)` of it and give its models to `local`."""
    with opened(tmp_path) as (day, ragflow):
        ensure(day, ragflow)
        ragflow.ensure_models(ollama_url=day.ollama_url + "/", chat=ModelSpec("qwen2.5-coder:1.5b", 4096))
        ragflow.ensure_models(ollama_url=day.ollama_url.replace("127.0.0.1", "localhost"), chat=CHAT)
        names = [one["instance_name"] for one in ragflow.api.call("GET", "/providers/Ollama/instances")]
        assert names == ["local"]
        assert day.fresh.lines.count("POST /api/v1/providers/Ollama/instances") == 1


def test_a_second_ollama_gets_a_name_and_a_key_of_its_own(tmp_path: Path) -> None:
    """0.26.0 refuses a second instance with the same key, and does not tell the first one's address."""
    with opened(tmp_path, "v0.26.0") as (day, ragflow):
        ragflow.api.call("PUT", "/providers", json={"provider_name": "Ollama"})
        theirs = {
            "instance_name": "mine",
            "api_key": "x",
            "base_url": "http://10.0.0.9:11434",
            "model_info": [],
        }
        ragflow.api.call("POST", "/providers/Ollama/instances", json=theirs)
        made = ensure(day, ragflow)
        assert made.instance == "local"
        assert not ensure(day, ragflow).changed


def test_a_cold_model_is_said_to_fail_and_a_warm_one_is_not(tmp_path: Path) -> None:
    """The server's own test waits ten seconds, and tells no reason for a chat model."""
    with opened(tmp_path, warm=False) as (day, ragflow):
        with pytest.raises(RfctlError) as caught:
            ensure(day, ragflow)
        assert caught.value.id == "ragflow.model-fails"
        day.ollama.loaded |= {"smollm2:135m", "all-minilm:latest"}
        assert ensure(day, ragflow).changed


def test_the_model_that_the_server_did_not_test_is_tested_by_us(tmp_path: Path) -> None:
    """The server is content with the first that answers."""
    with opened(tmp_path, warm=False) as (day, ragflow):
        day.ollama.loaded.add("all-minilm:latest")
        with pytest.raises(RfctlError) as caught:
            ensure(day, ragflow)
        assert (caught.value.id, "timed out" in str(caught.value.params["detail"])) == (
            "ragflow.model-fails",
            True,
        )
        day.ollama.loaded = {"smollm2:135m"}
        made = ensure(day, ragflow)
        assert made.embedding is not None
        with pytest.raises(RfctlError) as caught:
            prove(ragflow.api, made.embedding, made.chat, patience=QUICK)
        text = caught.value.text("en")
        assert "timed out" in text.message + text.why
        assert (ragflow.datasets(), ragflow.chats()) == ((), ())


def test_defaults_of_somebody_else_stay(tmp_path: Path) -> None:
    with opened(tmp_path, "v0.25.1") as (day, ragflow):
        ensure(day, ragflow, default=None)
        assert read_default(ragflow.api, "chat") == "smollm2:135m@Ollama"
        assert day.fresh.defaults["asr_id"] == "whisper@x"
        ensure(day, ragflow, ModelSpec("qwen2.5-coder:1.5b", 4096), default=None)
        assert read_default(ragflow.api, "chat") == "smollm2:135m@Ollama"
    with opened(tmp_path / "new") as (day, ragflow):
        ensure(day, ragflow, default=False)
        assert default_model(ragflow.api, "chat") is None
        ensure(day, ragflow, default=None)
        assert default_model(ragflow.api, "chat") == ("smollm2:135m", "local", "Ollama")
        ensure(day, ragflow, ModelSpec("qwen2.5-coder:1.5b", 4096), default=None)
        assert default_model(ragflow.api, "chat") == ("smollm2:135m", "local", "Ollama")


def test_ollama_is_found_from_where_the_server_is(tmp_path: Path) -> None:
    with opened(tmp_path) as (day, ragflow):
        closed = "http://127.0.0.1:9"
        names = ["smollm2:135m", "all-minilm"]
        assert find_ollama(ragflow.api, [closed, day.ollama_url], names) == day.ollama_url
        with pytest.raises(RfctlError) as caught:
            find_ollama(ragflow.api, [closed], names)
        assert caught.value.id == "ragflow.ollama-unreachable"
        with pytest.raises(UsageError) as refused:
            find_ollama(ragflow.api, [closed, day.ollama_url], ["nope"])
        assert refused.value.id == "ragflow.model-not-there"
        # Whoever registered that Ollama by another name of this machine keeps that instance.
        other = day.ollama_url.replace("127.0.0.1", "localhost")
        ragflow.api.call("PUT", "/providers", json={"provider_name": "Ollama"})
        theirs = {"instance_name": "mine", "api_key": "x", "base_url": other, "model_info": []}
        ragflow.api.call("POST", "/providers/Ollama/instances", json=theirs)
        assert find_ollama(ragflow.api, [closed, day.ollama_url], names) == other
        assert find_ollama(ragflow.api, [day.ollama_url], names) == day.ollama_url


@pytest.mark.parametrize("version", ["v0.25.0", "v0.26.0"])
def test_a_server_that_cannot_look_is_told_the_first_address(tmp_path: Path, version: str) -> None:
    with opened(tmp_path, version) as (day, ragflow):
        assert find_ollama(ragflow.api, ["http://a:11434", day.ollama_url], ["x"]) == "http://a:11434"


def test_a_proof_that_was_cut_off_is_cleared_away_and_others_documents_are_not(tmp_path: Path) -> None:
    with opened(tmp_path) as (day, ragflow):
        made = ensure(day, ragflow)
        assert made.embedding is not None
        dataset, _ = ragflow.create_dataset(NAME)
        assert prove(ragflow.api, made.embedding, patience=QUICK).answer == ""
        assert ragflow.datasets() == ()
        dataset, _ = ragflow.create_dataset(NAME)
        mine = tmp_path / "mine.txt"
        mine.write_text("my own words")
        ragflow.upload(dataset, [mine], patience=QUICK)
        with pytest.raises(RefusedError, match=r"proof\.name-taken"):
            prove(ragflow.api, made.embedding, patience=QUICK)
        assert [one.name for one in ragflow.documents(dataset)] == ["mine.txt"]


def test_a_default_that_the_server_does_not_keep_is_an_error(scripted: ScriptedServer) -> None:
    """0.25 validates no names: what counts is what it says afterwards."""

    def ok(data: object) -> bytes:
        return http(200, {"code": 0, "data": data})

    missing = http(404, {"code": 404, "message": "Not Found: /api/v1/providers"})
    row = {
        "type": "chat",
        "name": "m:latest",
        "api_base": "http://o:11434",
        "max_tokens": 4096,
        "status": "1",
    }
    table = {"Ollama": {"llm": [row]}}
    account = {"tenant_id": "t", "llm_id": "other@Ollama"}
    scripted.say(missing, ok(table), ok(account), ok(account), ok(True), ok(account))
    with Ragflow(Api(scripted.url, "ragflow-x")) as ragflow, pytest.raises(RfctlError) as caught:
        ragflow.ensure_models(ollama_url="http://o:11434", chat=ModelSpec("m", 4096))
    assert caught.value.id == "ragflow.default-not-kept"
    sent = json.loads(scripted.requests[4].body)
    assert scripted.requests[4].line.startswith("PATCH /api/v1/users/me/models")
    assert sent == {
        "tenant_id": "t",
        "llm_id": "m:latest@Ollama",
        "embd_id": "",
        "asr_id": "",
        "img2txt_id": "",
    }


def test_the_reason_of_an_old_server_reaches_the_user(scripted: ScriptedServer) -> None:
    missing = http(404, {"code": 404, "message": "Not Found: /api/v1/providers"})
    reason = "\nFail to access model(Ollama/m:latest).**ERROR**: [Errno 111] Connection refused"
    scripted.say(missing, http(200, {"code": 0, "data": {}}), http(200, {"code": 102, "message": reason}))
    with Ragflow(Api(scripted.url, "ragflow-x")) as ragflow, pytest.raises(RfctlError) as caught:
        ragflow.ensure_models(ollama_url="http://o:11434", chat=ModelSpec("m", 4096))
    assert caught.value.id == "ragflow.model-fails"
    assert "Connection refused" in caught.value.text("en").why


WRITES = {
    "v0.27.0": [
        "POST /api/v1/users",
        "POST /api/v1/system/tokens",
        "POST /api/v1/providers/Ollama/instances",
        "PATCH /api/v1/models/default",
    ],
    "v0.25.1": ["POST /v1/llm/add_llm", "PATCH /api/v1/users/me/models"],
}


@pytest.mark.parametrize("version", list(WRITES))
def test_a_set_up_that_broke_off_anywhere_goes_on_where_it_was(tmp_path: Path, version: str) -> None:
    """Every writing call once without an effect and once with one, each time answered by a proxy's 502."""
    for number, route in enumerate(WRITES[version]):
        with first_day(tmp_path / str(number), version) as day:
            day.ollama.loaded |= set(day.ollama.models)
            broken = 0
            for kind in (day.fresh.refused, day.fresh.lost):
                kind.add(route)
                try:
                    set_up(day)
                except UnreachableError:
                    broken += 1
            made = set_up(day)
            assert not day.fresh.refused and broken >= 1
            assert made.chat is not None and made.chat.is_default
            assert made.embedding is not None and made.embedding.is_default
            assert (len(day.fresh.accounts), len(day.fresh.keys)) == (1, 1)
            with Api(day.url, day.fresh.keys[0]) as api:
                assert [one.name for one in list_models(api, "chat")] == ["smollm2:135m"]
                if version == "v0.27.0":
                    instances = api.call("GET", "/providers/Ollama/instances")
                    assert [one["instance_name"] for one in instances] == ["local"]


def set_up(day: Day) -> Registration:
    key = obtain_key(day.url, Account("rf@example.com", "secret")).api_key
    with Ragflow(Api(day.url, key, retries=0)) as ragflow:
        return ensure(day, ragflow)
