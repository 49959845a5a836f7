"""Every golden case, and the two real models: the whole file, byte for byte."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builder import build
from compare import find_difference

from rfctl.converter.convert import convert
from rfctl.converter.header import read_header
from rfctl.core.file import sha256_file

# Vocabularies of 32 000 tokens.
SMALL = ("bert-minilm", "bert-odd", "llama2-added", "llama2-odd", "llama2-outlier", "llama2-spm")
SMALL += ("mistral", "mistral-swa")
LARGE = ("llama3.1", "qwen2-tied", "qwen2-untied", "r1-distill-qwen")  # 128 000 and more
# The other families: one file per way of writing, all outtypes among the slow tests.
FAMILIES = {
    "deepseek3": ("Q4_K_M",),
    "gemma2": ("f16",),
    "gemma3": ("auto",),
    "glm4": ("Q8_0",),
    "gpt2": ("f32", "f16", "bf16", "q8_0", "auto", "Q4_K_M", "Q3_K_M", "Q4_0", "Q6_K"),
    "mixtral": ("f32", "auto", "q8_0", "Q4_K_M", "Q3_K_M", "Q4_0", "Q8_0"),
    "phi2": ("f32", "bf16", "q8_0", "Q6_K", "Q4_0"),
    "phi3": ("f16", "auto", "q8_0", "Q4_K_M"),
    "phi3-longrope": ("f32", "auto", "Q5_K_M"),
    "qwen3": ("auto",),
    "qwen3moe": ("auto",),
    "stablelm": ("f16", "q8_0", "Q4_0"),
    "starcoder2": ("f32", "bf16", "auto", "Q4_K_M"),
}
DIRECT = ("f32", "f16", "bf16", "q8_0", "auto")
TWO_STEP = ("Q4_K_M", "Q5_K_M", "Q6_K", "Q3_K_M", "Q4_0", "Q8_0")


def list_runs() -> list[Any]:
    runs = [pytest.param(case, outtype) for case in SMALL for outtype in DIRECT + TWO_STEP]
    for case in LARGE:
        for outtype in DIRECT + TWO_STEP:
            marks = () if outtype == "Q4_K_M" else pytest.mark.slow
            runs.append(pytest.param(case, outtype, marks=marks))
    for case, quick in FAMILIES.items():
        for outtype in DIRECT + TWO_STEP:
            runs.append(pytest.param(case, outtype, marks=() if outtype in quick else pytest.mark.slow))
    return runs


@pytest.fixture(scope="session")
def model(golden: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The directory of a case, made once."""
    parent = tmp_path_factory.mktemp("models")

    def make(case: str) -> Path:
        spec = json.loads((golden / "converter" / "cases" / f"{case}.json").read_text("utf-8"))
        return build(golden, spec, parent)

    return make


def read_record(outputs: dict[str, Any], outtype: str) -> dict[str, Any]:
    record: dict[str, Any] = outputs[outtype]
    return read_record(outputs, record["same_bytes_as"]) if "same_bytes_as" in record else record


def compare(folder: Path, outtype: str, outputs: dict[str, Any], target: Path) -> None:
    record = read_record(outputs, outtype)
    # q8_0 is the converter's file, Q8_0 the one of llama-quantize: the same weights in another order.
    done = convert(folder, target, outtype=outtype, two_step=True if outtype in TWO_STEP else None)
    difference = find_difference(target, record)
    target.unlink()
    assert difference is None
    assert (done.size, done.sha256) == (record["size"], record["sha256"])


@pytest.mark.parametrize(("case", "outtype"), list_runs())
def test_case(case: str, outtype: str, golden: Path, model: Callable[[str], Path], tmp_path: Path) -> None:
    expected = json.loads((golden / "converter" / "expected" / f"{case}.json").read_text("utf-8"))
    compare(model(case), outtype, expected["outputs"], tmp_path / "out.gguf")


def test_overflow_is_warned_of(model: Callable[[str], Path], tmp_path: Path) -> None:
    done = convert(model("llama2-outlier"), tmp_path / "out.gguf", outtype="F16")
    assert [id for id, _ in done.warnings] == ["model.overflow-written"]
    assert done.outtype == "F16"
    assert not convert(
        model("llama2-outlier"), tmp_path / "out.gguf", outtype="auto", overwrite=True
    ).warnings


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_bytes(
    threads: int, golden: Path, model: Callable[[str], Path], tmp_path: Path
) -> None:
    expected = json.loads((golden / "converter" / "expected" / "llama2-spm.json").read_text("utf-8"))
    done = convert(model("llama2-spm"), tmp_path / "out.gguf", outtype="Q4_K_M", threads=threads)
    assert done.sha256 == expected["outputs"]["Q4_K_M"]["sha256"] == sha256_file(done.path)


@pytest.mark.network
@pytest.mark.parametrize("outtype", ["f32", "f16", "q8_0", "Q4_K_M", "Q6_K"])
def test_real_minilm(outtype: str, golden: Path, minilm: Path, tmp_path: Path) -> None:
    expected = json.loads((golden / "converter" / "minilm.json").read_text("utf-8"))
    compare(minilm, outtype, expected["outputs"], tmp_path / "out.gguf")


@pytest.mark.network
def test_restored_weights(golden: Path, smollm2: Path) -> None:
    expected = json.loads((golden / "converter" / "smollm2.json").read_text("utf-8"))
    weights = smollm2 / "model.safetensors"
    with weights.open("rb") as file:
        for tensor, wanted in zip(read_header(weights), expected["source_tensors"], strict=True):
            file.seek(tensor.offset)
            assert tensor.name == wanted["name"]
            assert list(tensor.shape) == wanted["shape"]
            assert hashlib.sha256(file.read(tensor.size)).hexdigest() == wanted["sha256"], tensor.name


@pytest.mark.network
@pytest.mark.parametrize(
    "outtype",
    ["f16", "Q4_K_M", *(pytest.param(slow, marks=pytest.mark.slow) for slow in ("f32", "bf16", "q8_0"))],
)
def test_real_smollm2(outtype: str, golden: Path, smollm2: Path, tmp_path: Path) -> None:
    expected = json.loads((golden / "converter" / "smollm2.json").read_text("utf-8"))
    compare(smollm2, outtype, expected["outputs"], tmp_path / "out.gguf")
