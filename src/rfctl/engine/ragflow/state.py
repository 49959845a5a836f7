"""What the routes share while the engine runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
from starlette.requests import Request

from rfctl.engine.ragflow.database import Database


@dataclass
class State:
    """
    database    everything durable
    data_dir    the folder that holds it; uploaded files are in data_dir/document
    tenant_id   the one account (32 hex)
    api_key     the key made by the engine; keys made over the API are in the table `token`
    self_url    base URL of the engine, "" when it must not serve as a provider
    http        client for Ollama servers, never through a proxy for loopback addresses
    wake        set when a task was queued
    cache       for modules that keep something in memory (the chunk index), by module name
    """

    database: Database
    data_dir: Path
    tenant_id: str
    api_key: str
    self_url: str
    http: httpx.AsyncClient
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    cache: dict[str, Any] = field(default_factory=dict)

    @property
    def document_dir(self) -> Path:
        """Uploaded files, named by document id."""
        return self.data_dir / "document"


def of(request: Request) -> State:
    """The State that `app.lifespan` gave and the server put in `app.state.ragflow`."""
    state = request.app.state.ragflow
    assert isinstance(state, State)
    return state
