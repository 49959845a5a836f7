"""What a check estimates, and an adapter checked together with its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from made_model import make_llama, make_qwen, write_shard

from rfctl.converter.check import check
from rfctl.converter.check_split import find_similar
from rfctl.converter.memory import estimate_cache
from rfctl.core.error import RfctlError

PLAIN = {
    "num_hidden_layers": 28,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "hidden_size": 1536,
}
CONFIG = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
QUERY = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.mark.parametrize(
    ("changes", "window", "expected"),
    [
        ({}, 0, 28 * 4096 * 2 * 2 * 128 * 2),
        ({"head_dim": 256}, 0, 28 * 4096 * 2 * 2 * 256 * 2),
        ({"num_key_value_heads": None}, 0, 28 * 4096 * 2 * 12 * 128 * 2),
        # Compressed attention keeps 512 + 64 numbers a token and layer, and no value.
        ({"kv_lora_rank": 512, "qk_rope_head_dim": 64}, 0, 28 * 4096 * 576 * 2),
        # Every fourth layer sees all; the others a window of 512 and a batch.
        (
            {"layer_types": (["sliding_attention"] * 3 + ["full_attention"]) * 7},
            512,
            (21 * 1024 + 7 * 4096) * 2 * 2 * 128 * 2,
        ),
        # llama.cpp was not told of a window.
        ({"layer_types": ["sliding_attention"] * 28}, 0, 28 * 4096 * 2 * 2 * 128 * 2),
        ({"layer_types": ["linear_attention"] * 27 + ["full_attention"]}, 0, 4096 * 2 * 2 * 128 * 2),
        ({"layer_types": ["full_attention"]}, 0, 28 * 4096 * 2 * 2 * 128 * 2),
        ({"hidden_size": "x"}, 0, None),
    ],
)
def test_the_cache(changes: dict[str, Any], window: int, expected: int | None) -> None:
    assert estimate_cache(PLAIN | changes, 4096, window) == expected


def test_one_type_and_the_disk(tmp_path: Path) -> None:
    path = make_llama().write(tmp_path / "made")
    report = check(path, outtype="q5_k_m", num_ctx=200, download_bytes=1000)
    assert list(report.output_bytes) == list(report.memory_bytes) == ["Q5_K_M"]
    size = report.output_bytes["Q5_K_M"]
    assert report.disk_bytes == {"Q5_K_M": size + 1000}
    assert report.cache_bytes == 2 * 200 * 2 * 2 * 16 * 2
    assert report.memory_bytes == {"Q5_K_M": size + report.cache_bytes}
    assert set(check(path).output_bytes) == {"F16", "Q8_0", "Q4_K_M"}
    with pytest.raises(RfctlError) as caught:
        check(path, outtype="Q9")
    assert caught.value.id == "model.outtype-unknown"


def make_adapter(folder: Path, rows: int = 64, **config: Any) -> Path:
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps(CONFIG | config), "utf-8")
    tensors = {
        f"{QUERY}.lora_A.weight": ("F32", [4, 64]),
        f"{QUERY}.lora_B.weight": ("F32", [rows, 4]),
    }
    write_shard(folder / "adapter_model.safetensors", tensors)
    return folder


def test_an_adapter_and_its_base(tmp_path: Path) -> None:
    base = make_llama().write(tmp_path / "base")
    assert check(base, adapter=make_adapter(tmp_path / "fits")).will_work
    other = check(base, adapter=make_adapter(tmp_path / "other", rows=128))
    assert [finding.id for finding in other.errors] == ["adapter.shape-mismatch"]
    dora = check(base, adapter=make_adapter(tmp_path / "dora", use_dora=True))
    assert [finding.id for finding in dora.errors] == ["adapter.dora"]
    nothing = check(base, adapter=tmp_path)
    assert [finding.id for finding in nothing.errors] == ["adapter.not-found"]


def test_an_adapter_that_names_a_base_on_this_machine(tmp_path: Path) -> None:
    base = make_llama().write(tmp_path / "base-bnb-4bit")
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path=str(base))
    report = check(adapter)
    assert report.will_work and report.path == base
    assert "model.adapter-base-quantized" in [finding.id for finding in report.findings]


def test_an_adapter_of_another_machine(tmp_path: Path) -> None:
    adapter = make_adapter(tmp_path / "adapter", base_model_name_or_path="/data/nowhere/llama")
    report = check(adapter)
    ids = [finding.id for finding in report.findings]
    assert ids == ["model.adapter-only", "model.adapter-base-absent"]


def test_the_nearest_sibling_and_what_differs(tmp_path: Path) -> None:
    made = make_qwen()
    made.config |= {"architectures": ["NewForCausalLM"], "model_type": "new"}
    for layer in range(2):
        made.tensors[f"model.layers.{layer}.self_attn.gate.weight"] = ("BF16", [64, 64])
        del made.tensors[f"model.layers.{layer}.mlp.up_proj.weight"]
    report = check(made.write(tmp_path / "new"))
    finding = next(item for item in report.findings if item.id == "model.architecture-sibling")
    assert finding.params["nearest"] == "LlamaForCausalLM"
    assert finding.params["extra"] == "model.layers.*.self_attn.gate.weight"
    assert finding.params["missing"] == "blk.*.ffn_up.weight"
    assert finding.params["fitting"] == len(made.tensors) - 2
    assert not report.will_work


def test_no_sibling_where_nothing_fits(tmp_path: Path) -> None:
    made = make_llama()
    made.config["architectures"] = ["NewForCausalLM"]
    made.tensors = {f"part.{number}.kernel": ("BF16", [8, 8]) for number in range(30)}
    report = check(made.write(tmp_path / "new"))
    assert "model.architecture-sibling" not in [finding.id for finding in report.findings]


FOLDED = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
QWEN = FOLDED + r"|\s+(?!\S)|\s+"


@pytest.mark.parametrize(
    ("step", "kind", "name"),
    [
        ({"type": "ByteLevel"}, "", "gpt-2"),
        ({"type": "Split", "pattern": {"Regex": QWEN}}, "qwen2", "qwen2"),
        ({"type": "Split", "pattern": {"Regex": QWEN}}, "stablelm", "stablelm2"),
        (
            {"type": "Sequence", "pretokenizers": [
                {"type": "Digits", "individual_digits": True}, {"type": "ByteLevel"}]},
            "", "starcoder",
        ),
    ],
)  # fmt: skip
def test_what_splits_alike(step: dict[str, Any], kind: str, name: str) -> None:
    assert name in find_similar(step, kind)
    assert not kind or find_similar(step, kind)[0] == name


@pytest.mark.parametrize(
    "step",
    [None, 5, [], {}, {"type": "Split"}, {"type": "Split", "pattern": {"String": " "}}, {"type": "Metaspace"},
     {"type": "Sequence", "pretokenizers": None},
     {"type": "Sequence", "pretokenizers": [{"type": "Sequence"}]},
     {"type": "Sequence", "pretokenizers": [{}] * 100}],
)  # fmt: skip
def test_what_splits_like_nothing(step: Any) -> None:
    assert find_similar(step) == ()
