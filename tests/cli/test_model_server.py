"""`rfctl kb use-model --provider`: a server with OpenAI's API, through a RAGFlow that calls its models."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fresh_server import FreshServer, first_day
from openai_server import OpenAIServer
from ragflow_bench import KEY, Server, application
from tiny_model import write_chat_model

from rfctl.core.error import AuthError, RfctlError, UsageError
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.model_server import open_server, read_models
from rfctl.ragflow_client.provider import ModelSpec
from rfctl.ragflow_client.transport import Api

SECRET = "sk-" + "s" * 30
CLOSED = "http://127.0.0.1:9"


@dataclass
class Place:
    """A RAGFlow, a model server, and `use(...)`: the command between them."""

    url: str
    models: OpenAIServer
    models_url: str
    rfctl: Callable[..., Any]

    def use(self, *arguments: str, **options: Any) -> Any:
        return self.rfctl("kb", "use-model", *arguments, env=self.variables(options), **options)

    def run(self, *arguments: str, **options: Any) -> Any:
        return self.rfctl(*arguments, env=self.variables(options), **options)

    def variables(self, options: dict[str, Any]) -> dict[str, str]:
        base = {"RAGFLOW_BASE_URL": self.url, "RAGFLOW_API_KEY": KEY, "OLLAMA_HOST": CLOSED}
        return base | options.pop("env", {})

    def call(self, path: str) -> Any:
        with Api(self.url, KEY) as api:
            return api.call("GET", path)


@pytest.fixture
def place(tmp_path: Path, rfctl: Callable[..., Any]) -> Iterator[Place]:
    """The engine's RAG half, which calls such servers as RAGFlow does."""
    double = OpenAIServer()
    with Server(double.app) as models, Server(application(tmp_path / "server")) as engine:
        yield Place(engine.url, double, models.url, rfctl)


def test_a_chat_model_of_vllm_answers_through_ragflow_and_is_there_only_once(place: Place) -> None:
    arguments = ("my/chat", "--provider", "vllm", "--model-url", f"{place.models_url}/v1/")
    first = place.use(*arguments, "--json")
    assert first.code == 0, first.err
    report = json.loads(first.out)
    assert report["full_name"] == "my/chat@local@VLLM"
    assert (report["unchanged"], report["context"]) == (False, 8192)  # the server's max_model_len
    assert report["model"]["is_default"] is True
    assert place.models.requests[-1][0] == "chat"  # the proof came through RAGFlow
    assert place.models.requests[-1][1]["messages"][-1]["content"] == "hello"

    again = place.use(*arguments)
    assert (again.code, again.out) == (0, "unchanged: RAGFlow has the model my/chat@local@VLLM\n"), again.err
    assert [one["instance_name"] for one in place.call("/providers/VLLM/instances")] == ["local"]
    (row,) = place.call("/providers/VLLM/instances/local/models")
    assert (row["name"], row["max_tokens"]) == ("my/chat", 8192)

    # Another length: registered anew, still the default.
    shorter = json.loads(place.use(*arguments, "--context", "2048", "--json").out)
    assert (shorter["unchanged"], shorter["context"]) == (False, 2048)
    (row,) = place.call("/providers/VLLM/instances/local/models")
    assert row["max_tokens"] == 2048
    too_long = place.use(*arguments, "--context", "9000")
    assert (too_long.code, "8192" in too_long.err) == (0, True)


def test_documents_are_found_and_answered_from_with_such_models_alone(place: Place, tmp_path: Path) -> None:
    where = ("--provider", "openai", "--model-url", place.models_url)
    vectors = place.use("my/vectors", *where, "--kind", "embedding", "--json")
    assert vectors.code == 0, vectors.err
    report = json.loads(vectors.out)
    assert report["full_name"] == "my/vectors@local@OpenAI-API-Compatible"
    assert report["proof"]["similarity"] > 0.3 and report["context"] == 512
    assert "embed" in [kind for kind, _ in place.models.requests]
    assert place.call("/datasets") == []  # the proof leaves nothing
    assert place.use("my/chat", *where).code == 0

    note = tmp_path / "note.txt"
    note.write_text("The launch code name is Heron.")
    assert place.run("kb", "create", "launch").code == 0
    up = place.run("kb", "upload", str(note), "--kb", "launch", "--json")
    assert up.code == 0, up.err
    assert place.run("chat", "create", "helper", "--kb", "launch").code == 0
    asked = place.run("chat", "ask", "helper", "What is the launch code name?", "--json")
    assert asked.code == 0, asked.err
    answer = json.loads(asked.out)
    assert answer["answer"] == "The launch code name is Heron. [1]"
    assert answer["sources"][0]["document"] == "note.txt"

    place.models.breaks = True
    broken = place.run("chat", "ask", "helper", "What is the launch code name?")
    assert (broken.code, "before it was complete" in broken.out + broken.err) == (0, True), broken


def test_the_key_comes_from_the_environment_and_goes_to_the_server_only(place: Place, tmp_path: Path) -> None:
    place.models.key = SECRET
    arguments = ("my/chat", "--provider", "vllm", "--model-url", place.models_url)
    without = place.use(*arguments)
    assert (without.code, "[provider.key-refused]" in without.err) == (4, True), without.err
    assert place.call("/providers") == []  # nothing was begun
    file = tmp_path / "key"
    file.write_text(SECRET + "\n")
    done = place.use(*arguments, env={"RFCTL_MODEL_API_KEY_FILE": str(file)})
    assert done.code == 0, done.err
    assert SECRET not in done.out + done.err
    assert place.call("/providers/VLLM/instances/local")["api_key"] == SECRET

    # The server got another key: the instance follows, and no second one is made.
    place.models.key = SECRET.upper()
    renewed = place.use(*arguments, "--json", env={"RFCTL_MODEL_API_KEY": SECRET.upper()})
    assert renewed.code == 0, renewed.err
    assert json.loads(renewed.out)["unchanged"] is False
    assert len(place.call("/providers/VLLM/instances")) == 1
    assert place.call("/providers/VLLM/instances/local")["api_key"] == SECRET.upper()


def test_what_cannot_work_says_why_before_anything_is_registered(place: Place) -> None:
    base = ("--provider", "vllm", "--model-url", place.models_url)
    cases = [
        (("nope", *base), 2, "provider.model-missing"),
        (("my/chat", "--provider", "vllm"), 2, "provider.url-missing"),
        (("my/chat", "--context", "512"), 2, "provider.option-alone"),
        (("m", "--provider", "vllm", "--model-url", CLOSED), 2, "provider.no-context"),
        (("m", "--provider", "vllm", "--model-url", "ftp://x"), 2, "provider.url-invalid"),
        (("m", "--provider", "vllm", "--model-url", "http://u:p@x"), 2, "provider.url-has-secret"),
        # RAGFlow itself lists no models as OpenAI does.
        (("m", "--provider", "openai", "--model-url", place.url), 2, "provider.no-context"),
    ]
    for arguments, code, id in cases:
        done = place.use(*arguments)
        assert (done.code, f"[{id}]" in done.err, done.out) == (code, True, ""), done.err
    assert "why: Did you mean my/chat? It serves: " in place.use("my/chta", *base).err
    assert place.call("/providers") == []
    # Not reachable from here with the context given: then RAGFlow is asked, and says it too.
    away = place.use("m", "--provider", "vllm", "--model-url", CLOSED, "--context", "4096")
    assert (away.code, "[ragflow.server-unreachable]" in away.err) == (1, True), away.err
    place.models.models["my/chat"].pop("max_model_len")
    assert "[provider.no-context]" in place.use("my/chat", *base).err


def test_an_embedding_model_taken_for_a_chat_model_is_refused(place: Place) -> None:
    place.models.answer = ""
    done = place.use("my/chat", "--provider", "vllm", "--model-url", place.models_url)
    assert (done.code, "[ragflow.model-silent]" in done.err) == (1, True), done.err


def test_a_set_up_with_the_chat_model_of_such_a_server(tmp_path: Path, rfctl: Callable[..., Any]) -> None:
    """The embedding model stays with Ollama; the second time nothing changes."""
    double = OpenAIServer()
    with Server(double.app) as models, first_day(tmp_path / "server") as day:
        del day.ollama.models["multilingual-e5-small:latest"]
        env = {"OLLAMA_HOST": day.ollama_url, "RFCTL_ADMIN_PASSWORD": "correct horse"}
        words = ("--url", day.url, "--email", "rf@example.com", "--provider", "vllm")
        short = rfctl("stack", "setup", *words, env=env)
        assert (short.code, "[setup.provider-needs]" in short.err, day.fresh.accounts) == (2, True, {})
        words = (*words, "--model-url", models.url, "--chat-model", "my/chat", "--json")
        first = rfctl("stack", "setup", *words, env=env)
        assert first.code == 0, first.err
        report = json.loads(first.out)
        assert report["chat_model"] == "my/chat@local@VLLM"
        assert report["embedding_model"] == "all-minilm:latest@local@Ollama"
        assert report["proof"]["answer"].startswith("The launch code name is Heron.")
        again = rfctl("stack", "setup", *words, "--no-proof", env=env)
        assert (again.code, json.loads(again.out)["unchanged"]) == (0, True), again.err


def test_a_registration_that_broke_off_anywhere_goes_on_where_it_was(tmp_path: Path) -> None:
    """Every writing call once without an effect and once with one, each time answered by a proxy's 502."""
    double = OpenAIServer()
    routes = [
        "PUT /api/v1/providers",
        "POST /api/v1/providers/VLLM/instances",
        "POST /api/v1/providers/VLLM/instances/local/models/my/chat",
        "PATCH /api/v1/models/default",
    ]
    with Server(double.app) as models:
        for number, route in enumerate(routes):
            with Server(application(tmp_path / str(number))) as engine:
                fresh = FreshServer(engine.url)
                fresh.keys.append(KEY)
                spec = ModelSpec("my/chat", 8192)
                with Server(fresh.app) as server, Ragflow(Api(server.url, KEY, retries=0)) as ragflow:
                    served = open_server("vllm", models.url)
                    for kind in (fresh.refused, fresh.lost):
                        kind.add(route)
                        with suppress(RfctlError):
                            ragflow.ensure_served(served, chat=spec)
                    done = ragflow.ensure_served(served, chat=spec)
                    assert not fresh.refused and not fresh.lost, route
                    assert done.chat is not None and done.chat.is_default
                    instances = ragflow.api.call("GET", "/providers/VLLM/instances")
                    assert [one["instance_name"] for one in instances] == ["local"], route
                    assert not ragflow.ensure_served(served, chat=spec).changed


@pytest.mark.parametrize("version", ["v0.26.0", "v0.25.1"])
def test_older_servers(tmp_path: Path, rfctl: Callable[..., Any], version: str) -> None:
    double = OpenAIServer()
    with Server(double.app) as models, Server(application(tmp_path / "server")) as engine:
        fresh = FreshServer(engine.url, version)
        fresh.keys.append(KEY)
        with Server(fresh.app) as server:
            place = Place(server.url, double, models.url, rfctl)
            done = place.use("my/chat", "--provider", "xinference", "--model-url", f"{models.url}/v1")
            if version == "v0.25.1":
                assert (done.code, "[ragflow.provider-old]" in done.err) == (2, True), done.err
                return
            assert done.code == 0, done.err
            # RAGFlow appends /v1 itself there.
            assert place.call("/providers/Xinference/instances/local")["base_url"] == models.url


@pytest.mark.parametrize(
    ("kind", "given", "url"),
    [
        ("vllm", "gpu:8000", "http://gpu:8000/v1"),
        ("vllm", "http://gpu:8000/v1/", "http://gpu:8000/v1"),
        ("openai", "https://gpu/api/v1/chat/completions", "https://gpu/api/v1"),
        ("xinference", "http://gpu:9997/v1", "http://gpu:9997"),
        ("xinference", '"http://[::1]:9997/v1/models"', "http://[::1]:9997"),
    ],
)
def test_addresses_as_people_paste_them(kind: str, given: str, url: str) -> None:
    server = open_server(kind, given, SECRET)
    assert server.url == url
    assert SECRET not in repr(server)
    for broken in ("http://", "http://a:b:c", "http://x:99999999"):
        with pytest.raises(UsageError):
            open_server(kind, broken)
    with pytest.raises(AuthError):
        open_server(kind, given, "two words")


def test_listings_of_other_servers() -> None:
    double = OpenAIServer()
    double.models = {
        "llm": {"model_type": "LLM", "context_length": 32768, "max_tokens": 99},
        "vectors": {"model_type": "embedding", "max_tokens": 512, "dimensions": 384},
        "plain": {"max_model_len": "many", "context_length": None},
    }
    with Server(double.app) as server:
        found = {one.name: (one.kind, one.context) for one in read_models(server.url)}
        assert found == {"llm": ("chat", 32768), "vectors": ("embedding", 512), "plain": ("", 0)}
        double.models = {"x" * (5 << 20): {}}
        with pytest.raises(RfctlError) as caught:
            read_models(server.url)
        assert caught.value.id == "provider.no-listing"


def test_the_engine_itself_as_such_a_server(tmp_path: Path, rfctl: Callable[..., Any]) -> None:
    """A real model behind /v1 of one engine, asked by another."""
    tiny_chat = write_chat_model(tmp_path / "chat.gguf")
    served = tmp_path / "served"
    push = rfctl("model", "push", str(tiny_chat), "tiny", env={"RFCTL_HOME": str(served)})
    assert push.code == 0, push.err
    try:
        status = json.loads(rfctl("engine", "status", "--json", env={"RFCTL_HOME": str(served)}).out)
        with Server(application(tmp_path / "server")) as engine:
            place = Place(engine.url, OpenAIServer(), status["url"], rfctl)
            where = ("--provider", "openai", "--model-url", status["url"])
            silent = place.use("tiny:latest", *where)
            assert (silent.code, "[provider.no-context]" in silent.err) == (2, True)
            done = place.use("tiny:latest", *where, "--context", "512", "--json")
            assert done.code == 0, done.err
            assert json.loads(done.out)["full_name"] == "tiny:latest@local@OpenAI-API-Compatible"
    finally:
        rfctl("engine", "stop", env={"RFCTL_HOME": str(served)})
