"""The engine's web application: Ollama's API and RAGFlow's on one port, and the loop that serves it."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import importlib.util
import logging
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import ModuleType

import h11
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import BaseRoute
from uvicorn.protocols.http.h11_impl import H11Protocol

from rfctl.engine.host_check import HostCheck
from rfctl.engine.ollama import app as ollama_app

GRACE_SECONDS = 3
# Longest pause within a request, also before its first byte.
SILENCE_SECONDS = 60.0
_RAGFLOW = "rfctl.engine.ragflow.app"
# Gin's words for what Starlette calls "Not Found" and "Method Not Allowed".
_TEXTS = {404: "404 page not found", 405: "405 method not allowed"}

_log = logging.getLogger(__name__)


def make_app(
    directory: Path, *, api_key: str, self_url: str, is_loopback: bool = True, max_loaded: int = 3
) -> Starlette:
    """The application over the engine folder `directory` (`models/`, `ragflow/`).

    api_key: for RAGFlow's half; self_url: base URL under which this application will be reachable;
    is_loopback: check the header Host too (Origin always is).
    """
    ragflow = _find_ragflow()

    @contextlib.asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with contextlib.AsyncExitStack() as stack:
            app.state.ollama = await stack.enter_async_context(
                ollama_app.lifespan(directory / "models", max_loaded=max_loaded)
            )
            if ragflow is not None:
                folder = directory / "ragflow"
                folder.mkdir(parents=True, exist_ok=True)
                app.state.ragflow = await stack.enter_async_context(
                    ragflow.lifespan(folder, api_key, self_url)
                )
            yield

    routes: list[BaseRoute] = [*(ragflow.routes() if ragflow else []), *ollama_app.routes()]
    return Starlette(
        routes=routes,
        lifespan=lifespan,
        middleware=[Middleware(HostCheck, is_loopback=is_loopback)],
        exception_handlers={404: _refuse, 405: _refuse, Exception: _fail},
    )


def _find_ragflow() -> ModuleType | None:
    if importlib.util.find_spec(_RAGFLOW) is None:
        return None
    return importlib.import_module(_RAGFLOW)


async def _refuse(_request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return PlainTextResponse(_TEXTS[status], status, headers={"content-type": "text/plain"})


async def _fail(request: Request, error: Exception) -> Response:
    _log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return ollama_app.internal_error()


class _Protocol(H11Protocol):
    """Ends connections whose request stops coming: each holds a descriptor, and there are not many."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        if self.conn.their_state in (h11.IDLE, h11.SEND_BODY):
            self._waiting = self.loop.call_later(SILENCE_SECONDS, self._give_up)

    def _give_up(self) -> None:
        if self.flow.read_paused:  # it is this side that does not read: a slow disk
            self._wait()
        else:
            self.transport.abort()


class _Server(uvicorn.Server):
    """Tells when it accepts connections."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._on_ready()


def run(app: Starlette, sock: socket.socket, on_ready: Callable[[], None]) -> bool:
    """Serve `app` on the bound socket until SIGTERM or SIGINT; `on_ready` is called once it answers.

    False when the application did not start (the reason is in the log).
    """
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="on",
        server_header=False,
        timeout_graceful_shutdown=GRACE_SECONDS,
        # Large uploads arrive in pieces; h11 has no limit on them.
        h11_max_incomplete_event_size=1 << 20,
        http=_Protocol,
        ws="none",
    )
    server = _Server(config, on_ready)
    with contextlib.suppress(KeyboardInterrupt):
        server.run(sockets=[sock])
    return server.started
