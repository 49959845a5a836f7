"""The Ollama half of the engine: its routes for the server's application, and its life."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from rfctl.core.version import __version__
from rfctl.engine.ollama import blob, chat, create, embed, generate, listing, openai, show, state
from rfctl.engine.ollama.answer import answer, endpoint
from rfctl.engine.ollama.model import Library
from rfctl.engine.pool import Pool
from rfctl.ollama.store import ModelStore

# The release whose API this is; clients compare the number, people read the suffix.
OLLAMA_VERSION = "0.33.0"


def api_version() -> str:
    """What `/api/version` answers: `0.33.0+rfctl.<our version>`."""
    return f"{OLLAMA_VERSION}+rfctl.{__version__}"


def routes() -> list[BaseRoute]:
    """The routes; the application's `state.ollama` is what `lifespan` gives."""
    get, post = ["GET"], ["POST"]
    return [
        Route("/", listing.greet, methods=get),
        Route("/api/version", listing.show_version, methods=get),
        Route("/api/status", listing.show_status, methods=get),
        Route("/api/tags", endpoint(listing.list_models), methods=get),
        Route("/api/ps", endpoint(listing.list_loaded), methods=get),
        Route("/api/show", endpoint(show.show), methods=post),
        Route("/api/create", endpoint(create.create), methods=post),
        Route("/api/copy", endpoint(listing.copy), methods=post),
        Route("/api/delete", endpoint(listing.delete), methods=["DELETE"]),
        Route("/api/pull", endpoint(listing.refuse_registry), methods=post),
        Route("/api/push", endpoint(listing.refuse_registry), methods=post),
        Route("/api/blobs/{digest}", endpoint(blob.handle_blob), methods=["HEAD", "POST"]),
        Route("/api/chat", endpoint(chat.chat), methods=post),
        Route("/api/generate", endpoint(generate.generate), methods=post),
        Route("/api/embed", endpoint(embed.embed), methods=post),
        Route("/api/embeddings", endpoint(embed.embeddings), methods=post),
        Route("/v1/models", endpoint(openai.list_models), methods=get),
        Route("/v1/chat/completions", openai.chat, methods=post),
        Route("/v1/embeddings", openai.embed, methods=post),
    ]


@contextlib.asynccontextmanager
async def lifespan(models_dir: Path, *, max_loaded: int = 3) -> AsyncIterator[state.State]:
    """Clean up after a killed predecessor, and end all workers at the end. Raises OSError."""
    store = ModelStore(models_dir)
    store.blobs.mkdir(parents=True, exist_ok=True)
    store.collect_garbage()
    async with Pool(max_loaded=max_loaded) as pool:
        yield state.State(store=store, models=Library(store), pool=pool, version=api_version())


def internal_error() -> Response:
    """The answer when a handler fails by a bug; the log has the trace."""
    return answer({"error": "internal server error"}, 500)
