"""`rfctl model push --to-ragflow`: a pushed model answers in an assistant, with one context on both sides."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from model_file import CHATML, write_gguf
from ollama_server import Keeper, Response, answer
from ragflow_bench import KEY, Bench, bench

from rfctl.ollama.template import Template


class Loader(Keeper):
    """A Keeper that also loads a model when it is asked without a prompt."""

    def _generate(self, body: Any) -> Response:
        return answer({"model": body["model"], "response": "", "done": True, "done_reason": "load"})


@pytest.fixture
def ollama() -> Iterator[Loader]:
    with Loader(template=Template(CHATML)) as server:
        yield server


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "engine", registered=False) as made:
        yield made


@pytest.fixture
def run(rfctl: Callable[..., Any], ollama: Loader, engine: Bench) -> Callable[..., Any]:
    env = {"RFCTL_OLLAMA_URL": ollama.url, "RFCTL_RAGFLOW_URL": engine.url, "RAGFLOW_API_KEY": KEY}
    return lambda *arguments: rfctl(*arguments, env=env)


def tokens(engine: Bench) -> dict[str, int]:
    rows = engine.call("GET", "/providers/Ollama/instances/local/models")
    return {row["name"]: row["max_tokens"] for row in rows}


def test_a_pushed_model_answers_at_once(run: Callable[..., Any], engine: Bench, tmp_path: Path) -> None:
    write_gguf(tmp_path / "my.gguf")
    done = run("model", "push", "my.gguf", "tuned", "--num-ctx", "4096", "--to-ragflow", "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["ragflow"] == {"model": "tuned:latest@local@Ollama", "changed": True}
    assert tokens(engine) == {"tuned:latest": 4096}
    made = run("chat", "create", "helper", "--no-kb", "--model", "tuned")
    assert made.code == 0, made.err
    asked = run("chat", "ask", "helper", "Is it you?")
    assert (asked.code, asked.out.splitlines()[0]) == (0, "yes"), asked.err

    again = run("model", "push", "my.gguf", "tuned", "--num-ctx", "4096", "--to-ragflow")
    assert again.code == 0, again.err
    assert "unchanged: RAGFlow has the model tuned:latest@local@Ollama" in again.out
    other = run("model", "push", "my.gguf", "tuned", "--num-ctx", "2048", "--to-ragflow")
    assert other.code == 0, other.err
    assert tokens(engine) == {"tuned:latest": 2048}
    # The assistant names its model by name, so it goes on.
    assert run("chat", "ask", "helper", "Is it still you?").out.splitlines()[0] == "yes"


def test_a_model_that_failed_its_checks_stays_out(
    run: Callable[..., Any], ollama: Loader, engine: Bench, tmp_path: Path
) -> None:
    ollama.served_prefix = "<|x|>"
    write_gguf(tmp_path / "my.gguf")
    done = run("model", "push", "my.gguf", "tuned", "--to-ragflow")
    assert done.code == 5, done.err
    assert engine.call("GET", "/models") == []
