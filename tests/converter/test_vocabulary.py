"""Special tokens, templates, defaults and names, where the golden cases do not reach."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rfctl.converter.family import list_families
from rfctl.converter.hparams import HParams, fill_defaults, rope_parameters
from rfctl.converter.metadata import describe_model
from rfctl.converter.plan import KeyValue, ValueType, set_pair
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs
from rfctl.core.error import RfctlError


def make(folder: Path, config: dict[str, Any] | None = None, **files: Any) -> ModelSource:
    for name, content in files.items():
        path = folder / name.replace("__", ".")
        path.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
    return ModelSource(folder, config or {}, {})


def values(pairs: list[KeyValue]) -> dict[str, Any]:
    return {pair.key: pair.value for pair in pairs}


TEMPLATE = {
    "post_processor": {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>"}},
            {"Sequence": {"id": "A"}},
            {"SpecialToken": {"id": "<e>"}},
        ],
        "pair": [],
    },
    "added_tokens": [{"content": "<s>", "id": 5}, {"content": "</s>", "id": 6}, {"content": "<e>", "id": 7}],
}


def test_the_end_of_the_template_becomes_eos(tmp_path: Path) -> None:
    source = make(tmp_path, tokenizer_config__json={"bos_token": "<s>", "eos_token": {"content": "</s>"}})
    found = values(list_special_pairs(source, TEMPLATE, None, None))
    assert found == {
        "tokenizer.ggml.bos_token_id": 5,
        "tokenizer.ggml.eos_token_id": 7,
        "tokenizer.ggml.eot_token_id": 6,
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }


def test_ids_beyond_the_vocabulary_are_left_out(tmp_path: Path) -> None:
    source = make(
        tmp_path, {"pad_token_id": 6, "bos_token_id": 2}, tokenizer_config__json={"eos_token": "<e>"}
    )
    found = values(list_special_pairs(source, TEMPLATE | {"post_processor": None}, None, 6))
    assert found == {"tokenizer.ggml.bos_token_id": 2}


def test_negative_id_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RfctlError, match=r"model\.config-invalid"):
        list_special_pairs(make(tmp_path, {"eos_token_id": -1}), None, None, None)


def test_list_of_eos_ids_says_nothing(tmp_path: Path) -> None:
    assert list_special_pairs(make(tmp_path, {"eos_token_id": [1, 2]}), None, None, None) == []


@pytest.mark.parametrize(
    ("files", "wanted"),
    [
        ({"tokenizer_config__json": {"chat_template": "A"}, "chat_template__jinja": "B"}, "A"),
        ({"tokenizer_config__json": {}, "chat_template__jinja": "B\r\nC", "chat_template__json": {}}, "B\nC"),
        ({"tokenizer_config__json": {}, "chat_template__json": {"chat_template": "C"}}, "C"),
        ({"tokenizer_config__json": {}}, None),
        ({"chat_template__jinja": "B"}, None),  # as in the reference: no tokenizer_config.json, no template
    ],
)
def test_which_template_wins(tmp_path: Path, files: dict[str, Any], wanted: str | None) -> None:
    found = values(list_special_pairs(make(tmp_path, **files), None, None, None))
    assert found.get("tokenizer.chat_template") == wanted


def test_named_templates(tmp_path: Path) -> None:
    named = [{"name": "default", "template": "D"}, {"name": "tool use", "template": "T"}, {"name": 3}]
    found = list_special_pairs(
        make(tmp_path, tokenizer_config__json={"chat_template": named}), None, None, None
    )
    assert [(pair.key, pair.value) for pair in found] == [
        ("tokenizer.chat_template.tool_use", "T"),
        ("tokenizer.chat_templates", ["tool_use"]),
        ("tokenizer.chat_template", "D"),
    ]


def test_defaults_depend_on_what_is_given() -> None:
    plain = fill_defaults({"model_type": "llama"})
    assert (plain["num_key_value_heads"], plain["head_dim"], plain["rms_norm_eps"]) == (32, 128, 1e-6)
    heads = fill_defaults({"model_type": "llama", "num_attention_heads": 8, "hidden_size": 256})
    assert (heads["num_key_value_heads"], heads["head_dim"]) == (8, 32)
    mistral = fill_defaults({"model_type": "mistral", "num_attention_heads": 8})
    assert (mistral["num_key_value_heads"], mistral["head_dim"]) == (8, None)
    assert fill_defaults({"model_type": "nobody", "a": 1}) == {"model_type": "nobody", "a": 1}
    assert fill_defaults({"a": 1}) == {"a": 1}


@pytest.mark.parametrize("value", [0, -1, 1 << 40, True, "8", 8.0, None])
def test_counts_are_positive_numbers(value: Any) -> None:
    with pytest.raises(RfctlError, match=r"model\.config-invalid"):
        HParams(hidden_size=value).count("hidden_size")


def test_both_spellings_of_rope() -> None:
    old = HParams(rope_theta=5.0, rope_scaling={"type": "linear", "factor": 2.0})
    new = HParams(rope_theta=1.0, rope_parameters={"rope_type": "linear", "rope_theta": 5.0, "factor": 2.0})
    assert rope_parameters(old)["rope_type"] == rope_parameters(new)["rope_type"] == "linear"
    assert rope_parameters(old)["rope_theta"] == rope_parameters(new)["rope_theta"] == 5.0
    with pytest.raises(RfctlError, match=r"model\.config-invalid"):
        rope_parameters(HParams(rope_scaling=[1]))


@pytest.mark.parametrize(
    "card", ["", "no front matter", "---\n: : [\n---\n", "---\n- 1\n---\n", "---\n", "---\nlicense: mit"]
)
def test_any_card_gives_a_name(tmp_path: Path, card: str) -> None:
    folder = tmp_path / "Some-Model-1B"
    folder.mkdir()
    found = values(describe_model(make(folder, README__md=card), {"output.weight": (1_000, 1_000_000)}))
    assert found["general.name"] == "Some Model 1B"
    assert found.get("general.license") == ("mit" if "license" in card else None)


def test_setting_a_key_again_moves_it_to_the_end() -> None:
    pairs = [KeyValue(key, ValueType.UINT32, 1) for key in "abc"]
    moved = set_pair(pairs, KeyValue("a", ValueType.UINT32, 2))
    assert [(pair.key, pair.value) for pair in moved] == [("b", 1), ("c", 1), ("a", 2)]


def test_every_family_is_found_by_its_names() -> None:
    families = list_families()
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "BertModel"):
        assert name in families[name].hf_architectures
