"""What is checked of an embedding model besides its vectors: pooling, context, prefixes."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from model_file import write_gguf
from ollama_server import Keeper

import rfctl.ollama.embedding as module
from rfctl.core.error import VerdictError
from rfctl.ollama.candidate import candidate_of_info, read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.embedding import judge_embedding
from rfctl.ollama.proof import Check, Verdict
from rfctl.ollama.push import push


def judge(path: Path, chunk_tokens: int | None = None) -> dict[str, Check]:
    return {check.id: check for check in judge_embedding(read_candidate(path), chunk_tokens)}


def test_an_encoder_without_pooling_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", template="", causal=False)
    with Keeper() as server, OllamaClient(server.url) as client:
        with pytest.raises(VerdictError) as caught:
            push(client, path, "m")
        assert (caught.value.id, caught.value.exit_code) == ("embedding.pooling-missing", 5)
        assert server.requests == []
        push(client, write_gguf(tmp_path / "n.gguf", template="", pooling=2, causal=False), "n", verify=False)


def test_the_size_of_chunks_is_compared_with_the_context(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", template="", pooling=1, context=512)
    short = judge(path)["embedding.context-short"]
    assert short.verdict is Verdict.WARNED
    assert short.params == {"limit": 512, "chunk_tokens": 512, "fitting": 384}
    assert judge(path, 384)["embedding.context"].verdict is Verdict.PASSED
    unknown = candidate_of_info({"general.architecture": "bert", "bert.pooling_type": 1}, "")
    assert judge_embedding(unknown)[1].verdict is Verdict.UNKNOWN


@pytest.mark.parametrize(
    ("name", "pooling", "query", "passage"),
    [
        ("multilingual-e5-base", 1, "'query: '", "'passage: '"),
        ("E5 Small V2", 1, "'query: '", "'passage: '"),
        ("multilingual-e5-large-instruct", 1, "'Instruct: {task}\\nQuery: '", "-"),
        ("Nomic Embed Text v1.5", 1, "'search_query: '", "'search_document: '"),
        ("bge-large-zh-v1.5", 2, "'为这个句子生成表示以用于检索相关文章：'", "-"),
        ("Qwen3 Embedding 0.6B", 3, "'Instruct: {task}\\nQuery:'", "-"),
    ],
)
def test_prefixes_and_pooling_are_known_by_the_name_in_the_file(
    tmp_path: Path, name: str, pooling: int, query: str, passage: str
) -> None:
    found = judge(write_gguf(tmp_path / "any.gguf", template="", pooling=pooling, context=8192, name=name))
    prefix = found["embedding.prefix"]
    assert prefix.verdict is Verdict.WARNED
    assert (prefix.params["query"], prefix.params["passage"]) == (query, passage)
    assert found["embedding.pooling"].verdict is Verdict.PASSED
    other = 1 if pooling != 1 else 2
    wrong = judge(write_gguf(tmp_path / "any.gguf", template="", pooling=other, context=8192, name=name))
    assert wrong["embedding.pooling-differs"].verdict is Verdict.FAILED


@pytest.mark.parametrize("name", ["all-MiniLM-L6-v2", "bge-m3", "gte-large-zh", "base5-large", "e50-base"])
def test_other_models_have_no_prefix(tmp_path: Path, name: str) -> None:
    found = judge(write_gguf(tmp_path / "any.gguf", template="", pooling=1, context=8192, name=name))
    assert set(found) == {"embedding.pooling", "embedding.context"}


def test_a_reranker_is_no_embedding_model(tmp_path: Path) -> None:
    found = judge(write_gguf(tmp_path / "m.gguf", template="", pooling=4, context=8192))
    assert found["embedding.rank"].verdict is Verdict.FAILED


def test_the_table_is_well_formed() -> None:
    facts = tomllib.loads((Path(module.__file__).parent / "embedding.toml").read_text(encoding="utf-8"))
    for item in facts["model"]:
        re.compile(item["match"])
        assert item["query"] or item["passage"]
        assert item["pooling"] in facts["pooling_names"]
        assert "/" in item["source"]
