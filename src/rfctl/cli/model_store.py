"""Stores of models on this machine: where they are, and how a push may use them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.core.error import RefusedError

if TYPE_CHECKING:
    from rfctl.ollama.client import OllamaClient
    from rfctl.ollama.direct import Direct


def configured_store(app: App, given: Path | None) -> Path | None:
    """The folder of the store: --store, the embedded engine's own, the setting `ollama.store` (which
    OLLAMA_MODELS is a name of); None when none is named."""
    if given is not None:
        return given
    if not app.settings.endpoints().ollama_url:
        return app.directories.engine / "models"
    named = app.settings.get("ollama.store")
    return Path(named).expanduser() if named else None


def find_direct(
    app: App, client: OllamaClient, via: str, store: Path | None, *, owned: bool
) -> Direct | None:
    """How to register without copying; None for HTTP. via: "direct", "http" or "auto" (None where refused).

    Raises RefusedError for "direct" when it is not possible.
    """
    from rfctl.engine.ollama.model import file_type, human_number
    from rfctl.ollama.direct import Description, Direct, find_store

    if via == "http":
        return None
    try:
        found = find_store(client, configured_store(app, store))
    except RefusedError:
        if via == "direct":
            raise
        return None
    return Direct(
        found,
        owned,
        lambda header: Description(human_number(header.parameter_count), file_type(header)),
    )
