"""The recorded exchanges of Ollama 0.33.0-rc2, replayed against the engine with tiny models."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_process import Engine
from ollama_replay import Replay
from tiny_model import write_chat_model, write_embedding_model

GO_CHATML = """{{- range .Messages }}<|im_start|>{{ .Role }}
{{ .Content }}<|im_end|>
{{ end }}<|im_start|>assistant
"""
# Scenario -> exchanges that are left out, with the reason.
LEFT_OUT: dict[str, dict[int, str]] = {
    "embed-errors": {7: "llama.cpp aborts there; the engine refuses a model without pooling before that"},
    "overflow": {8: "what is left of a long history depends on the vocabulary"},
    "create-quantize-errors": {5: "needs a model that the server has quantized"},
}


@pytest.fixture(scope="module")
def contents(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Our stand-in for every file of the recording, by its recorded digest."""
    folder = tmp_path_factory.mktemp("contents")
    probe = {"mm.probe": np.zeros(32, dtype=np.float32)}
    whole = write_chat_model(folder / "tiny").read_bytes()
    made: dict[str, bytes] = {
        "tiny-f16.gguf": whole,
        "tiny-f32.gguf": write_chat_model(folder / "f32", file_type=0).read_bytes(),
        "tiny-notmpl.gguf": write_chat_model(folder / "notmpl", template=None).read_bytes(),
        "tiny-badjinja.gguf": write_chat_model(folder / "badjinja", template="{% for %}").read_bytes(),
        "badarch.gguf": write_chat_model(folder / "badarch", architecture="lhama").read_bytes(),
        "badpre.gguf": write_chat_model(folder / "badpre", pre="zzzzzz").read_bytes(),
        "trunc.gguf": whole[: len(whole) // 2],
        "badmagic.gguf": b"XXXX" + b"\0" * 1996,
        "ver4.gguf": whole[:4] + b"\4\0\0\0" + whole[8:],
        "missing-tensor.gguf": write_chat_model(
            folder / "missing", without="blk.0.ffn_up.weight"
        ).read_bytes(),
        "probe-ok.gguf": write_chat_model(folder / "p1", only=probe).read_bytes(),
        "probe-arch.gguf": write_chat_model(folder / "p2", only=probe, architecture="lhama").read_bytes(),
        "probe-pre.gguf": write_chat_model(folder / "p3", only=probe, pre="zzzzzz").read_bytes(),
        "probe-key.gguf": write_chat_model(folder / "p4", only=probe, block_count=None).read_bytes(),
        "phiname.gguf": write_chat_model(folder / "phi", name="my phi3 tune").read_bytes(),
        "demo.gguf": whole + b"\0" * 32,
        "smollm2-135m-instruct-f16.gguf": whole + b"\0" * 64,
        "all-minilm-l6-v2-f16.gguf": write_embedding_model(folder / "bert").read_bytes(),
        "all-minilm without pooling": write_embedding_model(folder / "nopool", pooling=False).read_bytes(),
    }
    found = {}
    fixtures = json.loads((golden / "ollama/exchanges/fixtures.json").read_text("utf-8"))
    for digest, entry in fixtures.items():
        name, what = entry["name"], entry["what"]
        found[digest] = made[name] if name else what.removeprefix("the text ").strip("'").encode()
    return found


@pytest.fixture
def replay(contents: dict[str, bytes], engine: Engine, golden: Path) -> Any:
    digests: dict[str, str] = {}
    for theirs, content in contents.items():
        ours = hashlib.sha256(content).hexdigest()
        digests[theirs] = f"sha256:{ours}"
        digests[theirs.replace(":", "-")] = f"sha256-{ours}"

    with engine.client() as http:
        for model in http.get("/api/tags").json()["models"]:
            http.request("DELETE", "/api/delete", json={"model": model["name"]}).raise_for_status()
    for blob in (engine.directory / "models/blobs").iterdir():
        blob.unlink()

    class Scenarios:
        def __call__(self, scenario: str, **options: Any) -> list[str]:
            left_out = LEFT_OUT.get(scenario, {})
            run = Replay(
                engine.url,
                contents,
                digests,
                engine.directory / "models",
                skip=lambda number, _: number in left_out,
                **options,
            )
            return run.run(golden / "ollama/exchanges" / f"{scenario}.json")

    return Scenarios()


@pytest.fixture
def models(
    replay: Any, engine: Engine, contents: dict[str, bytes], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """The models that the recorded scenarios use, under their names."""
    names = {
        "tiny": ("06fec0e5", {}),
        "smollm2:135m": (
            "2ab9202a",
            {
                "template": GO_CHATML,
                "parameters": {"num_ctx": 1024, "stop": ["<|im_start|>", "<|im_end|>"]},
            },
        ),
        "all-minilm": ("7e01259c", {}),
    }
    if "overflow" in request.node.name:
        names["smollm2-native"] = ("2ab9202a", {})
    for name, (start, fields) in names.items():
        content = next(content for digest, content in contents.items() if start in digest)
        path = tmp_path / "model.gguf"
        path.write_bytes(content)
        engine.create(name, path, **fields)


def report(differences: list[str]) -> str:
    return "\n".join(differences)


@pytest.mark.parametrize(
    "scenario", ["version", "tags-empty", "not-found-and-method", "host-header", "blobs"]
)
def test_without_models(replay: Any, scenario: str) -> None:
    assert not (differences := replay(scenario)), report(differences)


@pytest.mark.parametrize(
    "scenario",
    [
        "create-errors",
        "create-gguf-stream",
        "create-gguf-nostream",
        "create-gguf-full",
        "create-no-template",
        "create-bad-jinja",
        "create-quantize-errors",
        "missing-tensor",
        "vocabulary-by-name",
        "probe-header-only",
    ],
)
def test_create(replay: Any, scenario: str) -> None:
    assert not (differences := replay(scenario)), report(differences)


@pytest.mark.parametrize(
    "scenario",
    [
        "tags",
        "ps",
        "copy-delete",
        "chat-load-unload",
        "chat-errors",
        "chat-stream",
        "chat-nostream",
        "chat-format-json",
        "generate",
        "debug-render",
        "wire-format",
        "embed",
        "embed-errors",
        "openai-compat",
        "name-case",
        "chat-stop-and-length",
        "show-embedding-model",
        "create-real-model",
    ],
)
def test_with_models(replay: Any, models: None, scenario: str) -> None:
    assert not (differences := replay(scenario)), report(differences)


def test_overflow(replay: Any, models: None) -> None:
    assert not (differences := replay("overflow")), report(differences)
