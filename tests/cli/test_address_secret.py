"""A password in an address never reaches a settings file, and is not repeated on the screen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

LINES = [
    "profile add lab --ragflow https://anna:geheim@lab.example/api",
    "profile add lab --ollama http://geheim@lab.example:11434 --ragflow http://lab.example",
    "config set ollama.url anna:geheim@lab.example:11434",
    "config set ragflow.url https://:geheim@lab.example",
    "config set hub.endpoint https://anna:geheim@hub.example",
    "config set ragflow.url https://anna:geheim@lab.example/?next=http://other.example",
    "config set profiles.lab.ollama_url http://anna:geheim@lab.example",
]


@pytest.mark.parametrize("line", LINES)
def test_it_is_refused_with_what_to_do(rfctl: Run, tmp_path: Path, line: str) -> None:
    for language in ("en", "zh"):
        result = rfctl(*line.split(), "--lang", language)
        assert (result.code, result.out) == (2, "")
        assert "[config.url-secret]" in result.err and "rfctl auth login" in result.err
        assert "geheim" not in result.err and "anna" not in result.err
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"geheim" in path.read_bytes()]


def test_the_whole_message(rfctl: Run) -> None:
    result = rfctl(*LINES[0].split())
    assert result.err == (
        "error[config.url-secret]: The address contains a user name or a password; it was not stored\n"
        "  why: Settings files are copied and shown; secrets have a place of their own\n"
        "  next: Give it as https://lab.example/api. The key of a RAGFlow server: rfctl auth login. A token"
        " for a proxy in front of Ollama: the environment variable OLLAMA_API_KEY\n"
        "  rfctl explain config.url-secret\n"
    )


def test_a_path_may_have_an_at_sign_and_a_profile_is_added_once(rfctl: Run) -> None:
    line = ("profile", "add", "lab", "--ragflow", "https://lab.example/@me")
    first, again = rfctl(*line), rfctl(*line)
    assert (first.code, again.code) == (0, 0)
    assert first.out != again.out
    assert again.out.startswith("profiles.lab: nothing to change in ")


def test_nothing_is_written_when_one_address_is_wrong(rfctl: Run, environment: dict[str, str]) -> None:
    result = rfctl("profile", "add", "lab", "--ollama", "http://lab.example", "--ragflow", "lab.example")
    assert result.code == 2 and "[profile.url-invalid]" in result.err
    assert not Path(environment["RFCTL_HOME"], "config", "config.toml").exists()
