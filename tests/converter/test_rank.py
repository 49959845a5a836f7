"""Vocabularies as ranks and SentencePiece models whose code adds tokens: what the recorded models lack."""

from __future__ import annotations

import json
import shutil
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small import load_small, make_pieces, make_ranks, make_small

from rfctl.converter.check import check
from rfctl.converter.family import list_families
from rfctl.converter.hparams import HParams
from rfctl.converter.rank import holds_ranks, list_merges, read_ranks
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

FAMILY = list_families()["ChatGLMModel"]


def make(folder: Path, model: bytes, config: dict[str, Any] | None = None, **files: Any) -> ModelSource:
    (folder / "tokenizer.model").write_bytes(model)
    for name, content in files.items():
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name.replace("__", ".")).write_text(text, "utf-8")
    return ModelSource(folder, config or {}, {})


def describe(source: ModelSource) -> dict[str, Any]:
    pairs = FAMILY.describe_vocabulary(source, HParams(source.config))
    return {pair.key.removeprefix("tokenizer.ggml."): pair.value for pair in pairs}


def lines(*tokens: bytes) -> bytes:
    return b"".join(b"%s %d\n" % (b64encode(token), rank) for rank, token in enumerate(tokens))


def test_merges_follow_from_the_ranks(tmp_path: Path) -> None:
    # "abc" is reached by "ab" although "bc" is a token too; nothing leads to "xyz".
    source = make(tmp_path, lines(b"a", b"b", b"c", b"ab", b"bc", b"abc", b"xyz", b"\n ", b"a\xff"))
    assert [merge.decode() for merge in list_merges(read_ranks(source))] == [
        "a b",
        "b c",
        "ab c",
        "Ċ Ġ",
        "a ÿ",
    ]


@given(st.permutations(range(256, 400)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_lines_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, order: list[int]
) -> None:
    rows = make_ranks(400).splitlines(keepends=True)
    plain = make(tmp_path_factory.mktemp("plain"), b"".join(rows))
    mixed = make(tmp_path_factory.mktemp("mixed"), b"".join(rows[n] for n in [*range(256), *order]))
    assert list_merges(read_ranks(mixed)) == list_merges(read_ranks(plain))


@pytest.mark.parametrize(
    "model",
    [
        b"YQ== 0\nYQ== 1\n",  # a token twice
        b"YQ== 0\nYg== 0\n",  # a rank twice
        b"YQ== 0\nYg 1\n",  # no base64
        b"YQ== 0\nYg== 1 2\n",
        b"YQ== 0\nYg== -1\n",
        b"YQ== 0\nYg== 4000000000\n",
        b"YQ== 0\n" + b64encode(b"a" * 40000) + b" 1\n",  # would take hours
    ],
)
def test_a_malformed_file_of_ranks_is_refused(tmp_path: Path, model: bytes) -> None:
    source = make(tmp_path, model, {"vocab_size": 8})
    assert holds_ranks(source)
    with pytest.raises(RfctlError) as caught:
        describe(source)
    assert caught.value.id == "model.tokenizer-malformed"


@given(st.binary(max_size=200))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, tail: bytes) -> None:
    source = make(tmp_path_factory.mktemp("any"), b"YQ== 0\n" + tail)
    try:
        assert list_merges(read_ranks(source)) is not None
    except RfctlError as error:
        assert error.id in ("model.tokenizer-malformed", "model.file-unreadable")


@pytest.mark.parametrize(
    ("size", "id"), [(300, "model.vocabulary-too-small"), (512, "model.tokenizer-malformed")]
)
def test_ranks_need_room_and_their_special_tokens(tmp_path: Path, size: int, id: str) -> None:
    with pytest.raises(RfctlError) as caught:
        describe(make(tmp_path, make_ranks(400), {"vocab_size": size}))
    assert caught.value.id == id


def test_only_tokens_that_the_code_names_stand_behind_the_pieces(tmp_path: Path) -> None:
    code = "raise SystemExit('this is never run')\nspecial = ['[MASK]', '[gMASK]', '[sMASK]', 'sop', 'eop']\n"
    config = {"padded_vocab_size": 320}
    bare = describe(make(tmp_path, make_pieces(300), config))
    assert bare["tokens"][300:310] == [
        "[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "<|system|>", "<|user|>", "<|assistant|>",
        "<|observation|>", "[PAD309]",
    ]  # fmt: skip
    assert bare["token_type"][300:310].tolist() == [3] * 9 + [5]
    older = describe(make(tmp_path, make_pieces(300), config, tokenization_chatglm__py=code))
    assert older["tokens"][300:306] == ["[MASK]", "[gMASK]", "[sMASK]", "sop", "eop", "[PAD305]"]
    with pytest.raises(RfctlError) as caught:
        describe(make(tmp_path, make_pieces(300), {"padded_vocab_size": 304}))
    assert caught.value.id == "model.vocabulary-too-small"


def test_the_check_says_that_code_is_not_run(golden: Path, tmp_path: Path) -> None:
    folder = make_small(golden, load_small("glm4-published"), tmp_path)
    report = check(folder)
    assert report.will_work and report.context_length == 131072
    found = {finding.id: finding for finding in report.findings}
    assert "tokenization_chatglm.py" in found["model.tokenizer-code"].text("en").message
    shutil.copyfile(
        golden / "converter" / "tokenizers" / "gpt2" / "tokenizer.json", folder / "tokenizer.json"
    )
    assert "model.tokenizer-code" not in {finding.id for finding in check(folder).findings}
