"""The RAGFlow half of the engine: `routes()` for the server, `lifespan()` around its life.

The API is RAGFlow v0.27.0's as ragflow-sdk 0.27.3 uses it. Routes of RAGFlow that the engine does not have
answer HTTP 501 (`unsupported.toml`), unknown ones 404.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Receive, Scope, Send

from rfctl.engine.ragflow import (
    account,
    chat_api,
    chunk_api,
    completion_api,
    dataset,
    document,
    document_edit,
    document_list,
    openai_api,
    parse,
    provider,
    queue,
    registration,
    retoken,
    retrieval_api,
    seed,
    session_api,
    state,
    system,
    unsupported,
)
from rfctl.engine.ragflow.database import Database
from rfctl.engine.ragflow.envelope import Failure, JsonResponse, answer

PREFIX = "/api/v1"
# Every module has ROUTES with paths relative to PREFIX.
MODULES = (
    system,
    account,
    provider,
    registration,
    dataset,
    document_list,
    document,
    document_edit,
    parse,
    chunk_api,
    retrieval_api,
    chat_api,
    session_api,
    completion_api,
    openai_api,
)

_log = logging.getLogger(__name__)


class Api:
    """The ASGI application below /api/v1: routing, authentication, and the envelope around every error."""

    def __init__(self) -> None:
        self.routes = [route for module in MODULES for route in module.ROUTES]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive, send)
        response = await self._respond(request)
        await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response:
        path = str(request.scope["path"])
        inner = path[path.index(PREFIX) + len(PREFIX) :] or "/"
        scope = {"type": "http", "path": inner, "root_path": "", "method": request.method}
        wrong_method = False
        for route in self.routes:
            match, child = route.matches(scope)
            if match is Match.FULL:
                request.scope["path_params"] = child["path_params"]
                return await self._run(route, request)
            wrong_method = wrong_method or match is Match.PARTIAL
        if wrong_method:
            return answer(Failure(100, "<MethodNotAllowed '405: Method Not Allowed'>", data=None))
        if unsupported.is_known(inner):
            text = f"rfctl's embedded engine does not have {request.method} {path}; a RAGFlow server does"
            return answer(Failure(501, text, data=None, status=501))
        return await not_found(request)

    async def _run(self, route: Route, request: Request) -> Response:
        try:
            if not getattr(route.endpoint, "public", False):
                await account.authenticate(request)
            response = await route.endpoint(request)
            assert isinstance(response, Response)
            return response
        except Failure as failure:
            return answer(failure)
        except Exception as error:  # RAGFlow's contract: code 100 with the repr; the trace goes to the log
            _log.exception("%s %s", request.method, request.url.path)
            return answer(error)


def routes() -> list[BaseRoute]:
    """The routes to put into the server's application, whose `state.ragflow` is what `lifespan` gives.

    The doubled slash is what clients send whose base URL ends in one.
    """
    api = Api()
    return [
        Mount(PREFIX, app=api),
        Mount("/" + PREFIX, app=api),
        Route("/v1/system/healthz", system.show_health, methods=["GET"]),
    ]


async def not_found(request: Request) -> JsonResponse:
    """RAGFlow's answer to an unknown route (also usable for paths outside the API)."""
    body = {"code": 404, "data": None, "error": "Not Found", "message": f"Not Found: {request.scope['path']}"}
    return JsonResponse(body, status_code=404)


@contextlib.asynccontextmanager
async def lifespan(data_dir: Path, api_key: str, self_url: str) -> AsyncIterator[state.State]:
    """Open the database in `data_dir` (made if absent), resume the parse queue, and close both at the end.

    self_url: base URL of the engine's own Ollama API; provider "Ollama", instance "local" point to it. With
    "" there is no provider until a client makes one. Raises database.DatabaseError, OSError.
    """
    database = await asyncio.to_thread(Database, data_dir / "ragflow.sqlite")
    try:
        tenant_id = await database.write(lambda connection: seed.plant(connection, preset=bool(self_url)))
        await retoken.ensure(database)
        async with httpx.AsyncClient(trust_env=False) as http:
            shared = state.State(
                database=database,
                data_dir=data_dir,
                tenant_id=tenant_id,
                api_key=api_key,
                self_url=self_url.rstrip("/"),
                http=http,
            )
            shared.document_dir.mkdir(parents=True, exist_ok=True)
            async with queue.running(shared):
                yield shared
    finally:
        await asyncio.to_thread(database.close)
