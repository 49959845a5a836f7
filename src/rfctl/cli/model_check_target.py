"""`--for` of `rfctl model check`: which server or build the model must work with."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass

from rfctl.core.error import UsageError

_ADDRESS = re.compile(r"https?://.+|\[[0-9A-Fa-f:]+\](?::\d+)?|[\w.-]+:\d+|localhost")
_VERSION = re.compile(r"[\w.+-]{1,60}")
# What Ollama's development builds call themselves: no table knows it, so the answer is "unknown".
_NO_VERSION = "0.0.0"


@dataclass(frozen=True)
class Target:
    """What to decide for.

    ollama_version   a release of Ollama, ""
    llamacpp_build   a build of llama.cpp, ""
    url              the server that told its version, ""
    """

    ollama_version: str = ""
    llamacpp_build: str = ""
    url: str = ""


def parse_target(text: str | None) -> Target:
    """ollama@VERSION, ollama@URL (a server, which is asked for its version) or llama.cpp@BUILD.

    Raises UsageError `check.target-malformed`, UnreachableError when the server does not answer.
    """
    if text is None:
        return Target()
    name, _, version = text.partition("@")
    if name.lower() == "llama.cpp" and _VERSION.fullmatch(version):
        return Target(llamacpp_build=version)
    if name.lower() == "ollama" and _ADDRESS.fullmatch(version):
        return _ask_server(version)
    if name.lower() == "ollama" and _VERSION.fullmatch(version):
        return Target(ollama_version=version.removeprefix("v"))
    raise UsageError("check.target-malformed", target=text)


def _ask_server(url: str) -> Target:
    from rfctl.ollama.client import OllamaClient

    with OllamaClient(url, token=os.environ.get("OLLAMA_API_KEY", "").strip()) as client:
        return Target(ollama_version=client.version().text or _NO_VERSION, url=client.url)
