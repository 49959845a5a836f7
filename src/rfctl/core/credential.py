"""Secrets: environment > *_FILE > OS keyring > `credentials.toml` (0600). Never in argv, never printed."""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rfctl.core import keychain
from rfctl.core.error import AuthError, UsageError
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


@dataclass(frozen=True)
class Stored:
    """Where a secret is kept. problem: why it is not in the keyring that there is, "" otherwise."""

    place: str
    problem: str = ""


def find_ragflow_key(
    url: str, environ: Mapping[str, str], folder: Path, *, keyring: bool = False
) -> Credential | None:
    """The API key for the RAGFlow server at `url`, or None. keyring: ask the system's too.

    Raises UsageError for unreadable files; AuthError `config.keyring-silent` when the keyring does not answer
    and nothing else has a key.
    """
    for variable in RAGFLOW_VARIABLES:
        if secret := environ.get(variable, "").strip():
            return Credential(secret, variable)
        if path := environ.get(variable + "_FILE", "").strip():
            try:
                return Credential(Path(path).read_text(encoding="utf-8").strip(), variable + "_FILE")
            except (OSError, UnicodeDecodeError) as error:
                raise UsageError("config.file-broken", path=path, detail=str(error)) from error
    problem: keychain.KeychainError | None = None
    if keyring:
        try:
            if found := keychain.read(_host(url)):
                return Credential(*found)
        except keychain.KeychainError as error:
            problem = error
    if secret := _load(folder / FILE_NAME).get(_host(url), ""):
        return Credential(secret, str(folder / FILE_NAME))
    if problem is not None:
        raise AuthError("config.keyring-silent", detail=str(problem)) from problem
    return None


def store_ragflow_key(url: str, secret: str, folder: Path, *, keyring: bool = False) -> Stored:
    """Keep `secret` for the server at `url`: in the keyring, or in a file that only its owner can read."""
    path = folder / FILE_NAME
    keys = _load(path)
    problem = ""
    if keyring:
        try:
            if place := keychain.write(_host(url), secret):
                if keys.pop(_host(url), None) is not None:
                    _save(path, keys)
                return Stored(place)
        except keychain.KeychainError as error:
            problem = str(error)
    _save(path, keys | {_host(url): secret})
    return Stored(str(path), problem)


def forget_ragflow_key(url: str, folder: Path, *, keyring: bool = False) -> bool:
    """Remove the key for `url` wherever it is; False when there was none.

    Raises AuthError `config.keyring-silent` when the keyring may still have it.
    """
    path = folder / FILE_NAME
    keys = _load(path)
    was_there = keys.pop(_host(url), None) is not None
    if was_there:
        _save(path, keys)
    if keyring:
        try:
            was_there = keychain.remove(_host(url)) or was_there
        except keychain.KeychainError as error:
            raise AuthError("config.keyring-silent", detail=str(error)) from error
    return was_there


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
