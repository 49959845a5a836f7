"""What the endpoints of the Ollama API share while the engine runs."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from starlette.requests import Request

from rfctl.engine.ollama.model import Library
from rfctl.engine.pool import Pool
from rfctl.ollama.store import ModelStore


@dataclass
class State:
    """version: what `/api/version` says; creating: one create at a time per engine."""

    store: ModelStore
    models: Library
    pool: Pool
    version: str
    creating: asyncio.Lock = field(default_factory=asyncio.Lock)


def of(request: Request) -> State:
    """The State that the server put in `app.state.ollama`."""
    state = request.app.state.ollama
    assert isinstance(state, State)
    return state
