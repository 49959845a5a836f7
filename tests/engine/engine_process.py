"""A running engine as the tests of the Ollama API use it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import httpx


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
