"""A chunk is never longer than the embedding model reads, whatever the dataset asks for."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

pytestmark = [pytest.mark.network, pytest.mark.slow]

WORDS = "Interoperability notwithstanding, deserialization misconfigurations necessitate reauthentication. "


def test_long_chunks_fit_the_model(rfctl: Callable[..., object], minilm: Path, tmp_path: Path) -> None:
    text = tmp_path / "long.txt"
    text.write_text(" ".join(f"{number}: {WORDS}" for number in range(120)), encoding="utf-8")
    try:
        assert rfctl("model", "push", str(minilm), "minilm", "--quantize", "f16").code == 0
        assert rfctl("kb", "create", "long", "--chunk-tokens", "2048").code == 0
        uploaded = rfctl("kb", "upload", str(text), "--kb", "long", "--json")
        assert uploaded.code == 0, uploaded.err
        assert json.loads(uploaded.out)["documents"][0]["chunks"] >= 4
        status = json.loads(rfctl("engine", "status", "--json").out)
        found = json.loads(rfctl("kb", "search", WORDS, "--kb", "long", "--json").out)
        contents = [source["content"] for source in found["sources"]]
        with httpx.Client(base_url=status["url"], timeout=60, trust_env=False) as client:
            for content in contents:
                request = {"model": "minilm", "input": content, "truncate": False}
                reply = client.post("/api/embed", json=request)
                assert reply.status_code == 200, reply.text
    finally:
        rfctl("engine", "stop")
