"""Crashes, kills and damaged models: the engine keeps answering, the store stays valid."""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from engine_process import Engine
from tiny_model import write_chat_model

from rfctl.engine import daemon, worker
from rfctl.engine.home import EngineError
from rfctl.ollama.name import parse_name
from rfctl.ollama.store import ModelStore

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals and reads /proc")

OPTIONS = {"num_predict": 2, "temperature": 0}


def children(pid: int) -> list[int]:
    """Process ids of the workers of an engine."""
    tasks = Path(f"/proc/{pid}/task")
    found: list[int] = []
    for task in tasks.iterdir():
        with contextlib.suppress(OSError):
            found += [int(child) for child in (task / "children").read_text().split()]
    return found


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def chat(engine: Engine, model: str, **fields: object) -> httpx.Response:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "stream": False}
    with engine.client() as http:
        return http.post("/api/chat", json={**body, "options": OPTIONS, **fields})


def wait_until(condition: object, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def ready(engine: Engine, tiny_chat: Path) -> Engine:
    engine.create("chat", tiny_chat)
    return engine


def test_a_killed_worker_costs_one_answer(ready: Engine) -> None:
    assert chat(ready, "chat").status_code == 200
    status = daemon.status(ready.directory)
    workers = children(status.pid)
    assert len(workers) == 1
    answers: list[httpx.Response] = []
    os.kill(workers[0], signal.SIGSTOP)
    thread = threading.Thread(target=lambda: answers.append(chat(ready, "chat")))
    thread.start()
    time.sleep(0.3)
    assert answers == []
    os.kill(workers[0], signal.SIGKILL)
    thread.join(timeout=20)
    assert answers[0].status_code == 500
    assert answers[0].json()["error"].startswith("llama-server process has terminated: signal: killed")
    assert chat(ready, "chat").status_code == 200
    assert daemon.status(ready.directory).pid == status.pid


def test_a_worker_killed_in_a_stream_ends_it_with_an_error(ready: Engine) -> None:
    chat(ready, "chat")
    (worker,) = children(daemon.status(ready.directory).pid)
    body = {
        "model": "chat",
        "messages": [{"role": "user", "content": "hi"}],
        "options": {"num_predict": 1_000_000, "temperature": 0},
    }
    with ready.client() as http, http.stream("POST", "/api/chat", json=body) as response:
        lines = response.iter_lines()
        next(lines)
        os.kill(worker, signal.SIGKILL)
        last = list(lines)[-1]
    assert response.status_code == 200
    assert last.startswith('{"error":"llama-server process has terminated')


def test_a_model_that_crashes_again_and_again_is_left_alone(ready: Engine, tmp_path: Path) -> None:
    ready.create("unlucky", write_chat_model(tmp_path / "m.gguf", context_length=1024))
    for _ in range(3):
        assert chat(ready, "unlucky").status_code == 200
        os.kill(children(daemon.status(ready.directory).pid)[-1], signal.SIGKILL)
        time.sleep(0.2)
    refused = chat(ready, "unlucky")
    assert refused.status_code == 500
    assert "3 times within a minute" in refused.json()["error"]
    assert chat(ready, "chat").status_code == 200


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"block_count": 100000}, "block_count is 100000"),
        ({"context_length": 0}, "context_length is 0"),
        ({"block_count": 2}, "tensor 'blk.1.attn_norm.weight' not found"),
        ({"pre": "nonsense"}, "unknown pre-tokenizer type: 'nonsense'"),
    ],
)
def test_damaged_models_are_refused_with_the_reason(
    ready: Engine, tmp_path: Path, fields: dict[str, object], reason: str
) -> None:
    ready.create("damaged", write_chat_model(tmp_path / "m.gguf", **fields))  # type: ignore[arg-type]
    answer = chat(ready, "damaged")
    assert answer.status_code == 500
    assert reason in answer.json()["error"]
    assert chat(ready, "chat").status_code == 200


def test_keep_alive_ends_the_worker(ready: Engine) -> None:
    pid = daemon.status(ready.directory).pid
    chat(ready, "chat", keep_alive="200ms")
    assert children(pid)
    wait_until(lambda: not children(pid))
    chat(ready, "chat", keep_alive=-1)
    assert chat(ready, "chat", keep_alive=0).status_code == 200
    wait_until(lambda: not children(pid))


def test_no_more_than_three_models_are_loaded(ready: Engine, tmp_path: Path) -> None:
    for number in range(5):
        ready.create(f"m{number}", write_chat_model(tmp_path / "m.gguf", context_length=300 + number))
        assert chat(ready, f"m{number}").status_code == 200
    models = daemon.status(ready.directory).models
    assert models == ("m4:latest", "m3:latest", "m2:latest")


def test_a_replaced_blob_is_not_served_from_memory(ready: Engine, tmp_path: Path) -> None:
    ready.create("swap", write_chat_model(tmp_path / "a.gguf", context_length=700))
    chat(ready, "swap")
    ready.create("swap", write_chat_model(tmp_path / "b.gguf", context_length=800))
    chat(ready, "swap")
    with ready.client() as http:
        loaded = [model for model in http.get("/api/ps").json()["models"] if model["name"] == "swap:latest"]
    assert [model["context_length"] for model in loaded] == [800]


def test_a_deleted_model_ends_with_its_last_user(ready: Engine, tmp_path: Path) -> None:
    ready.create("gone", write_chat_model(tmp_path / "m.gguf", context_length=900))
    pid = daemon.status(ready.directory).pid
    chat(ready, "chat", keep_alive=0)
    body = {"model": "gone", "messages": [{"role": "user", "content": "hi"}]}
    body["options"] = {"num_predict": 1_000_000, "temperature": 0}  # type: ignore[assignment]
    with ready.client() as http, http.stream("POST", "/api/chat", json=body) as response:
        next(response.iter_lines())
        with ready.client() as other:
            other.request("DELETE", "/api/delete", json={"model": "gone"}).raise_for_status()
        assert "gone:latest" not in daemon.status(ready.directory).models
    wait_until(lambda: "gone" not in str(daemon.status(ready.directory).models) and len(children(pid)) <= 2)
    with ready.client() as http:
        assert http.post("/api/chat", json=body).status_code == 404


def test_requests_with_different_contexts_take_turns(ready: Engine) -> None:
    answers: list[int] = []
    threads = [
        threading.Thread(
            target=lambda size=size: answers.append(
                chat(ready, "chat", options=OPTIONS | {"num_ctx": size}).status_code
            )
        )
        for size in (256, 512, 256, 1024, 512, 256)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert answers == [200] * 6


def test_giving_up_while_a_model_loads_leaves_no_process(ready: Engine) -> None:
    pid = daemon.status(ready.directory).pid
    for _ in range(3):
        assert chat(ready, "chat", keep_alive=0).status_code == 200
        with contextlib.suppress(httpx.TimeoutException):
            httpx.post(f"{ready.url}/api/generate", json={"model": "chat"}, timeout=0.08, trust_env=False)
    loaded = len(daemon.status(ready.directory).models)
    wait_until(lambda: len(children(pid)) <= max(loaded, len(daemon.status(ready.directory).models)))
    assert chat(ready, "chat").status_code == 200


# -- the engine itself --------------------------------------------------------------------------


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    directory = tmp_path / "engine"
    yield directory
    daemon.stop(directory)


def test_start_status_stop(home: Path) -> None:
    assert not daemon.status(home).running
    assert daemon.stop(home) is False
    first = daemon.start(home)
    assert daemon.start(home).pid == first.pid
    assert first.api_key_file.stat().st_mode & 0o777 == 0o600
    assert daemon.read_api_key(home).startswith("ragflow-")
    assert daemon.stop(home) is True
    assert not daemon.status(home).running
    assert daemon.start(home).url == first.url
    assert any("ready at" in line for line in daemon.read_log(home, 5))


def test_two_starts_at_once_give_one_engine(home: Path) -> None:
    found: list[daemon.Status] = []
    threads = [threading.Thread(target=lambda: found.append(daemon.start(home))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({status.pid for status in found}) == 1


def test_one_key_for_all_who_ask_first(tmp_path: Path) -> None:
    code = "import sys; from pathlib import Path; from rfctl.engine import daemon\n"
    code += "print(daemon.read_api_key(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(tmp_path / "new")]
    asking = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    keys = {process.communicate(timeout=30)[0] for process in asking}
    assert len(keys) == 1
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o700


def test_an_empty_key_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "api_key").touch()
    with pytest.raises(EngineError) as error:
        daemon.read_api_key(tmp_path)
    assert error.value.id == "engine.key-damaged"


def test_a_second_server_is_refused(home: Path) -> None:
    running = daemon.start(home)
    with pytest.raises(EngineError) as error:
        daemon.serve(home)
    assert error.value.id == "engine.running"
    assert daemon.status(home).pid == running.pid


def test_a_killed_engine_takes_its_workers_along_and_starts_again(home: Path, tiny_chat: Path) -> None:
    status = daemon.start(home)
    engine = Engine(home, status.url)
    engine.create("chat", tiny_chat)
    chat(engine, "chat")
    (worker,) = children(status.pid)
    os.kill(status.pid, signal.SIGKILL)
    wait_until(
        lambda: not Path(f"/proc/{worker}").exists() or "Z" in Path(f"/proc/{worker}/stat").read_text()
    )
    wait_until(lambda: not daemon.status(home).running)
    again = daemon.start(home)
    assert again.url == status.url
    assert chat(Engine(home, again.url), "chat").status_code == 200


def test_kills_during_uploads_and_creates_leave_a_valid_store(home: Path, tiny_chat: Path) -> None:
    content = tiny_chat.read_bytes()
    for delay in (0.0, 0.02, 0.05, 0.1):
        status = daemon.start(home)
        engine = Engine(home, status.url)
        acknowledged: list[str] = []

        def work(engine: Engine = engine, acknowledged: list[str] = acknowledged) -> None:
            with contextlib.suppress(httpx.HTTPError):
                for number in range(1000):
                    path = home / "upload"
                    path.write_bytes(content + bytes(number % 256))
                    engine.create(f"m{number}", path)
                    acknowledged.append(f"m{number}")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(0.15 + delay)
        os.kill(status.pid, signal.SIGKILL)
        thread.join()
        store = ModelStore(home / "models")
        for name in acknowledged:
            model = store.read(parse_name(name))
            assert model is not None
            for layer in (model.manifest.config, *model.manifest.layers):
                data = store.blob_path(layer.digest).read_bytes()
                assert "sha256:" + hashlib.sha256(data).hexdigest() == layer.digest
        wait_until(lambda: not daemon.status(home).running)
    daemon.start(home)
    assert not list((home / "models/blobs").glob("*.partial"))


def test_a_full_disk_is_an_error_answer(home: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from rfctl.engine import daemon\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (3 << 20, -1))\n"
        "daemon.serve(Path(sys.argv[1]))\n"
    )
    server = subprocess.Popen([sys.executable, "-c", code, str(home)])
    try:
        wait_until(lambda: daemon.status(home).running, 30)
        with httpx.Client(base_url=daemon.status(home).url, trust_env=False, timeout=30) as http:
            content = b"x" * (8 << 20)
            digest = hashlib.sha256(content).hexdigest()
            answer = http.post(f"/api/blobs/sha256:{digest}", content=content)
            assert answer.status_code == 500
            assert "no space left on device" in answer.json()["error"]
            assert http.get("/api/tags").status_code == 200
        assert list((home / "models/blobs").iterdir()) == []
    finally:
        server.terminate()
        server.wait(timeout=20)


def test_a_taken_port_and_an_address_of_elsewhere_are_told_as_such(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind((daemon.LOOPBACK, 0))
        other.listen()
        with pytest.raises(EngineError) as caught:
            daemon.start(tmp_path, port=other.getsockname()[1])
    assert caught.value.id == "engine.port-taken"
    with pytest.raises(EngineError) as caught:
        daemon.start(tmp_path, host="192.0.2.1")
    assert caught.value.id == "engine.port-taken"
    assert not daemon.status(tmp_path).running


def test_copies_of_a_sliding_window_stay_far_below_the_memory_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp keeps one for every turn of a conversation; one of Gemma 3 27B has 52 layers, 1024 tokens,
    16 heads of 128 numbers, keys and values in two bytes."""
    xllamacpp = pytest.importorskip("xllamacpp")
    for name in ("OMP_WAIT_POLICY", "GGML_NO_BACKTRACE"):
        monkeypatch.setenv(name, "")
    monkeypatch.setattr(xllamacpp, "Server", lambda params: params)
    numbers = dict.fromkeys(("num_ctx", "num_batch", "num_ubatch", "num_keep", "num_thread"), 1)
    params = worker._load({"path": "a", "is_embedding": False, "api_key": "k", **numbers})
    largest = 52 * 1024 * 16 * 128 * 2 * 2
    assert 0 < params.n_ctx_checkpoints * largest < worker._SPARE_BYTES / 2
