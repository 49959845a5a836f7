"""A backend of the `keyring` library over a file, loaded by PYTHON_KEYRING_BACKEND in the process under test.

FILE_KEYRING names the file; FILE_KEYRING_MODE is "" (works), "locked" (waits for a password that nobody
types), "broken" (fails in a way of its own), "forgetful" (says nothing and keeps nothing) or "weak" (not
recommended, as files without encryption are).
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

from keyring.backend import KeyringBackend
from keyring.errors import PasswordDeleteError


class FileKeyring(KeyringBackend):
    priority = 0.5 if os.environ.get("FILE_KEYRING_MODE") == "weak" else 5  # type: ignore[assignment]

    def _open(self) -> dict[str, str]:
        mode = os.environ.get("FILE_KEYRING_MODE", "")
        if mode == "locked":
            time.sleep(600)
        if mode == "broken":
            raise LookupError("the session bus is gone")
        path = Path(os.environ["FILE_KEYRING"])
        return dict(json.loads(path.read_text())) if path.exists() else {}

    def _close(self, entries: dict[str, str]) -> None:
        if os.environ.get("FILE_KEYRING_MODE") != "forgetful":
            Path(os.environ["FILE_KEYRING"]).write_text(json.dumps(entries))

    def get_password(self, service: str, username: str) -> str | None:
        return self._open().get(f"{service} {username}")

    def set_password(self, service: str, username: str, password: str) -> None:
        self._close(self._open() | {f"{service} {username}": password})

    def delete_password(self, service: str, username: str) -> None:
        entries = self._open()
        if f"{service} {username}" not in entries:
            raise PasswordDeleteError
        del entries[f"{service} {username}"]
        self._close(entries)
