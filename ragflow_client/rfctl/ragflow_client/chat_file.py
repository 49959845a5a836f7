"""An assistant described in a TOML file.

kb = ["docs"]              # knowledge bases, [] for none
model = "r1:latest"        # without it the account's default
system = "..."             # {knowledge} stands for the passages
top_n = 8                  # and every other option of `ChatOptions`
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfctl.core.error import UsageError
from rfctl.core.near import find_near
from rfctl.ragflow_client.chat_option import OPTIONS, check_options

MAX_FILE_BYTES = 1 << 20
_KEYS = ("kb", "model", *OPTIONS)


@dataclass(frozen=True)
class ChatFile:
    """kb: None where the file does not say; model: "" likewise; options: names of ChatOptions with values."""

    kb: tuple[str, ...] | None = None
    model: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)


def read_chat_file(path: Path) -> ChatFile:
    """Raises UsageError `chat.file-unreadable`, `chat.file-broken`, `chat.file-key`, and for a value
    `dataset.option-invalid`."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError("chat.file-unreadable", path=path, detail=error.strerror or str(error)) from error
    if len(content) > MAX_FILE_BYTES:
        raise UsageError("chat.file-broken", path=path, detail=f"> {MAX_FILE_BYTES} bytes")
    try:
        table = tomllib.loads(content.decode("utf-8-sig"))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
        raise UsageError("chat.file-broken", path=path, detail=str(error)) from error
    for key in table:
        if key not in _KEYS:
            near = find_near(key, _KEYS) or ", ".join(_KEYS)
            raise UsageError("chat.file-key", path=path, key=key, near=near)
    kb = table.pop("kb", None)
    model = table.pop("model", "")
    if isinstance(kb, str):
        kb = [kb]
    if kb is not None and not (isinstance(kb, list) and all(isinstance(name, str) for name in kb)):
        raise UsageError("dataset.option-invalid", option="kb", value=kb, allowed='["NAME"]')
    if not isinstance(model, str):
        raise UsageError("dataset.option-invalid", option="model", value=model, allowed="str")
    check_options(table)
    return ChatFile(None if kb is None else tuple(kb), model, table)
