"""Health, version and state of the server.

The version reads `v0.27.0-rfctl<version>`: clients that compare by prefix see RAGFlow 0.27, people see what
it is.
"""

from __future__ import annotations

import sqlite3
import time
from datetime import datetime

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from rfctl.core.version import __version__
from rfctl.engine.ragflow import state
from rfctl.engine.ragflow.envelope import JsonResponse, ok, public

RAGFLOW_VERSION = "v0.27.0"
_BOOT = datetime.now().isoformat(timespec="milliseconds")


@public
async def ping(request: Request) -> Response:
    """Text `pong`."""
    return PlainTextResponse("pong", media_type="text/html")


@public
async def show_version(request: Request) -> Response:
    """The RAGFlow version whose API this is, and rfctl's."""
    return ok(f"{RAGFLOW_VERSION}-rfctl{__version__}", "success")


@public
async def show_health(request: Request) -> Response:
    """Whether the database and the folder of documents can be read; HTTP 500 if not."""
    shared = state.of(request)
    parts = dict.fromkeys(("db", "doc_engine", "redis", "status", "storage"), "ok")
    try:
        await shared.database.read(lambda connection: connection.execute("SELECT 1 FROM tenant").fetchone())
    except sqlite3.Error:
        parts |= {"db": "nok", "doc_engine": "nok", "redis": "nok", "status": "nok"}
    if not shared.document_dir.is_dir():
        parts |= {"storage": "nok", "status": "nok"}
    return JsonResponse(parts, status_code=200 if parts["status"] == "ok" else 500)


@public
async def show_config(request: Request) -> Response:
    """No accounts are made here: one key, one user."""
    return ok({"disablePasswordLogin": True, "registerEnabled": 0}, "success")


@public
async def show_language(request: Request) -> Response:
    """Which of RAGFlow's two servers this behaves like."""
    return ok({"language": "python"}, "success")


async def show_status(request: Request) -> Response:
    """State of the parts under RAGFlow's names; the one worker reports as a task executor."""
    shared = state.of(request)
    begin = time.perf_counter()
    waiting, done, failed = await shared.database.read(
        lambda connection: connection.execute(
            "SELECT (SELECT count(*) FROM task), (SELECT count(*) FROM document WHERE run = 'DONE'),"
            " (SELECT count(*) FROM document WHERE run = 'FAIL')"
        ).fetchone()
    )
    elapsed = f"{(time.perf_counter() - begin) * 1000:.1f}"
    now = datetime.now().isoformat(timespec="milliseconds")
    beat = {
        "boot_at": _BOOT,
        "current": {},
        "done": done,
        "failed": failed,
        "ip_address": "127.0.0.1",
        "lag": 0,
        "name": "rfctl_worker_0",
        "now": now,
        "pending": waiting,
        "pid": 0,
    }
    green = {"elapsed": elapsed, "status": "green"}
    return ok(
        {
            "database": {**green, "database": "sqlite"},
            "doc_engine": {**green, "type": "rfctl"},
            "redis": green,
            "storage": {**green, "storage": "file"},
            "task_executor_heartbeats": {"rfctl_worker_0": [beat]},
        },
        "success",
    )


ROUTES = [
    Route("/system/ping", ping, methods=["GET"]),
    Route("/system/version", show_version, methods=["GET"]),
    Route("/system/healthz", show_health, methods=["GET"]),
    Route("/system/config", show_config, methods=["GET"]),
    Route("/system/status", show_status, methods=["GET"]),
    Route("/language", show_language, methods=["GET"]),
]
