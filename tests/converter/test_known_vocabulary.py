"""Vocabularies that are known by their bytes: the recorded ids are the library's, and a hub repository is
judged by the two ends of tokenizer.json exactly where the whole would say the same."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hub_server import HubServer
from hypothesis import given, settings
from hypothesis import strategies as st
from made_model import make_llama, make_qwen

from rfctl.converter import tokenizer
from rfctl.converter.check import CheckReport, check
from rfctl.converter.check_hub import HubModel, check_repository
from rfctl.converter.hparams import HParams
from rfctl.converter.hub_reader import HubReader, RepoName
from rfctl.converter.known_vocabulary import find_by_body, hash_form, read_head
from rfctl.converter.pre_tokenizer import hash_pre_tokenizer
from rfctl.converter.source import ModelSource
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.converter.tokenizer_vocabulary import read_base_vocabulary

KNOWN = ("qwen3", "r1qwen", "deepseek_v3", "llama3_1", "gemma")
NAME = "org/Made-1B"
ROWS = 151_936


@pytest.fixture(scope="module")
def tokenizers(golden: Path) -> Path:
    return golden / "converter" / "tokenizers"


@pytest.mark.parametrize("name", KNOWN)
def test_a_known_vocabulary_is_read_as_an_unknown_one(
    tokenizers: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = ModelSource(tokenizers / name, {}, {})
    quick = load_tokenizer(source)
    assert quick.known is not None
    found = read_base_vocabulary(quick, HParams({}))
    monkeypatch.setattr(tokenizer, "find_by_body", lambda data: None)
    whole = load_tokenizer(source)
    assert whole.known is None
    assert hash_pre_tokenizer(quick) == hash_pre_tokenizer(whole)
    assert found == read_base_vocabulary(whole, HParams({}))
    assert quick.merges == whole.merges


def test_one_changed_byte_is_another_vocabulary(tokenizers: Path) -> None:
    data = (tokenizers / "qwen3" / "tokenizer.json").read_bytes()
    assert find_by_body(data) is not None
    middle = data.index(b'"apple"')
    assert find_by_body(data[: middle + 1] + b"A" + data[middle + 2 :]) is None
    head = read_head(data)
    assert head is not None
    changed = dict(head.document) | {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}
    assert hash_form(changed) != hash_form(head.document)


def test_a_setting_that_is_true_when_absent_is_not_one_that_is_false(tokenizers: Path) -> None:
    """ByteLevel without `use_regex` splits once more, so the ids are others."""
    data = (tokenizers / "qwen3" / "tokenizer.json").read_bytes()
    at = data.index(b'"use_regex": false')
    before = data.rindex(b",", 0, at)
    changed = data[:before] + data[at + len(b'"use_regex": false') :]
    assert find_by_body(data) is not None
    assert find_by_body(changed) is None
    said = data[:at] + b'"use_regex": true' + data[at + len(b'"use_regex": false') :]
    heads = [read_head(one) for one in (changed, said)]
    assert heads[0] is not None and heads[1] is not None
    assert hash_form(heads[0].document) == hash_form(heads[1].document)


def write_qwen(
    folder: Path, tokenizers: Path, change: Callable[[dict[str, Any]], None] | None = None
) -> Path:
    """A small Qwen2 with the vocabulary of the real one, `change` applied to its tokenizer.json."""
    made = make_qwen()
    made.config["vocab_size"] = ROWS
    made.tensors["model.embed_tokens.weight"] = ("BF16", [ROWS, 64])
    made.files["tokenizer_config.json"] = (tokenizers / "qwen3" / "tokenizer_config.json").read_bytes()
    made.files["tokenizer.json"] = data = (tokenizers / "qwen3" / "tokenizer.json").read_bytes()
    if change is not None:
        document = json.loads(data)
        change(document)
        made.files["tokenizer.json"] = json.dumps(document, ensure_ascii=False, indent=2).encode()
    return made.write(folder)


def check_by_hub(repo: Path, folder: Path) -> tuple[HubModel, CheckReport]:
    folder.mkdir()
    with HubServer({NAME: repo}) as hub, HubReader(RepoName(NAME), endpoint=hub.url) as reader:
        model, report = check_repository(reader, folder)
        assert model.bytes_read == hub.sent
    return model, report


def compare(local: CheckReport, remote: CheckReport) -> None:
    for name in ("will_work", "tokenizer", "pre_tokenizer", "output_bytes", "context_length"):
        assert getattr(local, name) == getattr(remote, name), name
    ids = [finding.id for finding in remote.findings if finding.id != "model.head-only"]
    assert [finding.id for finding in local.findings] == ids


def test_a_known_vocabulary_is_told_by_its_ends(tokenizers: Path, tmp_path: Path) -> None:
    repo = write_qwen(tmp_path / "repo", tokenizers)
    model, report = check_by_hub(repo, tmp_path / "hub")
    local = check(repo)
    assert local.will_work and local.pre_tokenizer == "qwen2"
    compare(local, report)
    assert model.head is not None and model.head.known is not None
    assert "model.head-only" in [finding.id for finding in report.findings]
    assert model.bytes_read < 400_000


def add_token(document: dict[str, Any]) -> None:
    """As training adds one: beside the vocabulary."""
    flags = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized"), False)
    token = {"id": 151_669, "content": "<|manual|>", **flags, "special": True}
    document["added_tokens"].append(token)


def take_a_word(document: dict[str, Any]) -> None:
    add_token(document)
    document["added_tokens"][-1]["content"] = "apple"


def extend(document: dict[str, Any]) -> None:
    """A token more in the vocabulary itself."""
    vocabulary = document["model"]["vocab"]
    for token in document["added_tokens"]:
        token["id"] += 1
    vocabulary["zzzzmanual"] = len(vocabulary)


@pytest.mark.parametrize(("change", "is_known"), [(add_token, True), (take_a_word, False), (extend, False)])
def test_what_changes_the_vocabulary_is_read_whole(
    change: Callable[[dict[str, Any]], None], is_known: bool, tokenizers: Path, tmp_path: Path
) -> None:
    repo = write_qwen(tmp_path / "repo", tokenizers, change)
    model, report = check_by_hub(repo, tmp_path / "hub")
    assert (model.head is not None) == is_known
    assert (model.bytes_read < 400_000) == is_known
    compare(check(repo), report)


def test_a_large_tokenizer_beside_its_sentencepiece_model_is_read_at_its_head(
    tokenizers: Path, tmp_path: Path
) -> None:
    repo = make_llama().write(tmp_path / "repo")
    shutil.copyfile(tokenizers / "gemma" / "tokenizer.json", repo / "tokenizer.json")
    model, report = check_by_hub(repo, tmp_path / "hub")
    assert model.head is not None
    assert report.will_work and model.bytes_read < 2_000_000
    compare(check(repo), report)


def test_tokens_added_inside_a_known_vocabulary(tokenizers: Path, tmp_path: Path) -> None:
    """Thousands of tokens of Gemma's vocabulary are added ones too, some of them in the check text."""
    made = make_qwen()
    rows = made.config["vocab_size"] = 262_145
    made.tensors["model.embed_tokens.weight"] = ("BF16", [rows, 64])
    for name in ("tokenizer.json", "tokenizer_config.json"):
        made.files[name] = (tokenizers / "gemma" / name).read_bytes()
    repo = made.write(tmp_path / "repo")
    model, report = check_by_hub(repo, tmp_path / "hub")
    assert model.head is not None and model.head.known is not None
    assert report.will_work and model.bytes_read < 3_000_000
    local = check(repo)
    compare(local, report)
    # Tokens of spaces alone are there under their id.
    assert "model.added-token-lost" not in [finding.id for finding in local.findings]


def test_a_server_without_ranges(tokenizers: Path, tmp_path: Path) -> None:
    repo = write_qwen(tmp_path / "repo", tokenizers)
    (tmp_path / "hub").mkdir()
    with HubServer({NAME: repo}, ranges=False) as hub, HubReader(RepoName(NAME), endpoint=hub.url) as reader:
        _, report = check_repository(reader, tmp_path / "hub")
    assert report.will_work and report.pre_tokenizer == "qwen2"


TOKENS = st.dictionaries(
    st.text(max_size=6) | st.sampled_from(['"vocab"', "vocab", "model", ","]), st.integers()
)


@given(
    tokens=TOKENS,
    added=st.lists(st.sampled_from(["vocab", '"vocab"', "a"]), max_size=5),
    cut=st.integers(0, 4000),
)
@settings(max_examples=60, deadline=None)
def test_a_head_is_the_document_without_its_vocabulary(
    tokens: dict[str, int], added: list[str], cut: int
) -> None:
    document = {"added_tokens": [{"content": text} for text in added], "normalizer": None}
    model = {"type": "BPE", "vocab": tokens, "merges": []}
    data = json.dumps(document | {"model": model}, ensure_ascii=False).encode()
    head = read_head(data)
    assert head is not None
    assert head.document == document | {"model": model | {"vocab": {}}}
    assert data[head.offset :].startswith(b'"vocab": {')
    read_head(data[:cut])  # whatever is there, no exception
