"""The support tables: what is read, what is inferred between two lists, and what stays unknown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rfctl.converter.finding import Answer
from rfctl.converter.support import (
    Need,
    hf_architecture,
    judge_importer,
    judge_llamacpp,
    judge_ollama,
    parse_version,
)


@pytest.mark.parametrize(
    ("need", "version", "answer", "since"),
    [
        (Need("qwen2", "qwen2"), None, Answer.SUPPORTED, "0.5.13"),
        (Need("qwen2", "qwen2"), "0.24.0", Answer.SUPPORTED, "0.5.13"),
        (Need("qwen2", "qwen2"), "0.5.5", Answer.UNKNOWN, "0.5.13"),  # no pre-tokenizers read for it
        (Need("llama"), "0.5.5", Answer.SUPPORTED, "0.5.5"),
        (Need("modern-bert"), "0.24.0", Answer.UNSUPPORTED, "0.30.0"),
        (Need("modern-bert"), "0.30.5", Answer.SUPPORTED, "0.30.0"),  # between two lists that have it
        (Need("kimi-k3"), "0.32.13", Answer.UNKNOWN, "0.32.15"),  # added somewhere between two lists
        (Need("kimi-k3"), "0.32.5", Answer.UNSUPPORTED, "0.32.15"),
        (Need("qwen2", "qwen2"), "0.34.1", Answer.SUPPORTED, "0.5.13"),  # newer than the table
        (Need("glm5-next"), "0.34.1", Answer.UNKNOWN, ""),  # only a newer llama.cpp has it
        (Need("qwen2", "no-such-pre"), "0.30.0", Answer.UNSUPPORTED, ""),
        (Need("qwen2"), "0.0.0", Answer.UNKNOWN, ""),
        (Need("qwen2"), "0.3.0", Answer.UNKNOWN, ""),
        (Need("qwen2"), "nonsense", Answer.UNKNOWN, ""),
        (Need(""), "0.30.0", Answer.UNKNOWN, ""),
    ],
)
def test_ollama(need: Need, version: str | None, answer: Answer, since: str) -> None:
    verdict = judge_ollama(need, version)
    assert (verdict.answer, verdict.since) == (answer, since)
    assert "{" not in verdict.text("en") + verdict.text("zh")


@pytest.mark.parametrize(
    ("name", "build", "answer"),
    [
        ("qwen2", "b11434", Answer.SUPPORTED),
        ("qwen2", "10000", Answer.SUPPORTED),
        ("qwen2", "b9000", Answer.UNKNOWN),
        ("qwen2", "b12000", Answer.SUPPORTED),
        ("glm5-next", "b10488", Answer.UNSUPPORTED),
        ("glm5-next", "b11000", Answer.UNKNOWN),
        ("nothing", "b12000", Answer.UNKNOWN),
        ("nothing", "b11434", Answer.UNSUPPORTED),
        ("qwen2", "main", Answer.UNKNOWN),
    ],
)
def test_llamacpp(name: str, build: str, answer: Answer) -> None:
    assert judge_llamacpp(Need(name), build).answer is answer


def test_importer() -> None:
    assert judge_importer("Qwen2ForCausalLM").answer is Answer.SUPPORTED
    assert judge_importer("MistralForCausalLM").answer is Answer.UNSUPPORTED
    assert judge_importer("Qwen2ForCausalLM", "0.24.0").answer is Answer.UNKNOWN
    assert judge_importer("MistralForCausalLM", "0.40.0").answer is Answer.UNKNOWN


def test_release_candidates_come_before_the_release() -> None:
    order = ["0.9.9", "0.33.0-rc1", "0.33.0-rc2", "0.33.0", "0.33.1"]
    versions = [parse_version(text) for text in order]
    assert None not in versions and versions == sorted(versions, key=lambda version: version or ())
    assert parse_version("0.0.0") is None


def test_the_lists_equal_the_golden_table(golden: Path) -> None:
    """Every name of every list that was read answers yes for its release, and a made-up one no."""
    table = json.loads((golden / "ollama" / "support.json").read_text("utf-8"))
    compared = 0
    for release in table["releases"]:
        if not release["lists"] or not release["ollama_last"]:
            continue
        names = set(table["llama_cpp_lists"][release["lists"]]["architectures"]) - {"(unknown)"}
        for name in [*names, *release.get("go_engine_architectures", ())]:
            assert judge_ollama(Need(name), release["ollama_first"]).answer is Answer.SUPPORTED
            compared += 1
        assert judge_ollama(Need("made-up"), release["ollama_first"]).answer is Answer.UNSUPPORTED
    assert compared > 3000


def test_architecture_names_equal_the_golden_table(golden: Path) -> None:
    table = json.loads((golden / "converter" / "prequant-names.json").read_text("utf-8"))
    rows = table["text_architectures"]["table"]
    assert len(rows) > 270
    for row in rows:
        assert hf_architecture(row["hf"]) == (row["gguf"] or "")
