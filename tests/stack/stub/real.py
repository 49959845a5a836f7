"""Stands in for RAGFlow and Ollama inside containers with servers that really embed, parse and answer.

python3 real.py ROLE CHECKOUT; ROLE: ragflow (accounts of a first day in front of the engine's RAGFlow
half) or ollama (the engine's Ollama half).
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

ROLE, CHECKOUT = sys.argv[1], Path(sys.argv[2])


def serve_ollama() -> None:
    from rfctl.engine import daemon

    daemon.serve(Path("/root/.ollama/engine"), host="0.0.0.0", port=11434)


def serve_ragflow() -> None:
    """On 9380 as the API server does, on 80 as the page's proxy does."""
    import uvicorn
    from fresh_server import FreshServer
    from ragflow_bench import Server, application
    from starlette.requests import Request
    from starlette.responses import Response

    class Ragflow(FreshServer):
        async def _serve(self, request: Request, route: str, body: bytes) -> Response:
            if route in ("GET /api/v1/system/ping", "GET /api/v1/system/healthz"):
                return await self._pass(request, body)
            return await super()._serve(request, route, body)

    with Server(application(Path("/ragflow/data"))) as engine:
        ragflow = Ragflow(engine.url)
        ragflow.registers = os.environ["REGISTER_ENABLED"] != "0"
        # What --init-superuser does. Its password is not compared: only RAGFlow has the key to read it.
        ragflow.accounts[os.environ["DEFAULT_SUPERUSER_EMAIL"]] = ""
        page, api = (
            uvicorn.Server(uvicorn.Config(ragflow.app, host="0.0.0.0", port=port, log_level="warning"))
            for port in (80, 9380)
        )
        threading.Thread(target=page.run, daemon=True).start()
        api.run()


sys.path.insert(0, str(CHECKOUT / "tests/engine"))
print("INFO task_executor_0 reported heartbeat: {}", flush=True)
serve_ollama() if ROLE == "ollama" else serve_ragflow()
