"""What the page is about: the server it talks to and the language. Given once, when its process starts.

It comes through the standard input of that process, so that the key stands neither in its arguments nor in
its environment.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError, UnreachableError
from rfctl.engine import daemon
from rfctl.ragflow_client.connection import Ragflow, connect


@dataclass(frozen=True)
class Place:
    """Where the page belongs.

    language     "en" or "zh"; the page begins in it
    profile      name of the profile, "" without one
    ragflow_url  "" for the embedded engine, which is started again when it has stopped
    engine       folder of the embedded engine
    cache        folder for what is known about servers
    chat         name of the assistant that is meant, "" for none
    api_key      for ragflow_url; not in the repr
    """

    language: str
    profile: str
    ragflow_url: str
    engine: Path
    cache: Path
    chat: str = ""
    api_key: str = field(default="", repr=False)

    def to_message(self) -> dict[str, str]:
        """Plain texts, for `from_message` in another process."""
        return {key: str(value) for key, value in asdict(self).items()}

    @classmethod
    def from_message(cls, message: Mapping[str, str]) -> Place:
        values: dict[str, Any] = dict(message)
        return cls(**{**values, "engine": Path(values["engine"]), "cache": Path(values["cache"])})


class _Current:
    """One per process: Streamlit runs the script of the page anew for every click, modules stay."""

    def __init__(self) -> None:
        self.place: Place | None = None
        self.client: Ragflow | None = None
        self.lock = threading.Lock()


_CURRENT = _Current()


def use(place: Place) -> None:
    """Make `place` that of this process."""
    drop()
    _CURRENT.place = place


def current() -> Place:
    """The place of this process. Raises RfctlError `web.no-place` where the script is run by itself."""
    if _CURRENT.place is None:
        raise RfctlError("web.no-place")
    return _CURRENT.place


def client() -> Ragflow:
    """The connection of this process, made on first use. Raises as `connect`; for the embedded engine also as
    `daemon.start`."""
    with _CURRENT.lock:
        if _CURRENT.client is None:
            _CURRENT.client = _connect(current())
        return _CURRENT.client


def drop() -> None:
    """Forget the connection: the next call makes one anew, also to an engine that has another port now."""
    with _CURRENT.lock:
        old, _CURRENT.client = _CURRENT.client, None
    if old is not None:
        old.close()


def _connect(place: Place) -> Ragflow:
    memory = place.cache / "ragflow-server.json"
    if place.ragflow_url:
        return connect(place.ragflow_url, place.api_key, memory=memory)
    try:
        url = daemon.start(place.engine).url
        return connect(url, daemon.read_api_key(place.engine), memory=memory)
    except OSError as error:
        detail = error.strerror or str(error)
        raise UnreachableError("ragflow.unreachable", url=str(place.engine), detail=detail) from error
