"""Where the hub is and with which token it is read."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.cli.app import App
from rfctl.core.error import RfctlError

_MOST_BYTES = 4096
_YES = ("1", "on", "yes", "true")


@dataclass(frozen=True)
class HubAccess:
    """endpoint: URL without a slash at its end, "" for the hub itself; token: "" for none."""

    endpoint: str
    token: str = field(repr=False)


def read_hub_access(app: App, repo: str) -> HubAccess:
    """The settings for reading `repo`. Raises RfctlError `hub.offline` when the environment forbids it.

    The token is looked for as huggingface_hub does: HF_TOKEN, then the file that `hf auth login` writes.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").strip().lower() in _YES:
        raise RfctlError("hub.offline", repo=repo)
    return HubAccess(app.settings.get("hub.endpoint").rstrip("/"), _find_token())


def _find_token() -> str:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        if token := os.environ.get(name, "").strip():
            return token
    if os.environ.get("HF_HUB_DISABLE_IMPLICIT_TOKEN", "").strip().lower() in _YES:
        return ""
    given = os.environ.get("HF_TOKEN_PATH", "")
    home = os.environ.get("HF_HOME", "")
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    path = Path(given) if given else (Path(home) if home else cache / "huggingface") / "token"
    try:
        with path.expanduser().open("r", encoding="utf-8") as file:
            return file.read(_MOST_BYTES).strip()
    except (OSError, ValueError):
        return ""
