"""The promises of the transport that need a process of their own, a proxy or two ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from scripted_server import ScriptedServer, Step, http

from rfctl.core.error import AuthError, RfctlError
from rfctl.ragflow_client.capability import detect
from rfctl.ragflow_client.connection import connect
from rfctl.ragflow_client.failure import ServerError
from rfctl.ragflow_client.transport import Api

PAGE = b"<!DOCTYPE html><html><title>RAGFlow</title></html>"
GIB = 1 << 30


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="resident memory is read with getrusage")
def test_a_gigabyte_goes_through_a_few_megabytes(tmp_path: Path) -> None:
    """A sparse file of 1 GiB; the process that sends it may not grow by more than 32 MB."""
    path = tmp_path / "large.pdf"
    with path.open("wb") as file:
        os.truncate(file.fileno(), GIB)
    with ScriptedServer(keep_bodies=False) as server:
        server.say(http(200, {"code": 0, "data": []}))
        child = Path(__file__).with_name("upload_child.py")
        done = subprocess.run(
            [sys.executable, str(child), server.url, str(path)],
            capture_output=True,
            timeout=120,
            check=True,
            encoding="utf-8",
        )
        report = json.loads(done.stdout)
        assert (report["sent"], report["data"]) == (GIB, [])
        request = server.requests[0]
        assert request.body_bytes == int(request.header("Content-Length")) > GIB
        assert request.header("Transfer-Encoding") == ""  # nginx in front wants to know the size
        assert report["grown"] < 32 << 20


def test_a_partial_success_keeps_what_was_taken(scripted: ScriptedServer, api: Api, tmp_path: Path) -> None:
    """Code 500 of an upload comes with the documents that were accepted (golden: documents-upload)."""
    taken = [{"id": "0" * 32, "name": "a.pdf"}]
    message = "x.exe: This type of file has not been supported yet!"
    scripted.say(http(200, {"code": 500, "message": message, "data": taken}))
    path = tmp_path / "a.pdf"
    path.write_bytes(b"%PDF-1.7")
    with pytest.raises(ServerError) as caught:
        api.upload("/datasets/d/documents", path, "a.pdf")
    assert (caught.value.code, caught.value.data) == (500, taken)
    assert message in caught.value.text("en").message


def test_a_success_of_an_old_server_that_is_none(scripted: ScriptedServer, api: Api) -> None:
    """0.22 answers a request without a key with code 0 and `data: false`, and 404 with HTTP 200."""
    scripted.say(http(200, {"code": 0, "data": False, "message": "No Authorization"}))
    with pytest.raises(AuthError):
        api.call("GET", "/datasets")
    scripted.say(http(200, {"code": 100, "message": "<NotFound '404: Not Found'>"}))
    with pytest.raises(ServerError) as caught:
        api.call("GET", "/datasets")
    assert caught.value.id == "ragflow.route-missing"


class Nginx:
    """What listens on port 80 of an installed RAGFlow: the API below /api and /v1, a page for the rest."""

    def __init__(self) -> None:
        self.ports: set[int] = set()
        ports = self.ports

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                ports.add(self.client_address[1])
                known = {
                    "/api/v1/system/version": {"code": 0, "data": "v0.27.0"},
                    "/api/v1/language": {"code": 0, "data": {"language": "python"}},
                    "/api/v1/providers": {"code": 0, "data": []},
                }
                if self.path.startswith(("/api/", "/v1/")):
                    found = known.get(self.path)
                    status = 200 if found else 404
                    body = json.dumps(found or {"code": 404, "message": f"Not Found: {self.path}"}).encode()
                    kind = "application/json"
                else:
                    status, body, kind = 200, PAGE, "text/html"
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"


@pytest.fixture
def nginx() -> Iterator[Nginx]:
    made = Nginx()
    threading.Thread(target=made.server.serve_forever, args=(0.02,), daemon=True).start()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1", "/api/v1/", "/v1", "//"])
def test_the_address_with_and_without_slash_behind_the_web_server(nginx: Nginx, suffix: str) -> None:
    with connect(nginx.url + suffix, "ragflow-test") as ragflow:
        assert (ragflow.server.text, ragflow.server.language) == ("v0.27.0", "python")
        assert ragflow.url == nginx.url


def test_a_page_of_the_web_server_is_no_answer(nginx: Nginx) -> None:
    with pytest.raises(RfctlError) as caught:
        connect(nginx.url + "/kb", "ragflow-test")
    assert (caught.value.id, caught.value.exit_code) == ("ragflow.not-ragflow", 2)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
def test_no_proxy_catches_loopback(
    scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "http://127.0.0.1:9")
    for name in ("127.0.0.1", "localhost"):
        scripted.say(http(200, {"code": 0, "data": [1]}))
        with Api(scripted.url.replace("127.0.0.1", name), "ragflow-test") as api:
            assert api.call("GET", "/x") == [1]


def test_a_proxy_is_used_for_other_hosts(scripted: ScriptedServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", scripted.url)
    monkeypatch.setenv("NO_PROXY", "")
    scripted.say(http(200, {"code": 0, "data": [1]}))
    with Api("http://rag.invalid:9380", "ragflow-test") as api:
        assert api.call("GET", "/x") == [1]
    assert scripted.requests[0].line == "GET http://rag.invalid:9380/api/v1/x HTTP/1.1"


def test_one_session_serves_many_calls(nginx: Nginx) -> None:
    """Connections are kept: the second call needs no new one."""
    with Api(nginx.url, "ragflow-test") as api:
        for _ in range(5):
            api.call("GET", "/providers")
    assert len(nginx.ports) == 1


# -- what a server can do, remembered -------------------------------------------------------------

VERSION = http(200, {"code": 0, "data": "v0.27.0"})
LANGUAGE = http(200, {"code": 0, "data": {"language": "go"}})
PROVIDERS = http(200, {"code": 0, "data": []})
NO_ROUTE = http(404, {"code": 404, "message": "Not Found"})


def lines(server: ScriptedServer) -> list[str]:
    found = [request.line.split()[1].removeprefix("/api/v1") for request in server.requests]
    server.requests.clear()
    return found


def test_what_a_server_can_do_is_asked_once(scripted: ScriptedServer, api: Api, tmp_path: Path) -> None:
    memory = tmp_path / "cache" / "server.json"
    scripted.say(VERSION, LANGUAGE, PROVIDERS)
    first = detect(api, memory)
    assert lines(scripted) == ["/system/version", "/language", "/providers"]
    scripted.say(VERSION)
    assert detect(api, memory) == first
    assert lines(scripted) == ["/system/version"]
    assert "ragflow-test" not in memory.read_text()
    # An upgrade is noticed by the version.
    scripted.say(http(200, {"code": 0, "data": "v0.25.6"}), NO_ROUTE, NO_ROUTE)
    older = detect(api, memory)
    assert (older.version, older.has_providers, older.language) == ((0, 25, 6), False, "")
    assert len(lines(scripted)) == 3
    # Another host has a memory of its own, and the day comes to an end.
    document = json.loads(memory.read_text())
    document[api.url]["time"] -= 100_000
    memory.write_text(json.dumps(document))
    scripted.say(http(200, {"code": 0, "data": "v0.25.6"}), NO_ROUTE, NO_ROUTE)
    assert detect(api, memory) == older
    assert len(lines(scripted)) == 3


@pytest.mark.parametrize(
    "content", ["", "[]", "{", '{"URL": 5}', '{"URL": {"text": "v0.27.0", "time": 9e99}}']
)
def test_a_broken_memory_costs_only_the_questions(
    scripted: ScriptedServer, api: Api, tmp_path: Path, content: str
) -> None:
    memory = tmp_path / "server.json"
    memory.write_text(content.replace("URL", api.url))
    scripted.say(VERSION, LANGUAGE, PROVIDERS)
    assert detect(api, memory).language == "go"
    nowhere = tmp_path / "file" / "below"
    (tmp_path / "file").write_text("")
    scripted.say(VERSION, LANGUAGE, PROVIDERS)
    assert detect(api, nowhere).has_providers


def test_a_refused_server_is_not_remembered(scripted: ScriptedServer, api: Api, tmp_path: Path) -> None:
    memory = tmp_path / "server.json"
    scripted.say(NO_ROUTE, http(200, {"code": 0, "data": "v0.24.0"}))
    with pytest.raises(RfctlError) as caught:
        detect(api, memory)
    assert caught.value.id == "ragflow.too-old"
    assert "docker compose pull" in caught.value.text("en").next
    scripted.say(Step(VERSION), Step(LANGUAGE), http(401, {"code": 401, "message": "x"}))
    with pytest.raises(AuthError):
        detect(api, memory)
    assert not memory.exists()
