"""A running engine with two tiny models for the tests of the Ollama API."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from tiny_model import write_chat_model, write_embedding_model

from rfctl.engine import daemon


@dataclass(frozen=True)
class Engine:
    """A real engine process and the folder it owns."""

    directory: Path
    url: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    def upload(self, content: bytes) -> str:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        with self.client() as http:
            http.post(f"/api/blobs/{digest}", content=content).raise_for_status()
        return digest

    def create(self, name: str, path: Path, **fields: object) -> None:
        digest = self.upload(path.read_bytes())
        body = {"model": name, "files": {"m.gguf": digest}, "stream": False, **fields}
        with self.client() as http:
            answer = http.post("/api/create", json=body)
        assert answer.json() == {"status": "success"}, answer.text


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
