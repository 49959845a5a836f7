"""The collectors against real servers: what they find, what they leave out, and how long it takes."""

from __future__ import annotations

import http.server
import json
import socket
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rfctl.stack import collector_http
from rfctl.stack.check import Verdict
from rfctl.stack.collector import Target, collect
from rfctl.stack.collector_http import collect_ollama, collect_ragflow
from rfctl.stack.collector_windows import collect_windows
from rfctl.stack.evidence import write_report
from rfctl.stack.examination import examine
from rfctl.stack.project import SECRETS, Project, initialise
from rfctl.stack.windows import read_distributions, read_excluded

ANSWERS: dict[str, object] = {
    "/api/version": {"version": "0.32.15"},
    "/api/tags": {"models": [{"name": "q:latest"}, {"name": "nomic-embed-text:latest"}]},
    "/api/ps": {"models": []},
    "/api/show": {"template": "{{ .Prompt }}", "capabilities": ["completion"]},
    "/api/chat": {"message": {"role": "assistant", "content": "1"}, "done": True},
    "/api/embed": {"embeddings": [[0.1, 0.2, 0.3]]},
    "/api/v1/auth/login": {"code": 0, "data": {"access_token": "of-a-session"}},
    "/api/v1/system/healthz": {
        "db": "ok",
        "redis": "nok",
        "doc_engine": "ok",
        "storage": "ok",
        "status": "nok",
    },
    "/api/v1/system/version": {"code": 0, "data": "v0.27.0"},
    "/api/v1/datasets": {"code": 0, "data": [{"id": "d1", "name": "m", "embedding_model": "gone@Ollama"}]},
    "/api/v1/datasets/d1/documents": {
        "code": 0,
        "data": {"docs": [{"name": "a.pdf", "run": "FAIL", "update_time": 0}]},
    },
    "/api/v1/chats": {"code": 0, "data": [{"id": "c1", "dataset_ids": [], "prompt": "You are"}]},
}


class Quiet(http.server.BaseHTTPRequestHandler):
    """Answers POST as GET, and writes no log."""

    def do_GET(self) -> None:
        raise NotImplementedError

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.do_GET()

    def answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


class Handler(Quiet):
    keys: list[str] = []
    asked: list[str] = []

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.asked.append(path)
        self.keys.append(self.headers.get("Authorization", ""))
        body = b"pong" if path.endswith("/ping") else json.dumps(ANSWERS.get(path)).encode()
        self.answer(200 if path.endswith("/ping") or path in ANSWERS else 404, body)


@pytest.fixture
def server() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"


def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"http://127.0.0.1:{sock.getsockname()[1]}"


def target(folder: Path, **values: str) -> Target:
    return Target(Project(folder / "stack"), folder / "engine", {"PATH": str(folder)}, **values)


def test_from_servers_to_findings(server: str, tmp_path: Path) -> None:
    where = target(tmp_path, ollama_url=server, ragflow_url=server, api_key="ragflow-secret")
    evidence = collect(where, frozenset({"ollama", "model", "rag", "kb"}))
    found = {finding.id: finding for finding in examine(evidence)}
    verdicts = {id: found[id].verdict.value for id in found}
    wanted = {
        "ollama.up": "ok",
        "model.chat": "ok",
        "model.embed": "ok",
        "model.template": "warn",
        "rag.reachable": "ok",
        "rag.health": "fail",
        "rag.api-key": "ok",
        "rag.version": "ok",
        "rag.default-admin": "fail",
        "kb.embed-match": "fail",
        "kb.stuck": "warn",
        "host.clock": "ok",
    }
    assert {id: verdicts[id] for id in wanted} == wanted
    assert found["model.embed"].params["dimension"] == 3
    text = json.dumps(evidence.values)
    assert "ragflow-secret" not in text
    # Neither the session of the login nor what people wrote into RAGFlow is kept.
    assert "of-a-session" not in text
    assert "You are" not in text


def test_only_loaded_models_are_called_unless_somebody_asks(server: str) -> None:
    Handler.asked.clear()
    values = collect_ollama(server)
    assert "ollama.chat" not in values
    assert not {"/api/chat", "/api/embed"} & set(Handler.asked)
    values = collect_ollama(server, patience=9)
    assert (values["ollama.chat-model"], values["ollama.embed-dimension"]) == ("q:latest", 3)
    ANSWERS["/api/ps"] = {"models": [{"name": "nomic-embed-text:latest", "size": 1}]}
    try:
        values = collect_ollama(server)
    finally:
        ANSWERS["/api/ps"] = {"models": []}
    assert values["ollama.embed-model"] == "nomic-embed-text:latest"
    assert "ollama.chat" not in values


def test_an_address_of_this_machine_is_local(server: str) -> None:
    values = collect_ollama(server.replace("127.0.0.1", "127.0.0.2"))
    assert values["ollama.is-local"]
    # A number of the documentation (RFC 5737), which nobody has.
    assert not collector_http._is_own_address("http://192.0.2.1:11434")
    assert not collector_http._is_own_address("http://model.example:11434")


def test_the_proxy_that_docker_gives_to_containers_is_seen(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        '{"proxies": {"default": {"httpProxy": "http://u:pw123@p:1", "noProxy": "localhost"}}}', "utf-8"
    )
    environment = {"PATH": str(tmp_path), "DOCKER_CONFIG": str(tmp_path)}
    where = Target(Project(tmp_path / "stack"), tmp_path / "engine", environment)
    evidence = collect(where, frozenset({"net"}))
    assert "pw123" not in json.dumps(evidence.values)
    finding = examine(evidence, ["net.proxy"])[0]
    assert finding.text == "doctor.net.proxy.containers"
    assert finding.params == {"found": "httpProxy", "missing": "host.docker.internal"}


def test_the_key_goes_to_ragflow_only(server: str) -> None:
    Handler.keys.clear()
    collect_ollama(server)
    assert set(Handler.keys) == {""}
    Handler.keys.clear()
    collect_ragflow(server, "ragflow-secret")
    assert set(Handler.keys) == {"Bearer ragflow-secret"}


def test_nobody_there_and_nobody_answering_are_told_apart(silent: str) -> None:
    assert collect_ollama(closed())["ollama.version"].error == "refused"
    begun = time.monotonic()
    assert collect_ragflow(silent, "")["ragflow.ping"].error == "timeout"
    assert time.monotonic() - begun < 4


def test_everything_silent_still_ends_in_time(silent: str, tmp_path: Path) -> None:
    begun = time.monotonic()
    evidence = collect(target(tmp_path, ollama_url=silent, ragflow_url=silent))
    assert time.monotonic() - begun < 5.5
    found = {finding.id: finding.verdict.value for finding in examine(evidence)}
    assert (found["ollama.up"], found["rag.reachable"], found["docker.cli"]) == ("fail", "fail", "fail")


def test_the_stack_is_described_without_its_secrets(tmp_path: Path) -> None:
    where = target(tmp_path)
    initialise(where.project, size="small", web_port=int(closed().rpartition(":")[2]))
    evidence = collect(where, frozenset({"rag"}))
    values = where.project.read()
    assert not any(values[name] in json.dumps(evidence.values) for name in SECRETS)
    where.project.env_file.chmod(0o644)
    findings = {finding.id: finding for finding in examine(collect(where, frozenset({"rag"})))}
    assert findings["rag.secrets"].text == "doctor.rag.secrets.mode"
    assert findings["rag.secrets"].fixable


def test_a_taken_port_is_seen(server: str, tmp_path: Path) -> None:
    where = target(tmp_path)
    port = int(server.rpartition(":")[2])
    initialise(where.project, size="small", web_port=port)
    finding = examine(collect(where, frozenset({"net"})), ["net.ports"])[0]
    assert finding.verdict.value == "fail"
    assert str(port) in str(finding.params["found"])


def test_the_report_holds_findings_and_evidence(rfctl: Callable[..., Any], tmp_path: Path) -> None:
    env = {
        "PATH": str(tmp_path),
        "RAGFLOW_API_KEY": "ragflow-0123456789abcdef",
        "HTTPS_PROXY": "http://u:pw123@p:1",
    }
    assert rfctl("doctor", "--only", "host,net", "--report", "report.zip", env=env).code in (0, 5)
    path = tmp_path / "report.zip"
    assert path.stat().st_mode & 0o777 == 0o600
    with zipfile.ZipFile(path) as archive:
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert json.loads(texts["findings.json"])["report"]["findings"][0]["id"] == "host.cpu-arch"
    assert json.loads(texts["evidence.json"])["net.proxies"]["HTTPS_PROXY"] == "set"
    assert not any(secret in text for text in texts.values() for secret in ("0123456789abcdef", "pw123"))
    failed = rfctl("doctor", "--only", "host.cpu-arch", "--report", "/proc/nowhere/x.zip", env=env)
    assert failed.err.splitlines()[1].startswith("error[doctor.report-unwritable]: /proc/nowhere/x.zip ")


JUNK = (
    "{",
    "null",
    "[1, 2]",
    '{"services": 3}',
    '{"ID": 7, "Config": []}',
    "\x00\x01",
    "docker: 'x' is not a command",
)


@pytest.mark.parametrize("text", JUNK)
def test_another_program_called_docker_breaks_nothing(tmp_path: Path, text: str) -> None:
    """Podman's shim and wrappers of one's own print what they like."""
    program = tmp_path / "docker"
    answer = '{"Client": {"Version": "28.0.0"}, "Server": {"Version": "28.0.0"}}'
    body = f"import sys\nprint({answer!r} if sys.argv[1] == 'version' else {text!r})\n"
    program.write_text(f"#!{sys.executable}\n{body}", encoding="utf-8")
    program.chmod(0o755)
    where = target(tmp_path)
    initialise(where.project, size="small", web_port=int(closed().rpartition(":")[2]))
    found = {finding.id: finding for finding in examine(collect(where, frozenset({"docker", "rag", "net"})))}
    assert found["docker.engine"].verdict.value == "ok"
    assert found["docker.compose"].verdict.value in ("unknown", "fail")


def test_passwords_of_an_adopted_project_are_masked_and_json_stays_json(tmp_path: Path) -> None:
    """They are known by the environments of its containers only; one of them is a word of JSON."""
    container = {
        "Id": "c1", "Name": "/docker-ragflow-cpu-1", "RestartCount": 0,
        "State": {"Status": "running", "Health": {"Log": [{"Output": "pw infini_rag_flow"}]}},
        "Path": "redis-server", "Args": ["--requirepass", "infini_rag_flow"],
        "Config": {
            "Image": "x:1", "Cmd": ["--requirepass", "infini_rag_flow"],
            "Env": ["MYSQL_PASSWORD=infini_rag_flow", "A_TOKEN=true", "MAX_TOKENS=8192", "B_SECRET=running"],
            "Labels": {"com.docker.compose.service": "ragflow-cpu", "com.docker.compose.project": "docker"},
        },
        "NetworkSettings": {"Ports": {}},
    }  # fmt: skip
    answers = {
        "version": {"Client": {"Version": "28.0.0"}, "Server": {"Version": "28.0.0"}},
        "ps": {"ID": "c1", "Names": "docker-ragflow-cpu-1"},
        "inspect": [container],
        "logs": "connecting with infini_rag_flow, 8192 tokens",
    }
    (tmp_path / "answers").write_text(json.dumps(answers), encoding="utf-8")
    program = tmp_path / "docker"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        f"found = json.load(open({str(tmp_path / 'answers')!r})).get(sys.argv[1], {{}})\n"
        "print(found if isinstance(found, str) else json.dumps(found))\n",
        encoding="utf-8",
    )
    program.chmod(0o755)
    where = target(tmp_path)
    where.project.directory.mkdir(parents=True)
    (where.project.directory / "adopted.json").write_text('{"project": "docker"}', encoding="utf-8")
    evidence = collect(where, frozenset({"rag"}))
    assert "infini_rag_flow" not in json.dumps(evidence.values)
    assert evidence.command("docker.log.ragflow").out == "connecting with ***, 8192 tokens\n"
    kept = json.loads(evidence.command("docker.inspect").out)[0]
    assert kept["State"]["Health"]["Log"] == [{"Output": "pw ***"}]
    assert (kept["State"]["Status"], "Args" in kept) == ("running", False)
    assert examine(evidence, ["rag.secrets"])[0].params["found"].startswith("MYSQL_PASSWORD (default)")


def test_what_windows_says_is_asked_at_once_and_decoded(tmp_path: Path) -> None:
    """Each program takes its time; UTF-16 and GBK arrive as text."""
    config = tmp_path / "李雷" / ".wslconfig"
    config.parent.mkdir()
    config.write_text("[wsl2]\nmemory=12GB\n", encoding="utf-8")
    answers = {
        "wsl.exe": ("utf-16-le", "  NAME      STATE    VERSION\r\n* Ubuntu    正在运行    2\r\n"),
        "netsh.exe": ("gbk", "协议 tcp 端口排除范围\r\n\r\n      9335        9434\r\n"),
        "cmd.exe": ("utf-16-le", "C:\\Users\\李雷\r\n"),
        "wslpath": ("utf-8", f"{config.parent}\n"),
        "wslinfo": ("utf-8", "nat\n"),
    }
    for name, (encoding, text) in answers.items():
        program = tmp_path / name
        pause = 1.5 if name in ("wsl.exe", "netsh.exe") else 0
        body = f"import sys, time\ntime.sleep({pause})\nsys.stdout.buffer.write({text.encode(encoding)!r})\n"
        program.write_text(f"#!{sys.executable}\n{body}", encoding="utf-8")
        program.chmod(0o755)
    environment = {"PATH": str(tmp_path), "WSL_DISTRO_NAME": "Ubuntu"}
    begun = time.monotonic()
    values = collect_windows(environment, "wsl")
    assert time.monotonic() - begun < 4  # three programs of 1.5 s
    assert values["wsl.config"] == "[wsl2]\nmemory=12GB\n"
    assert [one.name for one in read_distributions(values["wsl.list"])] == ["Ubuntu"]
    assert read_excluded(values["windows.excluded-ports"].out) == ((9335, 9434),)
    assert (values["wsl.networking"].out, values["wsl.distribution"]) == ("nat\n", "Ubuntu")
    assert collect_windows(environment, "linux") == {}


STRANGE = (
    "null",
    "[]",
    "3",
    '"x"',
    "{",
    '{"models": 3}',
    '{"models": [1, {"name": 5, "capabilities": 7}]}',
    '{"data": 1}',
    '{"code": 0, "data": [1, {"id": null}, {"id": "../x"}]}',
    '{"data": {"docs": [1, {"run": "FAIL", "update_time": "x"}]}}',
    '{"code": 0, "data": [{"id": "\\ud800", "name": "\\ud800"}], "models": [{"name": "\\ud800"}]}',
    "\xff\xfe",
)


@pytest.mark.parametrize("text", STRANGE)
def test_a_server_may_answer_anything(tmp_path: Path, text: str) -> None:
    class Strange(Quiet):
        def do_GET(self) -> None:
            self.answer(200, b"pong" if self.path.endswith("/ping") else text.encode("latin-1"))

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Strange)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        where = target(tmp_path, ollama_url=url, ragflow_url=url, api_key="ragflow-secret")
        evidence = collect(where, frozenset({"ollama", "rag", "kb"}))
    finally:
        server.shutdown()
        server.server_close()
    assert {finding.verdict for finding in examine(evidence)} <= set(Verdict)
    write_report(tmp_path / "report.zip", evidence, {})
    with zipfile.ZipFile(tmp_path / "report.zip") as archive:
        json.loads(archive.read("evidence.json"))
