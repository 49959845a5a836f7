"""kill -9 and other bad ends: what was acknowledged is there afterwards."""

from __future__ import annotations

import hashlib
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ragflow_bench import KEY, Bench, Double, Server, bench

HERE = Path(__file__).parent
TEXT = "".join(
    f"Paragraph {number} tells how the pump number {number} is greased.\n" for number in range(400)
)


class Process:
    """The engine in a child process on a fixed port, started again after a kill."""

    def __init__(self, data_dir: Path, double: Double, ollama: Server) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.data_dir = data_dir
        self.bench = Bench(self, double, ollama.url)  # type: ignore[arg-type]
        self.ollama = ollama

    def start(self) -> None:
        command = [sys.executable, str(HERE / "ragflow_child.py"), str(self.port), str(self.data_dir)]
        self.child = subprocess.Popen([*command, self.ollama.url], cwd=HERE)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            assert self.child.poll() is None
            try:
                if self.bench.client.get("/system/healthz").status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.05)
        raise AssertionError("the engine did not start")

    def kill(self) -> None:
        self.child.kill()
        self.child.wait(10)


@pytest.fixture
def process(tmp_path: Path) -> Iterator[Process]:
    double = Double()
    with Server(double.app) as ollama:
        made = Process(tmp_path / "data", double, ollama)
        made.start()
        yield made
        double.gate.set()
        made.kill()
        made.bench.client.close()
        made.bench.plain.close()


def test_kill_9_loses_no_acknowledged_document_and_the_queue_goes_on(process: Process) -> None:
    engine = process.bench
    dataset = str(engine.call("POST", "/datasets", json={"name": "d", "embedding_model": None})["id"])
    documents = engine.upload(dataset, ("a.txt", TEXT.encode()), ("b.txt", b"The code name is Heron."))
    process.kill()  # right after the acknowledgement

    process.start()
    listed = engine.call("GET", f"/datasets/{dataset}/documents")["docs"]
    assert {one["name"] for one in listed} == {"a.txt", "b.txt"}
    engine.double.gate.clear()
    ids = [one["id"] for one in documents]
    engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": ids})
    deadline = time.monotonic() + 10
    while "Finish parsing" not in engine.document(dataset, ids[0])["progress_msg"]:
        assert time.monotonic() < deadline
        time.sleep(0.03)
    process.kill()  # in the middle of the first document, with the second one queued

    engine.double.gate.set()
    process.start()
    for id in ids:
        document = engine.wait(dataset, id)
        assert document["run"] == "DONE", document
        assert document["chunk_count"] > 0
    summary = engine.call("GET", f"/datasets/{dataset}/ingestions/summary")
    assert summary["chunk_num"] == sum(engine.document(dataset, id)["chunk_count"] for id in ids)
    with sqlite3.connect(process.data_dir / "ragflow.sqlite") as connection:
        assert connection.execute("SELECT count(*) FROM chunk").fetchone()[0] == summary["chunk_num"]
        assert connection.execute("SELECT count(*) FROM vector").fetchone()[0] == summary["chunk_num"]
        assert connection.execute("SELECT count(*) FROM task").fetchone()[0] == 0
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_every_acknowledged_upload_outlives_a_kill_at_any_moment(process: Process) -> None:
    """Uploads run while the process is killed again and again; what got code 0 is there, byte for byte."""
    engine = process.bench
    dataset = str(engine.call("POST", "/datasets", json={"name": "d"})["id"])
    acknowledged: dict[str, bytes] = {}
    stop = threading.Event()

    def send(name: str) -> None:
        number = 0
        with httpx.Client(base_url=f"{process.url}/api/v1", trust_env=False, timeout=5) as client:
            while not stop.is_set():
                number += 1
                data = f"{name} {number} ".encode() * 5000
                try:
                    answer = client.post(
                        f"/datasets/{dataset}/documents",
                        files={"file": (f"{name}.txt", data)},
                        headers={"Authorization": f"Bearer {KEY}"},
                    ).json()
                except (httpx.HTTPError, ValueError):
                    time.sleep(0.01)
                    continue
                acknowledged[answer["data"][0]["id"]] = data

    senders = [threading.Thread(target=send, args=(name,)) for name in ("a", "b")]
    for sender in senders:
        sender.start()
    try:
        for delay in (0.21, 0.13, 0.34):
            time.sleep(delay)
            process.kill()
            process.start()
        time.sleep(0.1)
    finally:
        stop.set()
        for sender in senders:
            sender.join(20)
    process.kill()
    process.start()
    assert len(acknowledged) > 10
    for id, data in acknowledged.items():
        assert (process.data_dir / "document" / id).read_bytes() == data
        assert engine.document(dataset, id)["size"] == len(data)
    assert not list((process.data_dir / "document").glob("*.partial"))
    names = [row["name"] for row in _documents(process.data_dir)]
    assert len(names) == len(set(names))


def _documents(data_dir: Path) -> list[sqlite3.Row]:
    with sqlite3.connect(data_dir / "ragflow.sqlite") as connection:
        connection.row_factory = sqlite3.Row
        return connection.execute("SELECT * FROM document").fetchall()


def test_an_upload_that_is_cut_off_leaves_nothing(process: Process) -> None:
    engine = process.bench
    dataset = str(engine.call("POST", "/datasets", json={"name": "d"})["id"])
    body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.txt"\r\n\r\n' + b"x" * 100_000
    head = (
        f"POST /api/v1/datasets/{dataset}/documents HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {KEY}\r\n"
        f"Content-Type: multipart/form-data; boundary=b\r\nContent-Length: {10 * len(body)}\r\n\r\n"
    )
    folder = process.data_dir / "document"
    with socket.create_connection(("127.0.0.1", process.port)) as connection:
        connection.sendall(head.encode() + body)
        deadline = time.monotonic() + 10
        while not list(folder.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
    while list(folder.iterdir()):  # the connection is gone: so is the file
        assert time.monotonic() < deadline
        time.sleep(0.02)
    # The same, but the process dies first: the next start sweeps.
    with socket.create_connection(("127.0.0.1", process.port)) as connection:
        connection.sendall(head.encode() + body)
        while not list(folder.iterdir()):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.kill()
    assert list(folder.iterdir())
    process.start()
    assert list(folder.iterdir()) == []
    assert engine.call("GET", f"/datasets/{dataset}/documents") == {"docs": [], "total": 0}


def test_files_of_a_database_that_was_moved_away_stay(tmp_path: Path) -> None:
    with bench(tmp_path) as engine:
        dataset = engine.create_dataset("d")
        document = engine.upload(dataset, ("a.txt", b"some text"))[0]
    for path in tmp_path.glob("ragflow.sqlite*"):
        path.unlink()
    time.sleep(0.01)
    with bench(tmp_path) as engine:
        assert engine.call("GET", "/datasets") == []
        assert (tmp_path / "document" / document["id"]).read_bytes() == b"some text"


def test_a_document_that_always_ends_the_engine_fails_in_the_end(tmp_path: Path) -> None:
    with bench(tmp_path) as engine:
        dataset = engine.create_dataset("d")
        document = engine.upload(dataset, ("a.txt", b"some text"))[0]
        engine.double.gate.clear()
        engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [document["id"]]})
    with sqlite3.connect(tmp_path / "ragflow.sqlite") as connection:
        connection.execute("UPDATE task SET attempt = 3")
        connection.execute("UPDATE document SET run = 'RUNNING'")
        connection.execute(
            "INSERT OR IGNORE INTO task (document_id, generation, attempt, create_time)"
            " SELECT id, generation, 3, 0 FROM document"
        )
        connection.commit()
    connection.close()
    with bench(tmp_path, registered=False) as engine:
        failed = engine.wait(dataset, document["id"])
        assert failed["run"] == "FAIL"
        assert "[ERROR]Parsing was interrupted 3 times" in failed["progress_msg"]
        assert engine.upload(dataset, ("b.txt", b"x"))[0]["run"] == "UNSTART"


def test_a_large_upload_does_not_grow_the_process(process: Process, tmp_path: Path) -> None:
    """200 MiB in one request: the resident set grows by less than 32 MiB, and the bytes are right."""
    status = Path(f"/proc/{process.child.pid}/status")
    if not status.exists():
        pytest.skip("no /proc on this platform")
    engine = process.bench
    dataset = str(engine.call("POST", "/datasets", json={"name": "d"})["id"])
    engine.upload(dataset, ("warm.txt", b"x"))

    def peak() -> int:
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024

    before = peak()
    path = tmp_path / "large.txt"
    piece = bytes(range(256)) * 4096
    with path.open("wb") as file:
        for _ in range(200):
            file.write(piece)
    with path.open("rb") as file:
        added = engine.call("POST", f"/datasets/{dataset}/documents", files={"file": ("large.txt", file)})
    assert peak() - before < 32 << 20
    stored = process.data_dir / "document" / added[0]["id"]
    with path.open("rb") as left, stored.open("rb") as right:
        assert hashlib.file_digest(left, "sha256").digest() == hashlib.file_digest(right, "sha256").digest()
    assert added[0]["size"] == 200 * len(piece)
