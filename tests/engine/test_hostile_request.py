"""What a web page, another program or a hostile model may not do to the engine."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from engine_process import Engine
from tiny_model import write_chat_model

from rfctl.core.gguf_header import GgufError, read_header
from rfctl.engine import daemon
from rfctl.engine.host_check import is_allowed_host, is_allowed_origin, is_same_address
from rfctl.engine.ollama import go_execute, go_template

EVIL = {"Origin": "http://evil.example", "Content-Type": "text/plain"}


@pytest.fixture(scope="module")
def model(engine: Engine, tiny_chat: Path) -> str:
    engine.create("tiny", tiny_chat)
    return "tiny"


@pytest.fixture(scope="module")
def open_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """An engine that the whole network can reach."""
    directory = tmp_path_factory.mktemp("open")
    status = daemon.start(directory, host="0.0.0.0")
    try:
        yield Engine(directory, status.url)
    finally:
        daemon.stop(directory)


def test_who_may_ask() -> None:
    assert all(map(is_allowed_host, ("localhost:1", "127.0.0.1:1", "[::1]:1", "192.168.1.5", "pc.local", "")))
    assert not any(
        map(is_allowed_host, ("evil.example:1", "localhost.evil.example", "8.8.8.8", "127.0.0.1.x"))
    )
    assert all(
        map(is_allowed_origin, ("", "http://localhost:3000", "https://127.0.0.1", "app://x", "file://"))
    )
    assert not any(
        map(is_allowed_origin, ("null", "http://evil.example", "http://[", "http://localhost.evil.x"))
    )
    assert is_same_address("http://10.0.0.5:80", "10.0.0.5:80")
    assert not is_same_address("http://evil.example:80", "evil.example:80")
    assert not is_same_address("http://10.0.0.5", "10.0.0.5:80")


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://["])
def test_a_page_of_another_site_is_refused(engine: Engine, origin: str) -> None:
    with engine.client() as http:
        answer = http.request("DELETE", "/api/delete", json={"model": "x"}, headers={"Origin": origin})
        assert (answer.status_code, answer.content) == (403, b"")
        assert http.get("/api/v1/datasets", headers={"Origin": origin}).status_code == 403
        assert http.get("/api/tags", headers={"Host": "evil.example"}).status_code == 403


def test_an_engine_open_to_the_network_is_not_open_to_web_pages(open_engine: Engine) -> None:
    """A form of a page can send text/plain to a private address without asking: only Origin tells."""
    port = urlsplit(open_engine.url).port
    with open_engine.client() as http:
        body = json.dumps({"source": "a", "destination": "b"})
        assert http.post("/api/copy", content=body, headers=EVIL).status_code == 403
        rebound = {"Host": f"evil.example:{port}", "Origin": f"http://evil.example:{port}"}
        assert http.get("/api/tags", headers=rebound).status_code == 403
        preflight = http.options("/api/copy", headers={**EVIL, "Access-Control-Request-Method": "POST"})
        assert "access-control-allow-origin" not in preflight.headers
        # Clients of the network name it as they like and send no origin.
        assert http.get("/api/tags", headers={"Host": f"engine.lan:{port}"}).status_code == 200
        own = http.get("/api/tags", headers={"Origin": f"http://127.0.0.1:{port}"})
        assert own.headers["access-control-allow-origin"] == f"http://127.0.0.1:{port}"


@pytest.mark.parametrize("keep_alive", ["100000000h", 1e300, "9" * 400 + "h", 10**400, "1e999"])
def test_no_keep_alive_hides_the_engine(engine: Engine, model: str, keep_alive: object) -> None:
    sent = keep_alive if keep_alive == "1e999" else json.dumps(keep_alive)
    with engine.client() as http:
        http.post("/api/generate", content=f'{{"model": "{model}", "keep_alive": {sent}}}').raise_for_status()
        (loaded,) = http.get("/api/ps").json()["models"]
        assert loaded["expires_at"] > "2026"
    assert daemon.status(engine.directory).running


def test_numbers_without_measure_do_not_end_the_model(engine: Engine, model: str) -> None:
    options = {"num_thread": 10**6, "num_ctx": 10**9, "num_batch": 10**9, "top_k": 2**31, "num_predict": 2}
    options |= {"repeat_last_n": 2**31 - 1, "temperature": 1e300, "seed": -(10**30)}
    body = {"model": model, "messages": [{"role": "user", "content": "s"}], "stream": False}
    with engine.client() as http:
        answer = http.post("/api/chat", json={**body, "options": options})
        assert answer.status_code == 200, answer.text
        infinite = http.post(
            "/api/chat",
            content='{"model": "tiny", "messages": [{"role": "user"}], "options": {"num_ctx": 1e999}}',
        )
        assert infinite.status_code == 500
        assert "num_ctx" in infinite.json()["error"]
        digits = http.post("/api/chat", content='{"model": "tiny", "x": ' + "9" * 10_000 + "}")
        assert digits.status_code == 400


@pytest.mark.parametrize(
    "template",
    [
        '{{ $x := "aaaaaaaaaaaaaaaa" }}' + '{{ $x = printf "%s%s" $x $x }}' * 40 + "{{ len $x }}",
        "{{ range $.Messages }}" * 4 + "x" + "{{ end }}" * 4,
        '{{ $x := "a" }}' + "{{ range $.Messages }}" * 2 + "{{ $x = print $x $x $x }}" + "{{ end }}" * 2,
    ],
)
def test_a_template_has_limits(template: str) -> None:
    begin = time.process_time()
    with pytest.raises(go_template.TemplateError):
        go_execute.execute(go_template.parse(template), {"Messages": [{"Role": "user"}] * 100})
    assert time.process_time() - begin < 12


@pytest.mark.parametrize(
    "template",
    [
        "{{ print " + "1 " * 100_000 + "}}",
        "{{ " + "print 1 | " * 50_000 + "print }}",
        "\n{{ .A }}" * 60_000,
        "{{/* a */}}" * 60_000,
    ],
)
def test_a_template_is_parsed_in_time_that_grows_with_it(template: str) -> None:
    begin = time.process_time()
    go_template.parse(template)
    assert time.process_time() - begin < 6


@pytest.mark.parametrize(
    "template", ["{{ " + "9" * 5000 + " }}", "a" * ((1 << 20) + 1), "{{ " + "(" * 5000 + " }}"]
)
def test_a_template_without_sense_is_refused(template: str) -> None:
    with pytest.raises(go_template.TemplateError):
        go_template.parse(template)


def test_a_header_with_an_absurd_context_stops_no_other_model(
    engine: Engine, tmp_path: Path, tiny_embedding: Path
) -> None:
    """The knowledge-base half lists every model of the store: none may break the list."""
    engine.create("absurd", write_chat_model(tmp_path / "absurd.gguf", context_length=2**64 - 1))
    engine.create("words", tiny_embedding)
    key = {"Authorization": f"Bearer {daemon.read_api_key(engine.directory)}"}
    with engine.client() as http:
        body = {"name": "absurd", "embedding_model": "words:latest@local@Ollama"}
        made = http.post("/api/v1/datasets", json=body, headers=key).json()
        assert made["code"] == 0, made


def test_a_header_of_very_many_values_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "many.gguf"
    pair = b"".join(struct.pack("<Q", 4) + b"%04x" % n + struct.pack("<IB", 0, 1) for n in range(1 << 16))
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, (1 << 16) + 1)
    path.write_bytes(head + pair + struct.pack("<Q", 1) + b"z" + struct.pack("<IB", 0, 1))
    with pytest.raises(GgufError) as caught:
        read_header(path)
    assert caught.value.id == "gguf.count"


def test_a_header_with_a_text_of_a_film_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "long.gguf"
    size = (16 << 20) + 1
    head = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IQ", 8, size)
    with path.open("wb") as file:
        file.write(head)
        file.truncate(len(head) + size)
    with pytest.raises(GgufError) as caught:
        read_header(path)
    assert caught.value.id == "gguf.name-too-long"


def test_a_request_that_stops_coming_is_ended(tmp_path: Path) -> None:
    """Connections are few: silent ones must not keep others out."""
    code = (
        "import sys; from pathlib import Path; from rfctl.engine import daemon, server;"
        "server.SILENCE_SECONDS = 0.5;"
        "daemon.serve(Path(sys.argv[1]), on_ready=lambda url: print(url, flush=True))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        place = urlsplit(process.stdout.readline().strip())
        address = (place.hostname or "", place.port or 0)
        head = b"POST /api/show HTTP/1.1\r\nHost: localhost\r\nContent-Length: 10\r\n\r\n{"
        for start in (b"", b"GET /api/tags HTTP/1.1\r\nHost: ", head):
            with socket.create_connection(address, 10) as connection:
                connection.sendall(start)
                begin = time.monotonic()
                connection.settimeout(10)
                try:
                    while connection.recv(4096):
                        pass
                except ConnectionResetError:
                    pass
                assert time.monotonic() - begin < 8
        # A long answer to a whole request is not silence of the client's.
        with httpx.Client(base_url=place.geturl(), trust_env=False) as http:
            assert http.get("/api/tags").status_code == 200
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        ("{{ 'a' * 10000000000 }}", "repetition"),
        ("{% for i in range(1000000000) %}{% endfor %}x", "Range"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "Recursion"),
    ],
)
def test_a_model_whose_template_has_no_end_is_not_loaded(
    engine: Engine, tmp_path: Path, template: str, reason: str
) -> None:
    """llama.cpp renders the template while it loads the model: the machine's memory would go with it."""
    engine.create("endless", write_chat_model(tmp_path / "endless.gguf", template=template))
    body = {"model": "endless", "messages": [{"role": "user", "content": "s"}], "stream": False}
    with engine.client() as http:
        answer = http.post("/api/chat", json=body)
        assert answer.status_code == 500
        assert reason in answer.json()["error"]
        loaded = http.post("/api/generate", json={"model": "endless"})
        assert reason in loaded.json()["error"]


def test_a_template_that_only_transformers_refuses_is_llama_cpps_to_render(
    engine: Engine, tmp_path: Path
) -> None:
    template = (
        "{% set found = [] %}{% for m in messages %}{% set _ = found.append(m.content) %}{% endfor %}"
        "{{ found | join(' ') }}"
    )
    engine.create("appending", write_chat_model(tmp_path / "appending.gguf", template=template))
    body = {"model": "appending", "messages": [{"role": "user", "content": "s"}], "stream": False}
    with engine.client() as http:
        answer = http.post("/api/chat", json=body | {"options": {"num_predict": 1}})
    assert answer.status_code == 200, answer.text


def test_a_template_that_hangs_on_some_words_ends_with_its_worker(tmp_path: Path) -> None:
    template = (
        "{% for m in messages %}{% if m.content == 'zz' %}{% for i in range(90000) %}"
        "{% for j in range(90000) %}{% endfor %}{% endfor %}{% endif %}{{ m.content }}{% endfor %}"
    )
    code = (
        "import sys; from pathlib import Path; from rfctl.engine import daemon;"
        "from rfctl.engine.ollama import backend; backend.TEMPLATE_SECONDS = 1.5;"
        "daemon.serve(Path(sys.argv[1]), on_ready=lambda url: print(url, flush=True))"
    )
    home = tmp_path / "home"
    process = subprocess.Popen([sys.executable, "-c", code, str(home)], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    try:
        engine = Engine(home, process.stdout.readline().strip())
        engine.create("late", write_chat_model(tmp_path / "late.gguf", template=template))
        with engine.client() as http:

            def ask(text: str) -> httpx.Response:
                message = {"role": "user", "content": text}
                body = {
                    "model": "late",
                    "messages": [message],
                    "stream": False,
                    "options": {"num_predict": 1},
                }
                return http.post("/api/chat", json=body)

            assert ask("s").status_code == 200
            answer = ask("zz")
            assert (answer.status_code, "1.5 s" in answer.json()["error"]) == (500, True)
            assert http.get("/api/ps").json() == {"models": []}
            assert ask("s").status_code == 200
    finally:
        process.terminate()
        process.wait(20)


@pytest.mark.skipif(os.name == "nt", reason="modes of files")
def test_the_folder_is_the_owners(engine: Engine) -> None:
    assert (engine.directory / "api_key").stat().st_mode & 0o077 == 0
