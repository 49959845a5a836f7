"""`rfctl model check` and `rfctl model convert`: whole output and exit code, on golden directories."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "converter"))
import builder
import skeleton

Run = Callable[..., Any]

SOUND = """\
{path}/Llama-2-tiny-chat-hf
  architecture   LlamaForCausalLM -> llama
  weights        18.7 M (F16 37.5 MB)
  context        4096
  tokenizer      SentencePiece
  chat template  yes
  as F16         37.5 MB on disk, 41.7 MB in memory with 2048 tokens of context
  as Q8_0        19.9 MB on disk, 24.1 MB in memory with 2048 tokens of context
  as Q4_K_M      12.7 MB on disk, 16.9 MB in memory with 2048 tokens of context

who                     answer     because
{converter:<22}  supported  rfctl writes it as llama
llama.cpp b11434        supported  from b9453 on; b11434 lists llama
ollama 0.24.0           supported  from 0.5.5 on; 0.24.0 lists llama
ollama-importer 0.24.0  not known  only the importer of 0.33.0-rc2 has been read

note[model.data-unread]: Values are checked while the model is converted, not here
  why: A check reads headers only: NaN, infinities and values beyond float16 are found by the conversion
  next: rfctl model convert DIR -o FILE

It will work. Next: rfctl model push {path}/Llama-2-tiny-chat-hf
"""


@pytest.fixture
def build(golden: Path, tmp_path: Path) -> Callable[..., Path]:
    """The directory of a golden spec; with weights only where they are needed."""

    def make(kind: str, name: str, *, weights: bool = False) -> Path:
        spec = skeleton.load_spec(golden, kind, name)
        return builder.build(golden, spec, tmp_path) if weights else skeleton.build(golden, spec, tmp_path)

    return make


def test_a_sound_model(rfctl: Run, build: Callable[..., Path], tmp_path: Path) -> None:
    from rfctl.core.version import __version__

    folder = build("cases", "llama2-spm")
    result = rfctl("model", "check", folder.name, "--for", "ollama@0.24.0", "--num-ctx", "2048")
    assert result.out == SOUND.format(path=tmp_path, converter=f"converter {__version__}")
    assert (result.err, result.code) == ("", 0)


def test_a_refused_model_exits_with_5_and_says_what_to_do(
    rfctl: Run, build: Callable[..., Path], tmp_path: Path
) -> None:
    folder = build("errors", "missing-shard")
    result = rfctl("model", "check", folder.name)
    assert result.code == 5 and result.err == ""
    assert result.out.endswith(
        "error[model.shard-missing]: The weight file model-00002-of-00002.safetensors is missing\n"
        "  why: The index names it\n"
        f"  next: Download or copy model-00002-of-00002.safetensors into {tmp_path}/llama-missing-shard\n"
        "\n"
        "It will not work as it is.\n"
    )


def test_chinese(rfctl: Run, build: Callable[..., Path]) -> None:
    folder = build("errors", "unmapped-tensor")
    result = rfctl("--lang", "zh", "model", "check", folder.name)
    assert result.code == 5
    assert "错误[model.tensor-unmapped]" in result.out
    assert result.out.endswith("目前不能使用。\n")


def test_json_is_one_document(rfctl: Run, build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build("errors", "unknown-architecture")
    result = rfctl("model", "check", folder.name, "--json")
    assert result.code == 5 and result.err == ""
    report = json.loads(result.out)
    assert report["schema_version"] == 1
    assert report["path"] == str(tmp_path / "my-model-7b")
    assert report["will_work"] is False
    assert report["verdicts"][0] == {
        "authority": "converter",
        "version": report["verdicts"][0]["version"],
        "answer": "unsupported",
        "since": "",
        "reason": "rfctl has no family for MyOwnForCausalLM",
    }
    finding, sibling = report["findings"]
    assert sibling["id"] == "model.architecture-sibling"
    assert sibling["params"]["nearest"] == "LlamaForCausalLM"
    assert (finding["id"], finding["severity"]) == ("model.architecture-nowhere", "error")
    assert "LlamaForCausalLM" in finding["next"]
    assert report["dtype_bytes"] == {"BF16": 33555968}


def test_a_target_that_nobody_knows_is_not_a_success(rfctl: Run, build: Callable[..., Path]) -> None:
    folder = build("cases", "llama2-spm")
    result = rfctl("model", "check", folder.name, "--for", "ollama@0.0.0")
    assert result.code == 5
    assert result.out.endswith("Nobody knows yet whether it will work there.\n")


def test_a_malformed_target_is_a_usage_error(rfctl: Run, tmp_path: Path) -> None:
    result = rfctl("model", "check", ".", "--for", "vllm@1")
    assert (result.out, result.code) == ("", 2)
    assert result.err == (
        "error[check.target-malformed]: vllm@1 names no version to check for\n"
        "  why: A target is ollama@VERSION, ollama@URL or llama.cpp@BUILD\n"
        "  next: rfctl model check DIR --for ollama@0.24.0\n"
        "  rfctl explain check.target-malformed\n"
    )


def test_a_conversion_writes_the_bytes_of_the_reference(
    rfctl: Run, build: Callable[..., Path], golden: Path, tmp_path: Path
) -> None:
    folder = build("cases", "llama2-spm", weights=True)
    result = rfctl("model", "convert", folder.name, "-o", "out.gguf", "--outtype", "q4_k_m", "--threads", "2")
    assert (result.code, result.out) == (0, "out.gguf: 13.5 MB, Q4_K_M, 39 tensors\n")
    expected = json.loads((golden / "converter" / "expected" / "llama2-spm.json").read_text("utf-8"))
    written = (tmp_path / "out.gguf").read_bytes()
    assert hashlib.sha256(written).hexdigest() == expected["outputs"]["Q4_K_M"]["sha256"]

    same = rfctl("model", "convert", folder.name, "-o", "out.gguf", "--outtype", "q4_k_m", "-q")
    assert (same.code, same.out, same.err) == (
        0,
        "out.gguf: unchanged; 13.5 MB, Q4_K_M, 39 tensors, the same bytes as before\n",
        "",
    )
    again = rfctl("model", "convert", folder.name, "-o", "out.gguf")
    assert (again.code, again.out) == (7, "")
    assert again.err == (
        "error[model.target-exists]: out.gguf exists, and is not what would be written\n"
        "  next: Choose another name, or add --force\n"
        "  rfctl explain model.target-exists\n"
    )
    assert (tmp_path / "out.gguf").read_bytes() == written

    forced = rfctl("model", "convert", folder.name, "-o", "out.gguf", "--force", "--json")
    report = json.loads(forced.out)
    assert forced.code == 0 and forced.err == "" and report["unchanged"] is False
    assert report["outtype"] == "F16" and report["sha256"] == expected["outputs"]["f16"]["sha256"]


def test_a_value_that_is_no_number_stops_the_conversion(
    rfctl: Run, build: Callable[..., Path], tmp_path: Path
) -> None:
    folder = build("errors", "nan-in-row", weights=True)
    result = rfctl("model", "convert", folder.name, "-o", "out.gguf", "--outtype", "Q8_0", "-q")
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith(
        "error[model.not-finite]: blk.0.ffn_down.weight has NaN in row 3, column 70\n"
    )
    assert [path.name for path in tmp_path.glob("out*")] == []


def test_an_unknown_outtype_lists_the_known_ones(rfctl: Run, build: Callable[..., Path]) -> None:
    folder = build("cases", "llama2-spm")
    result = rfctl("model", "convert", folder.name, "-o", "out.gguf", "--outtype", "q4_k_xxl")
    assert (result.code, result.out) == (2, "")
    assert "model.outtype-unknown" in result.err and "Q4_K_M" in result.err


def test_convert_with_an_adapter(rfctl: Run, golden: Path, tmp_path: Path) -> None:
    """The option, and an adapter that names its base, give the same file; one that does not fit none."""
    import numpy as np
    import safetensor
    import tiny

    tiny.make_model(tmp_path / "Tiny-7M", golden / "converter" / "tokenizers" / "gpt2")
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 2,
        "lora_alpha": 4,
        "base_model_name_or_path": str(tmp_path / "Tiny-7M"),
    }
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    module = "base_model.model.model.layers.0.self_attn.o_proj"
    pair = {f"{module}.lora_{half}.weight": np.full((64, 64), 0.5, np.float32) for half in "AB"}
    pair = {name: values[:2] if "lora_A" in name else values[:, :2] for name, values in pair.items()}
    tensors = {name: ("F32", values) for name, values in pair.items()}
    safetensor.write_safetensors(adapter / "adapter_model.safetensors", tensors)
    assert rfctl("model", "convert", "Tiny-7M", "-o", "plain.gguf").code == 0
    assert rfctl("model", "convert", "Tiny-7M", "--adapter", "adapter", "-o", "a.gguf").code == 0
    assert rfctl("model", "convert", "adapter", "-o", "b.gguf").code == 0
    for words, command in (
        (("adapter",), f"{tmp_path / 'adapter'}"),
        (("Tiny-7M", "--adapter", "adapter"), f"{tmp_path / 'Tiny-7M'} --adapter adapter"),
    ):
        checked = rfctl("model", "check", *words).out.splitlines()
        assert str(tmp_path / "Tiny-7M") in checked[0]
        assert "adapter" in checked[0]
        assert checked[-1].endswith(f"rfctl model push {command}")
    plain, first, second = ((tmp_path / f"{name}.gguf").read_bytes() for name in ("plain", "a", "b"))
    assert first == second != plain
    (adapter / "adapter_config.json").write_text(json.dumps({**config, "use_dora": True}), "utf-8")
    refused = rfctl("model", "convert", "Tiny-7M", "--adapter", "adapter", "-o", "c.gguf")
    assert refused.code == 1
    assert refused.err.startswith("error[adapter.dora]")
    assert not (tmp_path / "c.gguf").exists()
