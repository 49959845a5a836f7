"""A running engine with two tiny models for the tests of the Ollama API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_process import Engine
from tiny_model import write_chat_model, write_embedding_model

from rfctl.engine import daemon


@pytest.fixture(scope="session")
def tiny_chat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chat_model(tmp_path_factory.mktemp("tiny") / "chat.gguf")


@pytest.fixture(scope="session")
def tiny_embedding(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_embedding_model(tmp_path_factory.mktemp("tiny") / "embedding.gguf")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    directory = tmp_path_factory.mktemp("engine")
    status = daemon.start(directory)
    try:
        yield Engine(directory, status.url)
    finally:
        daemon.stop(directory)
