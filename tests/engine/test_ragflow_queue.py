"""The database and the queue while documents are stopped, deleted and started anew."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ragflow_bench import Bench, bench

from rfctl.engine.ragflow.database import SCHEMA_VERSION, Database, DatabaseError

TEXT = "".join(f"Line {number} of the manual about valve {number}.\n" for number in range(300)).encode()


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path) as made:
        yield made


def begin(engine: Bench) -> tuple[str, str]:
    """A document whose embedding waits at the gate."""
    dataset = engine.create_dataset("d")
    id = engine.upload(dataset, ("a.txt", TEXT))[0]["id"]
    engine.double.gate.clear()
    engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [id]})
    deadline = time.monotonic() + 10
    while "Generate" not in engine.document(dataset, id)["progress_msg"]:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return dataset, str(id)


def test_stop_in_the_middle_then_start_again(engine: Bench) -> None:
    dataset, id = begin(engine)
    engine.call("DELETE", f"/datasets/{dataset}/chunks", json={"document_ids": [id]})
    stopped = engine.document(dataset, id)
    assert (stopped["run"], stopped["progress"], stopped["chunk_count"]) == ("CANCEL", 0.0, 0)
    assert stopped["progress_msg"].endswith("Task stopped by user.")
    engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [id]})
    engine.double.gate.set()
    done = engine.wait(dataset, id)
    assert (done["run"], done["progress"]) == ("DONE", 1.0)
    assert done["chunk_count"] > 10
    assert engine.call("GET", f"/datasets/{dataset}")["chunk_count"] == done["chunk_count"]
    # A DONE document started again has the same chunks, not twice as many.
    engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [id]})
    assert engine.wait(dataset, id)["chunk_count"] == done["chunk_count"]


def test_delete_in_the_middle(engine: Bench, tmp_path: Path) -> None:
    dataset, id = begin(engine)
    other = engine.upload(dataset, ("b.txt", b"other text"))[0]["id"]
    engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [other]})
    engine.call("DELETE", f"/datasets/{dataset}/documents", json={"ids": [id]})
    engine.double.gate.set()
    assert engine.wait(dataset, other)["run"] == "DONE"
    assert engine.call("GET", f"/datasets/{dataset}")["chunk_count"] == 1
    assert [path.name for path in (tmp_path / "document").iterdir()] == [other]
    engine.call("DELETE", "/datasets", json={"ids": [dataset]})
    with sqlite3.connect(tmp_path / "ragflow.sqlite") as connection:
        for table in ("dataset", "document", "task", "chunk", "vector"):
            assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,), table
        assert connection.execute(
            "SELECT count(*) FROM chunk_text WHERE chunk_text MATCH 'text'"
        ).fetchone() == (0,)
    assert list((tmp_path / "document").iterdir()) == []


def test_other_dimension_in_one_dataset_is_refused(engine: Bench) -> None:
    dataset = engine.create_dataset("d")
    first = engine.upload(dataset, ("a.txt", b"first"))[0]
    engine.call("POST", f"/datasets/{dataset}/chunks", json={"document_ids": [first["id"]]})
    assert engine.wait(dataset, first["id"])["run"] == "DONE"
    answer = engine.client.put(
        f"/datasets/{dataset}", json={"embedding_model": "multilingual-e5-small:latest@local@Ollama"}
    ).json()
    assert answer["code"] == 102
    assert answer["message"].startswith("When chunk_num (1) > 0, embedding_model must remain")


def test_the_queue_says_how_many_are_ahead(engine: Bench, tmp_path: Path) -> None:
    dataset, _ = begin(engine)
    waiting = engine.upload(dataset, ("b.txt", b"other text"))[0]["id"]
    engine.call("POST", f"/datasets/{dataset}/documents/parse", json={"document_ids": [waiting]})
    assert engine.document(dataset, waiting)["progress_msg"] == "Task is queued..."
    with sqlite3.connect(tmp_path / "ragflow.sqlite") as connection:
        connection.execute(
            "UPDATE document SET process_begin_at = process_begin_at - 10000 WHERE id = ?", (waiting,)
        )
    connection.close()
    assert engine.document(dataset, waiting)["progress_msg"] == "1 tasks are ahead in the queue..."
    status = engine.call("GET", "/system/status")
    assert status["task_executor_heartbeats"]["rfctl_worker_0"][0]["pending"] == 2


def test_a_transaction_that_fails_leaves_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "x.sqlite")

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO tenant VALUES ('a', 'b', 1)")
        raise RuntimeError("stop")

    async def run() -> int:
        with pytest.raises(RuntimeError):
            await database.write(work)
        rows = await database.read(lambda connection: connection.execute("SELECT * FROM tenant").fetchall())
        return len(rows)

    assert asyncio.run(run()) == 0
    database.close()


def test_a_file_of_a_newer_release_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    Database(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(DatabaseError, match="newer"):
        Database(path)
    assert path.read_bytes() == before


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "x.sqlite"
    path.write_bytes(b"this is not a database, by any means" * 100)
    with pytest.raises(DatabaseError, match="unreadable"):
        Database(path)
