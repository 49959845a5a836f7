"""The golden directories that must not become a file: refused before any weight is read where a header
suffices.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from builder import build

from rfctl.converter.convert import convert, make_plan
from rfctl.core.error import RfctlError

HEADER = {
    "awq": "model.quantized-awq",
    "bnb-4bit": "model.quantized-bitsandbytes",
    "bnb-4bit-no-config": "model.tensor-unmapped",
    "bnb-8bit-scb": "model.tensor-unmapped",
    "extra-special-tokens-list": "model.extra-special-tokens",
    "extra-special-tokens-list-llama": "model.extra-special-tokens",
    "extra-tensor-not-in-index": "model.index-stale",
    "gpt2-without-n_ctx": "model.config-invalid",
    "gptq-3bit": "model.quantized-gptq",
    "lora-dir": "model.adapter-only",
    "lora-names-left": "model.tensor-unmapped",
    "missing-shard": "model.shard-missing",
    "missing-tensor": "model.tensor-missing",
    "missing-tokenizer-llama": "model.tokenizer-missing",
    "missing-tokenizer-qwen2": "model.tokenizer-missing",
    "no-architecture-key": "model.architecture-missing",
    "no-weights": "model.weights-missing",
    "not-json-config": "model.json-malformed",
    "only-bin": "model.weights-missing",
    "peft-prefix": "model.tensor-unmapped",
    "rows-fewer-than-vocab": "model.vocabulary-rows",
    "rows-more-than-vocab": "model.vocabulary-rows",
    "stale-index": "model.index-stale",
    "truncated-data": "model.shard-truncated",
    "truncated-header": "model.shard-truncated",
    "unknown-architecture": "model.architecture-unknown",
    "unknown-pre-tokenizer": "model.pre-tokenizer-unknown",
    "unmapped-tensor": "model.tensor-unmapped",
    "vlm-saved-class": "model.architecture-unknown",
    "vocab-smaller-than-tokenizer": "model.vocabulary-too-small",
}
DATA = {"inf-in-row": "model.not-finite", "nan-in-row": "model.not-finite"}


def make(golden: Path, case: str, parent: Path) -> Path:
    spec = json.loads((golden / "converter" / "errors" / f"{case}.json").read_text("utf-8"))
    return build(golden, spec, parent)


def test_every_case_is_here(golden: Path) -> None:
    cases = {path.stem for path in (golden / "converter" / "errors").glob("*.json")}
    assert cases == {*HEADER, *DATA, "f16-overflow", "scale-overflow"}


@pytest.mark.parametrize("case", HEADER)
def test_header_suffices(case: str, golden: Path, tmp_path: Path) -> None:
    folder = make(golden, case, tmp_path)
    with pytest.raises(RfctlError) as caught:
        make_plan(folder)
    assert caught.value.id == HEADER[case]
    for language in ("en", "zh"):
        text = caught.value.text(language)
        assert text.next
        assert "{" not in text.message


@pytest.mark.parametrize("case", DATA)
def test_data_is_refused(case: str, golden: Path, tmp_path: Path) -> None:
    folder, target = make(golden, case, tmp_path), tmp_path / "out.gguf"
    with pytest.raises(RfctlError) as caught:
        convert(folder, target)
    assert caught.value.id == DATA[case]
    assert (caught.value.params["row"], caught.value.params["column"]) == (3, 70)
    assert not list(tmp_path.glob("out*"))


def test_scale_that_a_block_cannot_hold(golden: Path, tmp_path: Path) -> None:
    case = json.loads((golden / "converter" / "errors" / "scale-overflow.json").read_text("utf-8"))
    folder, target = build(golden, case, tmp_path), tmp_path / "out.gguf"
    for wanted in case["expected"]["quantize"]:
        if wanted["exit_code"] == 0:
            assert convert(folder, target, outtype=wanted["type"], overwrite=True).sha256 == wanted["sha256"]
            target.unlink()
            continue
        with pytest.raises(RfctlError) as caught:
            convert(folder, target, outtype=wanted["type"])
        assert caught.value.id == "model.overflow"
        assert not list(tmp_path.glob("out*"))
    assert convert(folder, target).sha256 == case["expected"]["convert"]["sha256"]


def test_value_that_f16_cannot_hold(golden: Path, tmp_path: Path) -> None:
    folder = make(golden, "f16-overflow", tmp_path)
    assert convert(folder, tmp_path / "half.gguf", outtype="f16").warnings
    assert not convert(folder, tmp_path / "auto.gguf").warnings
