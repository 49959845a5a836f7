"""Chunks stay findable when the tokeniser changes between two starts."""

from __future__ import annotations

import sqlite3
from pathlib import Path

import pytest
from ragflow_bench import bench

from rfctl.engine.text import token


def test_another_tokeniser_makes_the_words_anew(
    golden: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (golden / "ragflow" / "fixtures" / "zh.pdf").read_bytes()
    segmenter = token._segmenter
    asked = {"question": "发射代号是什么？", "similarity_threshold": 0}
    # A platform without the segmenter: pairs of characters.
    monkeypatch.setattr(token, "_segmenter", None)
    with bench(tmp_path) as engine:
        dataset = engine.create_dataset("zh")
        [document] = engine.upload(dataset, ("zh.pdf", content))
        engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [document["id"]]})
        assert engine.wait(dataset, document["id"])["run"] == "DONE"
        before = engine.call("POST", "/retrieval", json=asked | {"dataset_ids": [dataset]})["chunks"]
        assert "蓝鸟" in before[0]["content"]
        assert "射代" in before[0]["content_ltks"].split()
    monkeypatch.setattr(token, "_segmenter", segmenter)
    with bench(tmp_path, registered=False):
        pass
    connection = sqlite3.connect(tmp_path / "ragflow.sqlite")
    words = " ".join(row[0] for row in connection.execute("SELECT tokens FROM chunk"))
    found = connection.execute("SELECT count(*) FROM chunk_text WHERE chunk_text MATCH '\"代号\"'").fetchone()
    connection.close()
    assert "射代" not in words.split()
    assert found[0] >= 1
