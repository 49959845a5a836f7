"""The second part of the README on a real Docker engine: from `stack init` to an answer with its page.

RAGFlow and Ollama are containers of the shipped compose files in which rfctl's own engine answers, with the
accounts of a first day in front of it: what is held is everything between the programs (ports, names in the
network, health, secrets, accounts, order), not RAGFlow itself.
"""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pypdfium2
import pytest
from docker_engine import CORE, Engine, Stack, real_server

pytestmark = [pytest.mark.docker, pytest.mark.network, pytest.mark.slow]
MANUAL = Path(__file__).parents[2] / "docs/manual.pdf"
QUESTION = "How many tokens long is the context without the option num-ctx?"


@pytest.fixture
def here(engine: Engine, stack: Stack, environment: dict[str, str], tmp_path: Path) -> Callable[..., Any]:
    """`here("kb", "ls")`: rfctl on the machine of the engine; its standard output, after a success."""
    stack.services = (*CORE, "ollama")
    stack.extra = {role: real_server(role) for role in ("ragflow", "ollama")}

    def run(*arguments: str, **extra: str) -> str:
        done = subprocess.run(
            [
                "nsenter",
                f"--net=/run/netns/{engine.namespace}",
                sys.executable,
                "-m",
                "rfctl.cli.main",
                *arguments,
            ],
            env=environment | stack.environment() | extra,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, f"{arguments}: {done.stderr}\n{engine.docker('ps', '-a')}"
        return done.stdout

    return run


def test_from_a_fresh_machine_to_an_answer_with_its_page(
    here: Callable[..., str], stack: Stack, engine: Engine, smollm2: Path, minilm: Path
) -> None:
    here("stack", "init", "--add", "ollama")
    assert here("stack", "up").splitlines()[-1] == "RAGFlow is ready: http://127.0.0.1:8080"
    pushed = {"OLLAMA_HOST": "http://127.0.0.1:11434"}
    here("model", "push", str(smollm2), "base", "--quantize", "q8_0", **pushed)
    here("model", "push", str(minilm), "embedding", "--quantize", "f16", **pushed)
    report = json.loads(here("stack", "setup", "--json"))
    assert (report["made_account"], report["made_key"], report["proof"]["on_page"]) == (False, True, True)
    assert report["chat_model"] == "base:latest@local@Ollama"
    assert report["embedding_model"] == "embedding:latest@local@Ollama"

    mine = ("model", "push", str(smollm2), "mine:v1", "--quantize", "q8_0", "--to-ragflow")
    assert json.loads(here(*mine, "--json"))["ragflow"]["model"] == "mine:v1@local@Ollama"
    assert json.loads(here("kb", "upload", str(MANUAL), "--json"))["documents"][0]["status"] == "parsed"
    # A model of 135 million parameters says what is asked for if it is given little.
    here("chat", "create", "helper", "--kb", "docs", "--model", "mine:v1", "--top-n", "2")
    answer = json.loads(here("chat", "ask", "helper", QUESTION, "--json"))
    assert answer["answer"].strip()
    best = max(answer["sources"], key=lambda source: float(source["similarity"]))
    (page,) = best["pages"]
    text = pypdfium2.PdfDocument(MANUAL)[page - 1].get_textpage().get_text_range()
    assert best["document"] == "manual.pdf" and "8192" in text

    assert sorted(listeners(engine)) == ["127.0.0.1:11434", "127.0.0.1:8080", "127.0.0.1:9380"]
    everything = engine.docker("ps", "-a", "--format", "{{.Names}} {{.Status}}")
    assert everything.count("(healthy)") == len(stack.services), everything
    here("stack", "down")
    assert engine.docker("ps", "-aq") == ""


def listeners(engine: Engine) -> list[str]:
    """Addresses of the machine of the engine on which something listens, from the kernel's table."""
    rows = [line.split() for line in engine.inside("cat", "/proc/net/tcp").stdout.splitlines()[1:]]
    found = []
    for address, state in ((row[1], row[3]) for row in rows):
        if state == "0A":
            host, port = address.split(":")
            found.append(f"{ipaddress.ip_address(bytes.fromhex(host)[::-1])}:{int(port, 16)}")
    return found
