"""Whoever uploads Chinese to an embedding model that reads none is told so, by its vocabulary."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.engine.ragflow.alphabet import read_alphabet

CHINESE = "鄱阳湖水位监测报告：枯水期鹭鸶栖息地萎缩，沉积物淤塞航道，需疏浚并修缮堤坝。" * 20
ENGLISH = "The warranty of the pump lasts twenty-four months from the day of delivery. " * 20


@pytest.mark.parametrize("tokenizer", ["gpt2", "llama", ""])
def test_a_vocabulary_with_bytes_reads_everything(tokenizer: str) -> None:
    info = {"tokenizer.ggml.model": tokenizer, "tokenizer.ggml.tokens": ["a", "b"]}
    assert read_alphabet(info) == frozenset()
    info = {"tokenizer.ggml.model": "t5", "tokenizer.ggml.tokens": ["a", "<0xE4>"]}
    assert read_alphabet(info) == frozenset()


@given(st.lists(st.text(max_size=4), max_size=8))
def test_every_letter_of_a_vocabulary_is_known(tokens: list[str]) -> None:
    found = read_alphabet({"tokenizer.ggml.model": "bert", "tokenizer.ggml.tokens": [*tokens, "水", "é"]})
    assert {"水", "e"} <= found


@pytest.mark.network
@pytest.mark.slow
def test_an_english_model_with_chinese_documents(
    rfctl: Callable[..., object], minilm: Path, tmp_path: Path
) -> None:
    (tmp_path / "湖.txt").write_text(CHINESE, encoding="utf-8")
    (tmp_path / "pump.txt").write_text(ENGLISH, encoding="utf-8")
    try:
        assert rfctl("model", "push", str(minilm), "minilm", "--quantize", "f16").code == 0
        assert rfctl("kb", "create", "a").code == 0
        uploaded = rfctl("kb", "upload", "湖.txt", "pump.txt", "--kb", "a")
        assert uploaded.code == 0, uploaded.err
        assert uploaded.err.count("warning: The embedding model does not know") == 1
        assert "next: Take a multilingual embedding model" in uploaded.err
        again = rfctl("kb", "parse", "--kb", "a", "湖.txt", "pump.txt", "--json")
        found = {item["name"]: item.get("unknown_letters", 0) for item in json.loads(again.out)["documents"]}
        assert found["湖.txt"] > 30
        assert found["pump.txt"] == 0
    finally:
        rfctl("engine", "stop")
