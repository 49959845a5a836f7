"""`--for`: a release, a running server or a build; each authority answers for itself, unknown is no yes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
from made_model import make_llama

from rfctl.cli.main import execute
from rfctl.cli.model_check_target import Target, parse_target
from rfctl.core.error import RfctlError


@contextmanager
def serve(version: object) -> Iterator[str]:
    """A server that only tells its version."""

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None: ...

        def do_GET(self) -> None:
            body = json.dumps({"version": version}).encode()
            self.send_response(200 if self.path == "/api/version" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RFCTL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RFCTL_LANG", "en")
    return make_llama().write(tmp_path / "made")


def check(model: Path, target: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, Any]]:
    code = execute(["model", "check", str(model), "--for", target, "--json"])
    document: dict[str, Any] = json.loads(capsys.readouterr().out)
    return code, {entry["authority"]: entry for entry in document["verdicts"]} | {
        "target": document["target"]
    }


def test_a_running_server_is_asked_for_its_version(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve("0.32.1") as address:
        for url in (address, f"http://{address}", f"http://{address}/"):
            code, report = check(model, f"ollama@{url}", capsys)
            assert code == 0
            assert report["ollama"]["version"] == report["ollama-importer"]["version"] == "0.32.1"
            assert report["ollama"]["answer"] == "supported" and report["ollama"]["since"] == "0.5.5"
            assert report["target"] == {
                "ollama_version": "0.32.1",
                "llamacpp_build": "",
                "url": f"http://{address}",
            }


@pytest.mark.parametrize("version", ["0.0.0", "", None, "main", "0.3.1"])
def test_a_server_whose_version_nobody_knows_is_no_success(
    version: object, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with serve(version) as address:
        code, report = check(model, f"ollama@{address}", capsys)
    assert code == 5
    assert report["ollama"]["answer"] == "unknown"


def test_a_server_that_is_not_there(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve("0.32.1") as address:
        pass
    assert execute(["model", "check", str(model), "--for", f"ollama@{address}"]) == 3
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("target", "answers", "code"),
    [
        ("ollama@0.32.1", {"llama.cpp": "supported", "ollama": "supported", "ollama-importer": "unknown"}, 0),
        ("ollama@0.33.0-rc2", {"ollama": "supported", "ollama-importer": "supported"}, 0),
        ("llama.cpp@b10488", {"llama.cpp": "supported", "ollama": "supported"}, 0),
        ("llama.cpp@b3000", {"llama.cpp": "unknown", "ollama": "supported"}, 5),
        ("llama.cpp@master", {"llama.cpp": "unknown"}, 5),
    ],
)
def test_authorities_answer_for_themselves(
    target: str, answers: dict[str, str], code: int, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found, report = check(model, target, capsys)
    assert {name: report[name]["answer"] for name in answers} == answers
    assert found == code


@pytest.mark.parametrize(
    "text", ["ollama", "ollama@", "vllm@1", "llama.cpp@", "llama.cpp@a b", "ollama@0.1;x"]
)
def test_what_is_no_target(text: str) -> None:
    with pytest.raises(RfctlError) as caught:
        parse_target(text)
    assert (caught.value.id, caught.value.exit_code) == ("check.target-malformed", 2)


def test_targets() -> None:
    assert parse_target(None) == Target()
    assert parse_target("Ollama@v0.32.1") == Target(ollama_version="0.32.1")
    assert parse_target("llama.cpp@b11434") == Target(llamacpp_build="b11434")
