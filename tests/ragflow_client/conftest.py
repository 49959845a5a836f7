"""What the tests of the RAGFlow client share: recordings, a running engine, a scripted server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ragflow_bench import KEY, Bench, bench
from recording import RecordedServer
from scripted_server import ScriptedServer

from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.transport import Api


@pytest.fixture
def fixtures(golden: Path) -> Path:
    return golden / "ragflow" / "fixtures"


@pytest.fixture
def recorded(golden: Path) -> Iterator[Callable[..., RecordedServer]]:
    """`recorded("parse", ...)`: a server that answers as those recordings do."""
    servers: list[RecordedServer] = []

    def start(*names: str) -> RecordedServer:
        server = RecordedServer(golden / "ragflow", names)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.stop()


@pytest.fixture
def scripted() -> Iterator[ScriptedServer]:
    with ScriptedServer() as server:
        yield server


@pytest.fixture
def api(scripted: ScriptedServer) -> Iterator[Api]:
    with Api(scripted.url, "ragflow-test", read_seconds=1.0) as made:
        yield made


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Bench]:
    with bench(tmp_path / "engine", preset=True) as made:
        yield made


@pytest.fixture
def ragflow(engine: Bench) -> Iterator[Ragflow]:
    with Ragflow(Api(engine.url, KEY)) as client:
        yield client
