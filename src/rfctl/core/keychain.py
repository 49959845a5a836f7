"""The keyring of the operating system, through the optional library `keyring` (extra `keyring`).

Only a backend that the library itself recommends counts (its priority is 1 or more): neither the placeholders
for "none", nor files without encryption, which are no better than our own. Every call has a deadline, because
a locked keyring waits for somebody to type a password; the thread that waits dies with the process.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

SERVICE = "rfctl"
SECONDS = 5.0
_RECOMMENDED = 1


class KeychainError(Exception):
    """There is a keyring, but it did not do what was asked; the text says why."""


def read(name: str) -> tuple[str, str] | None:
    """(secret, name of the keyring), or None without a keyring or an entry. Raises KeychainError."""

    def work(backend: KeyringBackend) -> tuple[str, str] | None:
        secret = backend.get_password(SERVICE, name)
        return (secret, backend.name) if secret else None

    return _run(work)


def write(name: str, secret: str) -> str:
    """Keep a secret; the name of the keyring, or "" where there is none. Raises KeychainError."""

    def work(backend: KeyringBackend) -> str:
        backend.set_password(SERVICE, name, secret)
        if backend.get_password(SERVICE, name) != secret:
            raise KeychainError(f"{backend.name} did not keep it")
        return backend.name

    return _run(work) or ""


def remove(name: str) -> bool:
    """Forget a secret; False when there was none. Raises KeychainError."""

    def work(backend: KeyringBackend) -> bool:
        if backend.get_password(SERVICE, name) is None:
            return False
        backend.delete_password(SERVICE, name)
        return True

    return bool(_run(work))


def _run[T](work: Callable[[KeyringBackend], T]) -> T | None:
    """What `work` returns for the keyring, None without one."""
    result: list[T] = []
    failure: list[str] = []

    def call() -> None:
        try:
            backend = _find()
            if backend is not None:
                result.append(work(backend))
        except Exception as error:
            # Backends are plugins over system services and raise what these raise; none of it is ours.
            failure.append(str(error) or type(error).__name__)

    thread = threading.Thread(target=call, name="keyring", daemon=True)
    thread.start()
    thread.join(SECONDS)
    if thread.is_alive():
        raise KeychainError(f"no answer within {SECONDS:.0f} s; it may be locked")
    if failure:
        raise KeychainError(failure[0])
    return result[0] if result else None


def _find() -> KeyringBackend | None:
    try:
        import keyring
    except ImportError:
        return None
    backend = keyring.get_keyring()
    return backend if backend.priority >= _RECOMMENDED else None
