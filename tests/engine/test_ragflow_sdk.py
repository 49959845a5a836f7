"""The official ragflow-sdk against the engine, with the engine itself as the only model provider."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_bench import KEY, Bench, bench
from ragflow_sdk import RAGFlow


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path, preset=True) as made:
        yield made


@pytest.fixture
def sdk(engine: Bench) -> RAGFlow:
    return RAGFlow(api_key=KEY, base_url=engine.url)


def test_from_dataset_to_chunks(engine: Bench, sdk: RAGFlow, golden: Path) -> None:
    fixtures = golden / "ragflow" / "fixtures"
    dataset = sdk.create_dataset(name="handbook", embedding_model="all-minilm:latest@local@Ollama")
    assert [one.name for one in sdk.list_datasets()] == ["handbook"]
    blobs = [
        {"display_name": name, "blob": (fixtures / name).read_bytes()} for name in ("handbook.pdf", "zh.pdf")
    ]
    documents = dataset.upload_documents(blobs)
    assert [one.name for one in documents] == ["handbook.pdf", "zh.pdf"]
    done = dataset.parse_documents([one.id for one in documents])
    assert sorted(state for _, state, _, _ in done) == ["DONE", "DONE"]
    assert all(chunks > 0 for _, _, chunks, _ in done)
    listed = dataset.list_documents(keywords="hand")
    assert [(one.name, one.run, one.progress) for one in listed] == [("handbook.pdf", "DONE", 1.0)]
    assert listed[0].download() == (fixtures / "handbook.pdf").read_bytes()
    listed[0].update({"name": "renamed.pdf"})
    assert dataset.list_documents(name="renamed.pdf")[0].id == listed[0].id
    dataset.update({"name": "renamed", "parser_config": {"chunk_token_num": 128}})
    assert sdk.get_dataset(name="renamed").parser_config.chunk_token_num == 128
    dataset.delete_documents(ids=[one.id for one in documents])
    assert dataset.list_documents() == []
    sdk.delete_datasets(ids=[dataset.id])
    assert sdk.list_datasets() == []


def test_a_fresh_engine_needs_no_setup(engine: Bench, sdk: RAGFlow) -> None:
    models = engine.call("GET", "/models", params={"type": "embedding"})
    assert [one["name"] for one in models] == ["all-minilm:latest", "multilingual-e5-small:latest"]
    assert [one["instance_name"] for one in models] == ["local", "local"]
    ids = {one["name"]: one["model_id"] for one in models}
    defaults = engine.call("GET", "/models/default")["models"]
    assert [one["model_type"] for one in defaults] == ["chat", "embedding"]
    shown = engine.call("GET", "/providers/Ollama/instances/local")
    assert shown["base_url"] == engine.double_url
    dataset = sdk.create_dataset(name="plain")
    assert re.fullmatch(r"[\w.-]+:latest@local@Ollama", dataset.embedding_model)
    engine.double.models = {"new-embed:1": (["embedding"], 256), **engine.double.models}
    del engine.double.models["multilingual-e5-small:latest"]
    models = engine.call("GET", "/models", params={"type": "embedding"})
    assert [one["name"] for one in models] == ["all-minilm:latest", "new-embed:1"]
    # The same model under a second name is a model of its own.
    engine.double.same["twice:1"] = "new-embed:1"
    engine.double.models["twice:1"] = (["embedding"], 256)
    models = engine.call("GET", "/models", params={"type": "embedding"})
    assert [one["name"] for one in models] == ["all-minilm:latest", "new-embed:1", "twice:1"]
    del engine.double.models["twice:1"]
    assert models[0]["model_id"] == ids["all-minilm:latest"]
    # A client that registers as RAGFlow wants it finds the provider there and may add the models.
    answer = engine.client.put("/providers", json={"provider_name": "Ollama"}).json()
    assert answer == {"code": 102, "message": "Provider Ollama already exists"}
    added = {"model_name": "all-minilm:latest", "model_type": "embedding", "max_tokens": 512}
    engine.call("POST", "/providers/Ollama/instances/local/models", json=added)
    again = engine.client.post("/providers/Ollama/instances/local/models", json=added).json()
    assert again["code"] == 102


def test_the_embedding_service_down(engine: Bench, sdk: RAGFlow) -> None:
    engine.call(
        "PUT", "/providers/Ollama/instances/local", json={"base_url": "http://127.0.0.1:9", "verify": False}
    )
    dataset = sdk.create_dataset(name="down", embedding_model=None)
    engine.call(
        "POST",
        "/providers/Ollama/instances/local/models",
        json={"model_name": "gone:latest", "model_type": "embedding", "max_tokens": 512},
    )
    dataset.update({"embedding_model": "gone:latest@local@Ollama"})
    document = dataset.upload_documents([{"display_name": "a.txt", "blob": b"text"}])[0]
    assert dataset.parse_documents([document.id])[0][1] == "FAIL"
    message = dataset.list_documents(id=document.id)[0].progress_msg
    assert "[ERROR]Fail to bind embedding model: Embedding request failed for OllamaEmbed" in message


def test_unknown_and_unsupported_routes(engine: Bench) -> None:
    response = engine.client.get("/agents")
    assert response.status_code == 501
    assert response.json()["message"].startswith("rfctl's embedded engine does not have GET /api/v1/agents")
    assert engine.client.get("/agentsx").status_code == 404
    assert engine.client.get("/nope").json() == {
        "code": 404,
        "data": None,
        "error": "Not Found",
        "message": "Not Found: /api/v1/nope",
    }


def test_keys_come_and_go(engine: Bench) -> None:
    made = engine.call("POST", "/system/tokens")
    other = {"Authorization": f"Bearer {made['token']}"}
    assert engine.plain.get(f"{engine.url}/api/v1/datasets", headers=other).status_code == 200
    assert [one["token"] for one in engine.call("GET", "/system/tokens")] == [made["token"]]
    engine.call("DELETE", f"/system/tokens/{made['token']}")
    assert engine.plain.get(f"{engine.url}/api/v1/datasets", headers=other).status_code == 401
