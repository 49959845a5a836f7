"""Damaged or malicious configuration and tokenizer files: an error with an id or a plan, nothing else."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tiny import make_model

from rfctl.converter.convert import make_plan
from rfctl.converter.layout import lay_out
from rfctl.converter.pre_tokenizer import hash_pre_tokenizer
from rfctl.converter.pre_tokenizer_table import read_hashes
from rfctl.converter.source import open_source
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.core.error import RfctlError

VALUES: list[Any] = [None, 0, -1, 1 << 31, 1 << 63, 1 << 80, 1e300, 1.5, float("nan"), float("inf"), True]
VALUES += ["", "x", "\ud800", "a" * 1000, [], {}, [1], [[1]], [None], {"a": 1}, {"content": 5}]
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json")
ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.fixture(scope="module")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A model whose 600-token vocabulary is in the hash table, so that nothing stops before the end."""
    small = golden / "converter" / "tokenizers" / "tiny-bpe"
    folder = make_model(tmp_path_factory.mktemp("hostile") / "Tiny-1M", small, vocabulary=600)
    digest = hash_pre_tokenizer(load_tokenizer(open_source(folder)))
    table = read_hashes()["hash"]
    table[digest] = "gpt-2"
    yield folder
    del table[digest]


def list_paths(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    items = document.items() if isinstance(document, dict) else ()
    items = enumerate(document[:20]) if isinstance(document, list) else items
    for number, (key, value) in enumerate(items):
        if number < 40:  # the vocabulary is long
            yield from list_paths(value, (*path, key))


def damage(document: Any, chance: random.Random) -> None:
    *parents, last = chance.choice([path for path in list_paths(document) if path])
    for key in parents:
        document = document[key]
    if chance.random() < 0.2:
        del document[last]
    else:
        document[last] = copy.deepcopy(chance.choice(VALUES))


@pytest.mark.parametrize("seed", range(6))
def test_damaged_files(model: Path, seed: int) -> None:
    chance = random.Random(seed)
    sound = {name: json.loads((model / name).read_text("utf-8")) for name in FILES[:3]}
    sound["config.json"] |= {
        "rope_scaling": ROPE,
        "rope_theta": 10000.0,
        "head_dim": 16,
        "eos_token_id": [0, 1],
    }
    sound["generation_config.json"] = {"temperature": 0.5, "top_k": 5, "repetition_penalty": 1.1}
    outcomes = set()
    try:
        for _ in range(60):
            name = chance.choice(FILES)
            document = copy.deepcopy(sound[name])
            for _ in range(chance.choice([1, 1, 2])):
                damage(document, chance)
            (model / name).write_text(json.dumps(document), "utf-8")
            try:
                lay_out(make_plan(model, chance.choice(["auto", "q8_0", "Q4_K_M"])))
                outcomes.add("plan")
            except RfctlError as error:
                assert error.id.startswith("model.")
                assert error.text("zh").message
                outcomes.add(error.id)
            (model / name).write_text(json.dumps(sound[name]), "utf-8")
    finally:
        (model / "generation_config.json").unlink(missing_ok=True)
    assert {"plan", "model.config-invalid", "model.tokenizer-malformed"} <= outcomes
