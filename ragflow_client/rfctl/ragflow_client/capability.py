"""What servers were found to be able to do, kept per host between commands.

One request tells a server's version; the routes are asked again when that text changes or after a day.
"""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

from rfctl.core.file import write_atomic
from rfctl.ragflow_client.record import mapping
from rfctl.ragflow_client.server import Server, read_version
from rfctl.ragflow_client.server import detect as ask_server
from rfctl.ragflow_client.transport import Api

MAX_HOSTS = 50
LIFETIME_SECONDS = 86400
_MAX_BYTES = 1 << 20
_FIELDS = {field.name for field in dataclasses.fields(Server)}


def detect(api: Api, memory: Path | None = None) -> Server:
    """Like `server.detect`, with the answers of last time from `memory` where they still hold.

    A memory that cannot be read or written costs the questions, never the command. Raises as
    `server.detect`; with a remembered server the key is not tried.
    """
    if memory is None:
        return ask_server(api)
    hosts = _load(memory)
    version, text = read_version(api)
    entry = mapping(hosts.get(api.url))
    found = _restore(entry, version, text)
    if found is None:
        found = ask_server(api, (version, text))
        hosts.pop(api.url, None)
        hosts[api.url] = {"time": int(time.time()), **dataclasses.asdict(found)}
        _save(memory, hosts)
    return found


def _restore(entry: Any, version: tuple[int, int, int] | None, text: str) -> Server | None:
    age = time.time() - entry["time"] if isinstance(entry.get("time"), int) else LIFETIME_SECONDS
    if entry.get("text") != text or not 0 <= age < LIFETIME_SECONDS or not entry.keys() >= _FIELDS:
        return None
    try:
        return Server(
            version, text, str(entry["language"]), str(entry["engine"]), entry["has_providers"] is True
        )
    except (KeyError, TypeError):
        return None


def _load(memory: Path) -> dict[str, Any]:
    try:
        if memory.stat().st_size > _MAX_BYTES:
            return {}
        document = json.loads(memory.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return document if isinstance(document, dict) else {}


def _save(memory: Path, hosts: dict[str, Any]) -> None:
    newest = dict(list(hosts.items())[-MAX_HOSTS:])
    try:
        write_atomic(memory, json.dumps(newest, indent=1).encode())
    except OSError:
        return
