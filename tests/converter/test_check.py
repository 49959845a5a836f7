"""The check against every golden case: it refuses and takes what llama.cpp does, from headers alone."""

from __future__ import annotations

import json
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skeleton import build, load_spec, write_holes

from rfctl.converter.check import CheckReport, check
from rfctl.converter.check_weight import find_leftovers
from rfctl.converter.family import list_families
from rfctl.converter.finding import Answer, Severity
from rfctl.core.catalog import entries
from rfctl.core.error import RfctlError

# golden error case -> the finding that must name it
REFUSED = {
    "awq": "model.quantized-awq",
    "bnb-4bit": "model.quantized-bitsandbytes",
    "bnb-4bit-no-config": "model.leftover-bitsandbytes",
    "bnb-8bit-scb": "model.leftover-bitsandbytes",
    "extra-special-tokens-list": "model.extra-special-tokens",
    "extra-special-tokens-list-llama": "model.extra-special-tokens",
    "extra-tensor-not-in-index": "model.index-stale",
    "gpt2-without-n_ctx": "model.config-invalid",
    "gptq-3bit": "model.quantized-gptq",
    "lora-dir": "model.adapter-only",
    "lora-names-left": "model.leftover-lora",
    "missing-shard": "model.shard-missing",
    "missing-tensor": "model.tensors-missing",
    "missing-tokenizer-llama": "model.tokenizer-missing",
    "missing-tokenizer-qwen2": "model.tokenizer-missing",
    "no-architecture-key": "model.architecture-missing",
    "no-weights": "model.weights-missing",
    "not-json-config": "model.json-malformed",
    "only-bin": "model.weights-misnamed",
    "peft-prefix": "model.wrapper-prefix",
    "rows-fewer-than-vocab": "model.vocabulary-rows",
    "rows-more-than-vocab": "model.vocabulary-rows",
    "stale-index": "model.index-stale",
    "truncated-data": "model.shard-truncated",
    "truncated-header": "model.shard-truncated",
    "unknown-architecture": "model.architecture-nowhere",
    "unknown-pre-tokenizer": "model.pre-tokenizer-unknown",
    "unmapped-tensor": "model.tensor-unmapped",
    "vlm-saved-class": "model.architecture-projector",
    "vocab-smaller-than-tokenizer": "model.vocabulary-too-small",
}
# Faults in the values themselves: no header shows them, the conversion finds them.
IN_THE_DATA = ["nan-in-row", "inf-in-row", "scale-overflow", "f16-overflow"]
OURS = {
    "bert-minilm": "bert",
    "bert-odd": "bert",
    "deepseek3": "deepseek2",
    "gemma2": "gemma2",
    "gemma3": "gemma3",
    "glm4": "glm4",
    "gpt2": "gpt2",
    "llama2-added": "llama",
    "llama2-odd": "llama",
    "llama2-outlier": "llama",
    "llama2-spm": "llama",
    "llama3.1": "llama",
    "mistral": "llama",
    "mistral-swa": "llama",
    "mixtral": "llama",
    "phi2": "phi2",
    "phi3": "phi3",
    "phi3-longrope": "phi3",
    "qwen2-tied": "qwen2",
    "qwen2-untied": "qwen2",
    "qwen3": "qwen3",
    "qwen3moe": "qwen3moe",
    "r1-distill-qwen": "qwen2",
    "stablelm": "stablelm",
    "starcoder2": "starcoder2",
}
# Classes that llama.cpp converts and we do not.
ELSEWHERE = {"JambaForCausalLM": "jamba", "MPTForCausalLM": "mpt", "Rwkv6ForCausalLM": "rwkv6"}


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that is gone afterwards: pytest keeps its own, and these hold large sparse files."""
    path = Path(tempfile.mkdtemp())
    yield path
    shutil.rmtree(path)


def examine(golden: Path, kind: str, name: str, folder: Path, **options: Any) -> CheckReport:
    return check(build(golden, load_spec(golden, kind, name), folder), **options)


def answers(report: CheckReport) -> dict[str, Answer]:
    return {verdict.authority: verdict.answer for verdict in report.verdicts}


def test_every_golden_error_is_in_one_of_the_lists(golden: Path) -> None:
    names = {path.stem for path in (golden / "converter" / "errors").glob("*.json")}
    assert names == {*REFUSED, *IN_THE_DATA}


@pytest.mark.parametrize("name", REFUSED)
def test_what_llamacpp_refuses_is_refused_by_name(golden: Path, folder: Path, name: str) -> None:
    report = examine(golden, "errors", name, folder)
    assert not report.will_work
    assert REFUSED[name] in [finding.id for finding in report.errors]
    assert answers(report)["converter"] is Answer.UNSUPPORTED
    for finding in report.findings:
        for language in ("en", "zh"):
            assert finding.id in entries(language), finding.id
            text = finding.text(language)
            assert text.message and text.why + text.next, finding.id
            assert not re.search(r"\{\w", text.message + text.why + text.next), text


@pytest.mark.parametrize("name", IN_THE_DATA)
def test_faults_in_the_values_are_left_to_the_conversion_and_it_says_so(
    golden: Path, folder: Path, name: str
) -> None:
    report = examine(golden, "errors", name, folder)
    assert report.will_work
    assert [finding.id for finding in report.findings if finding.id == "model.data-unread"]


@pytest.mark.parametrize("name", OURS)
def test_our_families_come_out_clean(golden: Path, folder: Path, name: str) -> None:
    report = examine(golden, "cases", name, folder)
    assert report.will_work and not report.errors
    assert report.gguf_architecture == OURS[name]
    assert answers(report)["converter"] is answers(report)["llama.cpp"] is Answer.SUPPORTED
    expected = json.loads((golden / "converter" / "expected" / f"{name}.json").read_text("utf-8"))
    outputs = expected["outputs"]
    for outtype in ("F16", "Q8_0", "Q4_K_M"):
        record = outputs[outtype.lower()] if outtype == "F16" else outputs[outtype]
        if "tensors" in record:
            assert report.output_bytes[outtype] == record["size"] - record["data_offset"], outtype
    values = {key: value for key, _, value in outputs["f16"]["kv"]}
    assert report.context_length == values[f"{OURS[name]}.context_length"]
    if report.tokenizer == "BPE":
        assert report.pre_tokenizer == values["tokenizer.ggml.pre"]
    assert report.has_chat_template is ("tokenizer.chat_template" in values)


@pytest.mark.parametrize("name", ELSEWHERE)
def test_what_only_llamacpp_converts_gets_two_different_verdicts(
    golden: Path, folder: Path, name: str
) -> None:
    spec = load_spec(golden, "cases", "llama2-spm")
    spec["config"]["architectures"] = [name]
    report = check(build(golden, spec, folder))
    assert not report.will_work
    assert [finding.id for finding in report.errors] == ["model.architecture-elsewhere"]
    assert report.gguf_architecture == ELSEWHERE[name]
    assert answers(report)["converter"] is Answer.UNSUPPORTED
    assert answers(report)["llama.cpp"] is Answer.SUPPORTED


def test_a_target_decides(golden: Path, folder: Path) -> None:
    path = build(golden, load_spec(golden, "cases", "r1-distill-qwen"), folder)
    assert check(path, ollama_version="0.24.0").will_work
    assert check(path, llamacpp_build="b10488").will_work
    unknown = check(path, ollama_version="0.0.0")
    assert not unknown.will_work and not unknown.errors
    assert [f.id for f in unknown.findings if f.severity is Severity.WARN] == ["model.target-unknown"]
    assert answers(unknown)["ollama"] is Answer.UNKNOWN


def test_importer_and_llamacpp_disagree_about_mistral(golden: Path, folder: Path) -> None:
    report = examine(golden, "cases", "mistral", folder)
    assert answers(report)["ollama"] is Answer.SUPPORTED
    assert answers(report)["ollama-importer"] is Answer.UNSUPPORTED


def test_memory_grows_with_the_context(golden: Path, folder: Path) -> None:
    path = build(golden, load_spec(golden, "cases", "llama2-spm"), folder)
    short, long = check(path, num_ctx=1024), check(path, num_ctx=4096)
    assert short.cache_bytes and long.cache_bytes == 4 * short.cache_bytes
    assert long.memory_bytes["Q8_0"] == long.output_bytes["Q8_0"] + long.cache_bytes


def test_no_weight_is_read(golden: Path, folder: Path) -> None:
    """Bytes that this process read, as the kernel counts them, against the size of the weights."""
    counter = Path("/proc/self/io")
    if not counter.exists():
        pytest.skip("the kernel does not count reads here")
    path = build(golden, load_spec(golden, "cases", "llama2-spm"), folder)
    check(path)  # data files and libraries are read once per process

    def read_bytes() -> int:
        return int(counter.read_text().split("rchar: ")[1].split()[0])

    before = read_bytes()
    report = check(path)
    others = sum(file.stat().st_size for file in path.iterdir() if file.suffix != ".safetensors")
    assert sum(report.dtype_bytes.values()) > 10_000_000
    assert read_bytes() - before < 3 * others + 200_000


def test_all_faults_are_told_at_once(golden: Path, folder: Path) -> None:
    spec = load_spec(golden, "errors", "unmapped-tensor")
    spec["tensors"] = [t for t in spec["tensors"] if "q_proj" not in t["name"]]
    spec["config"]["vocab_size"] = 32001
    spec["files"] = {"tokenizer_config.json": {"extra_special_tokens": ["<a>"]}}
    report = check(build(golden, spec, folder))
    assert {finding.id for finding in report.errors} == {
        "model.tensor-unmapped",
        "model.tensors-missing",
        "model.vocabulary-rows",
        "model.extra-special-tokens",
    }


def test_shards_promise_each_other_without_an_index(golden: Path, folder: Path) -> None:
    spec = load_spec(golden, "errors", "missing-shard") | {"index": False}
    report = check(build(golden, spec, folder))
    assert [finding.id for finding in report.errors] == ["model.shard-missing"]
    assert report.errors[0].params["file"] == "model-00002-of-00002.safetensors"


def test_an_indexed_file_may_have_any_name(golden: Path, folder: Path) -> None:
    spec = load_spec(golden, "cases", "mistral")
    for number, shard in enumerate(spec["shards"]):
        shard["file"] = f"part-{number}.safetensors"
    assert check(build(golden, spec, folder)).will_work


@pytest.mark.parametrize(
    ("file", "id"),
    [("pytorch_model.bin", "model.weights-pickled"), ("model.gguf", "model.weights-gguf")],
)
def test_other_weight_files_are_explained(golden: Path, folder: Path, file: str, id: str) -> None:
    path = build(golden, load_spec(golden, "errors", "no-weights"), folder)
    (path / file).write_bytes(b"x")
    assert [finding.id for finding in check(path).errors] == [id]


@pytest.mark.parametrize(("name", "data"), [("model.gguf", b""), ("model.bin2", b"GGUF\x03\0\0\0")])
def test_a_gguf_file_is_sent_to_the_commands_for_it(folder: Path, name: str, data: bytes) -> None:
    (folder / name).write_bytes(data)
    with pytest.raises(RfctlError) as caught:
        check(folder / name)
    assert caught.value.id == "model.is-gguf"
    assert f"rfctl model verify {folder / name}" in caught.value.text().next


def test_a_missing_directory_is_an_error_not_a_report(folder: Path) -> None:
    with pytest.raises(RfctlError) as caught:
        check(folder / "nowhere")
    assert caught.value.id == "model.not-found"


def test_a_template_that_repeats_bos_is_noticed(golden: Path, folder: Path) -> None:
    spec = load_spec(golden, "cases", "llama2-spm")
    path = build(golden, spec, folder)
    settings_file = path / "tokenizer_config.json"
    config = json.loads(settings_file.read_text("utf-8")) if settings_file.exists() else {}
    config |= {
        "bos_token": "<s>",
        "add_bos_token": True,
        "chat_template": "{{ bos_token }}{{ messages[0].content }}",
    }
    settings_file.write_text(json.dumps(config), "utf-8")
    assert "model.bos-twice" in [finding.id for finding in check(path).findings]
    config["chat_template"] = "{{ messages[0].content }}"
    settings_file.write_text(json.dumps(config), "utf-8")
    assert "model.bos-twice" not in [finding.id for finding in check(path).findings]
    config["chat_template"] = "{{ ''.__class__.__mro__ }}{% if %}"
    settings_file.write_text(json.dumps(config), "utf-8")
    assert "model.template-broken" in [finding.id for finding in check(path).findings]
    del config["chat_template"]
    settings_file.write_text(json.dumps(config), "utf-8")
    assert "model.template-missing" in [finding.id for finding in check(path).findings]


def test_adapter_tensors_under_a_wrapper_are_named_once() -> None:
    findings, _ = find_leftovers(["base_model.model.model.layers.0.q.lora_A.weight"])
    assert [finding.id for finding in findings] == ["model.leftover-lora"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2),
    max_leaves=4,
)
KEYS = [
    "architectures", "model_type", "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
    "num_key_value_heads", "head_dim", "intermediate_size", "rope_scaling", "rope_theta",
    "quantization_config",
    "max_position_embeddings", "rms_norm_eps", "tie_word_embeddings", "layer_types", "sliding_window",
    "partial_rotary_factor", "num_experts", "n_routed_experts", "pad_token_id", "rope_parameters",
    "num_kv_heads", "n_positions",
]  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    st.dictionaries(st.sampled_from(KEYS), values, max_size=4),
    st.sampled_from([*sorted(list_families()), ""]),
    st.dictionaries(st.sampled_from(["chat_template", "bos_token", "extra_special_tokens"]), values),
)
def test_a_hostile_configuration_gives_a_report(
    changes: dict[str, Any], architecture: str, tokenizer: dict[str, Any]
) -> None:
    path = Path(tempfile.mkdtemp())
    try:
        config = {
            "architectures": [architecture], "model_type": "llama", "vocab_size": 8, "hidden_size": 4,
            "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8, **changes,
        }  # fmt: skip
        (path / "config.json").write_text(json.dumps(config), "utf-8")
        (path / "tokenizer_config.json").write_text(json.dumps(tokenizer), "utf-8")
        tensors = [
            {"name": "model.embed_tokens.weight", "dtype": "F16", "shape": [8, 4]},
            {"name": "model.norm.weight", "dtype": "F16", "shape": [4]},
        ]
        write_holes(path / "model.safetensors", tensors, {})
        report = check(path)
        assert not report.will_work and report.errors
    finally:
        shutil.rmtree(path)
