"""Secrets: environment > *_FILE > `credentials.toml` with mode 0600. Never in argv, never printed."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import UsageError
from rfctl.core.file import write_atomic

FILE_NAME = "credentials.toml"
RAGFLOW_VARIABLES = ("RFCTL_RAGFLOW_API_KEY", "RAGFLOW_API_KEY")


@dataclass(frozen=True, repr=False)
class Credential:
    """A secret and where it came from. Its repr shows the origin only."""

    secret: str
    origin: str

    def __repr__(self) -> str:
        return f"Credential(secret=***, origin={self.origin!r})"


def find_ragflow_key(url: str, environ: Mapping[str, str], folder: Path) -> Credential | None:
    """The API key for the RAGFlow server at `url`, or None. Raises UsageError for unreadable files."""
    for variable in RAGFLOW_VARIABLES:
        if secret := environ.get(variable, "").strip():
            return Credential(secret, variable)
        if path := environ.get(variable + "_FILE", "").strip():
            try:
                return Credential(Path(path).read_text(encoding="utf-8").strip(), variable + "_FILE")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError("config.file-broken", path=path, detail=str(error)) from error
    secret = _load(folder / FILE_NAME).get(_host(url), "")
    return Credential(secret, str(folder / FILE_NAME)) if secret else None


def store_ragflow_key(url: str, secret: str, folder: Path) -> Path:
    """Keep `secret` for the server at `url`; returns the file, which only its owner can read."""
    path = folder / FILE_NAME
    _save(path, _load(path) | {_host(url): secret})
    return path


def forget_ragflow_key(url: str, folder: Path) -> bool:
    """Remove the key for `url`; False when there was none."""
    path = folder / FILE_NAME
    keys = _load(path)
    if _host(url) not in keys:
        return False
    del keys[_host(url)]
    _save(path, keys)
    return True


def _host(url: str) -> str:
    return url.rstrip("/").lower()


def _load(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8")
        if os.name != "nt" and stat.S_IMODE(path.stat().st_mode) & 0o077:
            raise UsageError("config.credentials-open", path=path)
        table = tomllib.loads(text).get("ragflow", {})
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise UsageError("config.file-broken", path=path, detail=str(error)) from error
    return {str(key): str(value) for key, value in table.items()} if isinstance(table, dict) else {}


def _save(path: Path, keys: Mapping[str, str]) -> None:
    import tomlkit

    document = tomlkit.document()
    table = tomlkit.table()
    for key, value in sorted(keys.items()):
        table[key] = value
    document["ragflow"] = table
    write_atomic(path, tomlkit.dumps(document).encode(), mode=0o600)
