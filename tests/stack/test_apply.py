"""`rfctl apply` from the embedded engine to a second engine: whole, again, the rest, and what fails."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import xxhash
from scripted_server import ScriptedServer, Step
from tiny_model import write_chat_model, write_embedding_model

from rfctl.core.error import RfctlError
from rfctl.engine import daemon
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.manifest import MEDIA_MODEL
from rfctl.ollama.name import parse_name
from rfctl.ollama.store import ModelStore
from rfctl.ragflow_client.connection import connect
from rfctl.ragflow_client.dataset import Dataset, read_options
from rfctl.ragflow_client.document import Document, hash_document, list_meta, set_meta
from rfctl.ragflow_client.ledger import Ledger, Row
from rfctl.ragflow_client.transport import Api
from rfctl.stack.apply import create_request
from rfctl.stack.apply_content import ContentMemory

Run = Callable[..., Any]
DOCUMENTS = {
    "pump.txt": "The pump is started with the green button. hello world fox word\n" * 20,
    "阀门.md": "# 阀门\n\nhello world fox\n" * 20,
    "notes (2).txt": "word fox hello\n" * 20,
}


@dataclass(frozen=True)
class Pair:
    """The embedded engine with content, an empty second one, and `rfctl` that knows both."""

    run: Run
    home: Path
    second: Path


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first engine's data, made once; every test gets a copy."""
    folder = tmp_path_factory.mktemp("apply")
    write_chat_model(folder / "chat.gguf", context_length=8192)
    write_embedding_model(folder / "embedding.gguf")
    for name, content in DOCUMENTS.items():
        (folder / name).write_text(content, encoding="utf-8")
    return folder


@pytest.fixture
def pair(rfctl: Run, environment: dict[str, str], folders: Path, tmp_path: Path) -> Iterator[Pair]:
    home, second = Path(environment["RFCTL_HOME"]), tmp_path / "second"
    template = folders / "home"

    def run(*arguments: str, **options: Any) -> Any:
        key = {"RAGFLOW_API_KEY": daemon.read_api_key(second)}
        return rfctl(*arguments, env=key | options.pop("env", {}), **options)

    other = daemon.start(second)
    engine = home / "data" / "engine"
    try:
        if template.exists():
            shutil.copytree(template, home)
        else:
            fill(run, folders)
            daemon.stop(engine)
            shutil.copytree(home, template)
        added = run("profile", "add", "second", "--ollama", other.url, "--ragflow", other.url)
        assert added.code == 0, added.err
        yield Pair(run, home, second)
    finally:
        daemon.stop(engine)
        daemon.stop(second)


def fill(run: Run, folder: Path) -> None:
    for words in (
        ("model", "push", str(folder / "chat.gguf"), "chatty", "--no-verify", "--system", "Be brief."),
        ("model", "push", str(folder / "embedding.gguf"), "embed", "--no-verify"),
        ("kb", "create", "manuals", "--chunk-tokens", "64"),
        ("kb", "upload", *(str(folder / name) for name in DOCUMENTS), "--kb", "manuals"),
        ("chat", "create", "helper", "--kb", "manuals", "--top-n", "3"),
    ):
        done = run(*words, "--quiet")
        assert done.code == 0, done.err + done.out


def look(folder: Path) -> dict[str, Any]:
    """What the engine of a folder holds, asked directly."""
    url = daemon.start(folder).url
    with OllamaClient(url) as ollama, connect(url, daemon.read_api_key(folder)) as ragflow:
        cards = {entry.name: ollama.show(entry.name) for entry in ollama.models()}
        return {
            "models": {
                name: (card.blob_digest, card.system, card.template, card.parameters, card.quantization)
                for name, card in cards.items()
            },
            "datasets": {
                one.name: (one.embedding_model, read_options(one), one.chunk_count)
                for one in ragflow.datasets()
            },
            "documents": {
                (one.name, document.name): (document.size, document.run, document.chunk_count)
                for one in ragflow.datasets()
                for document in ragflow.documents(one)
            },
            "meta": {
                (one.name, document.name): meta
                for one in ragflow.datasets()
                for document in ragflow.documents(one)
                if (meta := list_meta(ragflow.api, one).get(document.id))
            },
            "chats": {
                one.name: (one.model.partition("@")[0], one.dataset_names, ragflow.chat_options(one))
                for one in ragflow.chats()
            },
        }


def test_everything_is_rebuilt_once(pair: Pair) -> None:
    planned = pair.run("apply", "-p", "second", "--dry-run", "--detailed-exitcode", "--json")
    assert planned.code == 10, planned.err
    items = json.loads(planned.out)["items"]
    assert {(item["kind"], item["name"], item["action"]) for item in items} == {
        ("model", "chatty:latest", "create"),
        ("model", "embed:latest", "create"),
        ("kb", "manuals", "create"),
        *(("document", name, "create") for name in DOCUMENTS),
        ("chat", "helper", "create"),
    }
    assert not any(look(pair.second).values())
    here = daemon.start(pair.home / "data" / "engine").url
    with connect(here, daemon.read_api_key(pair.home / "data" / "engine")) as ragflow:
        (dataset,) = ragflow.datasets()
        pump = next(one for one in ragflow.documents(dataset) if one.name == "pump.txt")
        assert set_meta(ragflow.api, dataset, pump.id, {"source_url": "https://pump.example/a", "year": 2024})

    done = pair.run("apply", "-p", "second")
    assert done.code == 0, done.err
    assert "done: model chatty:latest" in done.out
    assert "done: document manuals/阀门.md" in done.out
    there = look(pair.second)
    assert there == look(pair.home / "data" / "engine")
    assert there["models"]["chatty:latest"][1] == "Be brief."
    assert there["datasets"]["manuals"][1].chunk_tokens == 64
    assert there["chats"]["helper"][2]["top_n"] == 3
    assert there["meta"] == {("manuals", "pump.txt"): {"source_url": "https://pump.example/a", "year": 2024}}

    again = pair.run("apply", "-p", "second", "--dry-run", "--detailed-exitcode")
    assert (again.code, again.out) == (
        0,
        "embedded -> second: 0 to do, 7 there already, 0 left as they are\n",
    )


def test_documents_are_compared_by_what_they_hold(pair: Pair, tmp_path: Path) -> None:
    """Same name, same size: what apply has brought is known, what somebody else has put there is not."""

    def plan(*options: str) -> tuple[dict[str, tuple[str, str]], str]:
        done = pair.run("apply", "-p", "second", "--only", "document", "--dry-run", "--json", *options)
        assert done.code == 0, done.err
        items = json.loads(done.out)["items"]
        return {item["name"]: (item["action"], item["content"]) for item in items}, done.err

    def replace(content: str, *options: str) -> None:
        (tmp_path / "pump.txt").write_text(content, encoding="utf-8")
        words = ("kb", "upload", str(tmp_path / "pump.txt"), "--replace", "--kb", "manuals", "-q")
        assert pair.run(*words, *options).code == 0

    assert pair.run("apply", "-p", "second", "-q").code == 0
    same = dict.fromkeys(DOCUMENTS, ("keep", "same"))
    assert plan()[0] == same

    other = DOCUMENTS["pump.txt"].replace("green", "white")
    replace(other)
    assert plan()[0] == same | {"pump.txt": ("differs", "other")}

    replace(other, "-p", "second")
    assert plan()[0] == same | {"pump.txt": ("keep", "unknown")}
    said = pair.run("apply", "-p", "second", "--only", "document")
    assert "Compared by name and size only: 1 documents; --check-content reads" in said.err
    assert plan("--check-content")[0] == same
    assert plan()[0] == same  # and it is remembered

    shutil.rmtree(pair.home / "data" / "apply")
    assert plan()[0] == dict.fromkeys(DOCUMENTS, ("keep", "unknown"))


@pytest.mark.parametrize("text", ["", "[]", '{"a": 1}', "{", '{"' + "0" * 32 + '": "../x"}'])
def test_a_memory_of_anybody_is_no_memory(tmp_path: Path, text: str) -> None:
    memory, id = ContentMemory(tmp_path / "apply", tmp_path / "sync"), "0" * 32
    (tmp_path / "apply").mkdir()
    (tmp_path / "apply" / f"{id}.json").write_text(text)
    assert memory.known(id) == {}
    memory.remember(id, {"1" * 32: "a" * 32})
    memory.remember("../../outside", {"1" * 32: "a" * 32})
    assert memory.known(id) == {"1" * 32: "a" * 32}
    assert memory.known("../../outside") == {}
    assert [one.name for one in tmp_path.rglob("*.json")] == [f"{id}.json"]


def test_what_sync_has_put_there_is_known(tmp_path: Path) -> None:
    memory = ContentMemory(tmp_path / "apply", tmp_path / "sync")
    with Ledger(tmp_path / "sync", "d" * 32, tmp_path) as ledger:
        ledger.write([Row("a.pdf", "1" * 32, "a" * 32), Row("b.pdf", "", "b" * 32)])
    assert memory.known("d" * 32) == {"1" * 32: "a" * 32}
    assert memory.known("e" * 32) == {}


def test_a_server_that_sends_without_an_end_is_not_listened_to() -> None:
    head = b"HTTP/1.1 200 X\r\nContent-Disposition: attachment; filename=a\r\nConnection: close\r\n\r\n"
    dataset, document = Dataset("d" * 32, "a", "", "naive", 1, 1), Document("1" * 32, "a.txt", 5, "DONE")
    with ScriptedServer() as server, Api(server.url, "ragflow-x", read_seconds=30) as api:
        server.say(Step(pieces=(head, *[b"x" * (1 << 20)] * 200), pause=0.1))
        begin = time.monotonic()
        assert hash_document(api, dataset, document) != xxhash.xxh3_128(b"x" * 5).hexdigest()
        assert time.monotonic() - begin < 10
        server.say(head + b"xxxxx")
        assert hash_document(api, dataset, document) == xxhash.xxh3_128(b"x" * 5).hexdigest()


def test_after_a_kill_the_rest_is_done_and_what_differs_is_left(
    pair: Pair, environment: dict[str, str], tmp_path: Path
) -> None:
    key = {"RAGFLOW_API_KEY": daemon.read_api_key(pair.second)}
    command = [sys.executable, "-m", "rfctl.cli.main", "apply", "-p", "second", "--quiet"]
    process = subprocess.Popen(command, env=environment | key, cwd=tmp_path)
    url = daemon.start(pair.second).url
    with connect(url, key["RAGFLOW_API_KEY"]) as ragflow:
        end = time.monotonic() + 60
        while not ragflow.datasets() and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
    process.kill()
    process.wait()
    changed = tmp_path / "pump.txt"
    changed.write_text("another pump. hello world\n" * 9, encoding="utf-8")
    more = ("--replace", "--kb", "manuals", "-p", "second", "--quiet")
    assert pair.run("kb", "upload", str(changed), *more).code == 0

    done = pair.run("apply", "-p", "second", "--json")
    assert done.code == 0, done.err
    report = json.loads(done.out)
    assert [item["name"] for item in report["items"] if item["action"] == "differs"] == ["pump.txt"]
    here, there = look(pair.home / "data" / "engine"), look(pair.second)
    assert there["documents"]["manuals", "pump.txt"][0] == changed.stat().st_size
    assert there["documents"].keys() == here["documents"].keys()
    assert (there["models"], there["chats"]) == (here["models"], here["chats"])
    table = pair.run("apply", "-p", "second")
    assert (table.code, "differs, left" in table.out) == (0, True)
    assert "nothing is overwritten" in table.err


def test_a_failure_of_one_does_not_stop_the_others(pair: Pair) -> None:
    """The chat model's file is gone: the knowledge base is built, the assistant is not."""
    store = ModelStore(pair.home / "data" / "engine" / "models")
    model = store.read(parse_name("chatty"))
    assert model is not None
    layer = model.manifest.layer(MEDIA_MODEL)
    assert layer is not None
    store.blob_path(layer.digest).unlink()
    with pytest.raises(RfctlError, match=r"apply\.model-broken"):
        create_request(store, model)
    done = pair.run("apply", "-p", "second", "--json")
    assert done.code == 6
    report = json.loads(done.out)
    # The engine does not list a model without its file.
    assert {one["item"]["name"] for one in report["failed"]} == {"helper"}
    assert report["done"] == 5
    assert "apply.partly-failed" in done.err


def test_a_name_that_is_not_there_is_said(pair: Pair) -> None:
    done = pair.run("apply", "-p", "second", "--name", "nope", "-q")
    assert (done.code, done.err.splitlines()[0]) == (
        2,
        "error[apply.name-unknown]: embedded has no knowledge base or assistant called nope",
    )


def test_a_target_that_is_gone_is_said(pair: Pair) -> None:
    key = daemon.read_api_key(pair.second)
    daemon.stop(pair.second)
    done = pair.run("apply", "-p", "second", env={"RAGFLOW_API_KEY": key})
    assert done.code == 3


def test_one_profile_is_not_two(rfctl: Run, environment: dict[str, str]) -> None:
    done = rfctl("apply")
    assert (done.code, done.err.splitlines()[0]) == (
        2,
        "error[apply.same]: Source and target are the same: embedded",
    )
    assert not (Path(environment["RFCTL_HOME"]) / "data" / "engine").exists()
