"""The name that was meant: tags, providers, case and typing errors."""

from __future__ import annotations

import pytest

from rfctl.core.error import RfctlError, UsageError
from rfctl.core.near import find_near

KNOWN = ("smol:v1", "bge-m3:latest", "Manuals", "library/qwen2.5:0.5b", "qwen3-embedding@Ollama")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("smol", "smol:v1"),
        ("smol:v2", "smol:v1"),
        ("smoll", "smol:v1"),
        ("SMOL:V1", "smol:v1"),
        ("bge-m4", "bge-m3:latest"),
        ("manual", "Manuals"),
        ("qwen2.5", "library/qwen2.5:0.5b"),
        ("qwen3-embeding", "qwen3-embedding@Ollama"),
        ("llama3", ""),
        ("", ""),
        (":", ""),
    ],
)
def test_find_near(name: str, near: str) -> None:
    assert find_near(name, KNOWN) == near


def test_an_error_asks_for_it_before_its_cause() -> None:
    error = UsageError("dataset.unknown", name="manual", known="manuals", near="manuals")
    assert error.text("en").why == "Did you mean manuals? There are: manuals"
    assert error.text("zh").why == "您要找的是 manuals 吗？现有：manuals"
    assert (
        UsageError("dataset.unknown", name="x", known="manuals", near="").text().why == "There are: manuals"
    )
    assert RfctlError("ollama.model-missing", model="a", url="u", near="b").text().why == "Did you mean b?"
