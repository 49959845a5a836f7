"""Secrets: who may read the file, which source wins, and that nothing prints them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from rfctl.core.credential import find_ragflow_key, forget_ragflow_key, store_ragflow_key
from rfctl.core.error import UsageError
from rfctl.core.redact import redact

URL = "http://127.0.0.1:9380"
KEY = "ragflow-" + "k" * 43


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_the_file_belongs_to_its_owner(tmp_path: Path) -> None:
    path = Path(store_ragflow_key(URL + "/", KEY, tmp_path).place)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = find_ragflow_key(URL, {}, tmp_path)
    assert found is not None and found.secret == KEY and found.origin == str(path)
    path.chmod(0o644)
    with pytest.raises(UsageError) as caught:
        find_ragflow_key(URL, {}, tmp_path)
    assert caught.value.id == "config.credentials-open"


def test_environment_wins_over_file_and_file_variable(tmp_path: Path) -> None:
    store_ragflow_key(URL, "ragflow-file", tmp_path)
    (tmp_path / "secret").write_text("ragflow-named\n")
    named = {"RAGFLOW_API_KEY_FILE": str(tmp_path / "secret")}
    first = find_ragflow_key(URL, {"RAGFLOW_API_KEY": "ragflow-env"} | named, tmp_path)
    second = find_ragflow_key(URL, named, tmp_path)
    assert first is not None and first.secret == "ragflow-env"
    assert second is not None and second.secret == "ragflow-named"
    assert "ragflow-env" not in repr(first)


def test_keys_are_kept_per_server_and_forgotten(tmp_path: Path) -> None:
    store_ragflow_key(URL, "ragflow-one", tmp_path)
    store_ragflow_key("http://other", "ragflow-two", tmp_path)
    assert forget_ragflow_key(URL, tmp_path) is True
    assert forget_ragflow_key(URL, tmp_path) is False
    assert find_ragflow_key(URL, {}, tmp_path) is None
    other = find_ragflow_key("http://other", {}, tmp_path)
    assert other is not None and other.secret == "ragflow-two"


@pytest.mark.parametrize(
    "text",
    [
        f"Authorization: Bearer {KEY}",
        f'{{"api_key": "{KEY}"}}',
        f"GET /api?token={KEY}&x=1",
        f"https://user:{KEY}@host/",
        f"the key {KEY} was refused",
        "HF_TOKEN=hf_" + "a" * 30,
    ],
)
def test_redactor_hides_secrets(text: str) -> None:
    shown = redact(text)
    assert "k" * 20 not in shown and "a" * 20 not in shown
    assert "***" in shown


def test_redactor_keeps_ordinary_text() -> None:
    text = "prompt_tokens: 42, tokenizer.ggml.pre = llama-bpe, http://127.0.0.1:11434/api/tags"
    assert redact(text) == text
