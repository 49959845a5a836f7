"""Completion: the script of each shell, and what it is answered; no server is asked for it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]
SHELLS = ("bash", "zsh", "fish", "powershell")


@pytest.fixture
def complete(rfctl: Run) -> Callable[[str], list[tuple[str, str, str]]]:
    """(kind, word, help) for the last word of a line, as the script for zsh asks for them."""

    def ask(line: str, **env: str) -> list[tuple[str, str, str]]:
        words = line.split(" ")
        variables = {
            "_RFCTL_COMPLETE": "zsh_complete",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(words) - 1),
            # Whoever is asked at this address makes the test fail: nobody answers there.
            "RAGFLOW_BASE_URL": "http://127.0.0.1:1",
            "RAGFLOW_API_KEY": "key",
        }
        result = rfctl(env=variables | env)
        assert (result.code, result.err) == (0, "")
        lines = result.out.rstrip("\n").split("\n") if result.out.strip() else []
        return list(zip(lines[::3], lines[1::3], lines[2::3], strict=True))

    return ask


@pytest.mark.parametrize("shell", SHELLS)
def test_the_script(rfctl: Run, shell: str) -> None:
    result = rfctl("completion", shell)
    assert (result.code, result.err) == (0, "")
    assert f"{shell}_complete" in result.out and "rfctl" in result.out
    assert "\x1b" not in result.out and result.out.endswith("\n")
    document = json.loads(rfctl("completion", shell, "--json").out)
    assert document["script"].rstrip() == result.out.rstrip()
    assert f"rfctl completion {shell}" in document["use"]


def test_an_unknown_shell(rfctl: Run) -> None:
    result = rfctl("completion", "tcsh")
    assert (result.code, result.out) == (2, "")
    assert all(shell in result.err for shell in SHELLS)


def test_commands_options_and_files(complete: Callable[..., Any]) -> None:
    assert complete("rfctl mo") == [("plain", "model", "Check, convert and register models")]
    assert complete("rfctl model rm", RFCTL_LANG="zh") == [("plain", "rm", "删除已注册的模型")]
    assert [word for _, word, _ in complete("rfctl model convert --ou")] == [
        "--output-file",
        "--outtype",
        "--output",
    ]
    assert ("plain", "--lang", "Language of messages.") in complete("rfctl -")
    assert [word for _, word, _ in complete("rfctl model push --via ")] == ["auto", "direct", "http"]
    for line in ("rfctl kb upload ./ma", "rfctl model check ./ma", "rfctl model diff ./ma"):
        assert [(kind, word) for kind, word, _ in complete(line)] == [("file", "./ma")]


def test_models_are_read_from_the_store(complete: Callable[..., Any], tmp_path: Path) -> None:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "ollama"))
    from rfctl.ollama.manifest import Manifest
    from rfctl.ollama.name import parse_name
    from rfctl.ollama.store import ModelStore

    store = ModelStore(tmp_path / "models")
    config, _ = store.add_bytes(b"{}", "application/vnd.docker.container.image.v1+json")
    for name in ("smol:v1", "smol:v2", "bge"):
        store.write(parse_name(name), Manifest(config=config, layers=()))
    env = {"OLLAMA_HOST": "127.0.0.1:1", "OLLAMA_MODELS": str(tmp_path / "models")}
    for line in ("rfctl model show sm", "rfctl model rm sm", "rfctl chat create x --model sm"):
        assert [word for _, word, _ in complete(line, **env)] == ["smol:v1", "smol:v2"]
    assert complete("rfctl model show x", OLLAMA_HOST="127.0.0.1:1") == []
    (tmp_path / "models" / "manifests" / "bad").write_bytes(b"\xff")
    assert len(complete("rfctl model show s", **env)) == 2


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_takes_the_script(rfctl: Run, tmp_path: Path) -> None:
    script = tmp_path / "rfctl.bash"
    script.write_text(rfctl("completion", "bash").out, "utf-8")
    done = subprocess.run(
        ["bash", "-c", f"source {script} && complete -p rfctl"],
        capture_output=True,
        encoding="utf-8",
        check=True,
    )
    assert "_rfctl_completion" in done.stdout
