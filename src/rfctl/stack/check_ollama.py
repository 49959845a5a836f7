"""Checks of the model server beside RAGFlow and of the models in it."""

from __future__ import annotations

import ipaddress
import json
from typing import Any
from urllib.parse import urlsplit

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, warn
from rfctl.stack.check_docker import has_own_engine, version_tuple
from rfctl.stack.check_network import is_loopback_address, listeners
from rfctl.stack.evidence import Evidence, Reply

MIN_VERSION = (0, 12, 0)
MIN_CONTEXT = 8192
MIN_FREE = 20 * 1000**3
PORT = 11434


@check("ollama.up")
def up(evidence: Evidence) -> Result:
    found = evidence.reply("ollama.version")
    url = evidence.text("ollama.url")
    if found.status == 0 and not evidence.fact("ollama.is-configured"):
        return skip("no-ollama")
    if found.status == 0:
        return fail(
            found.error if found.error in ("refused", "timeout", "name") else "", url=url, found=found.error
        )
    if found.status != 200:
        return fail("status", url=url, found=found.status)
    version = str(found.json()["version"])
    # A build from source calls itself 0.0.0.
    good = version_tuple(version) >= MIN_VERSION or version == "0.0.0"
    return judge(good, otherwise=Verdict.WARN, variant="version", url=url, found=version)


def _addresses(evidence: Evidence) -> list[str]:
    """Where something listens on the port of the model server."""
    url = evidence.text("ollama.url") if evidence.has("ollama.url") else ""
    wanted = urlsplit(url).port or PORT
    return [
        address for address, port, _ in listeners(evidence.command("net.listeners").out) if port == wanted
    ]


@check("ollama.bind", after=("ollama.up",))
def bind(evidence: Evidence) -> Result:
    """Containers reach the host through the bridge, so a listener on loopback only is out of their reach."""
    if not evidence.fact("stack.is-initialised"):
        return skip("no-stack")
    if not evidence.fact("ollama.is-local"):
        return skip("remote-ollama")
    if any("ollama" in name for name in evidence.fact("stack.addons")):
        return skip("ollama-in-stack")
    if evidence.has("docker.info") and not has_own_engine(evidence):
        # Docker Desktop has its own way to the host; net.container-to-host tells whether it leads there.
        return skip("desktop")
    found = _addresses(evidence)
    if not found:
        return skip("no-listener")
    return judge(not all(is_loopback_address(address) for address in found), found=", ".join(found))


@check("ollama.public", after=("ollama.up",))
def public(evidence: Evidence) -> Result:
    if not evidence.fact("ollama.is-local"):
        return skip("remote-ollama")
    found = _addresses(evidence)
    worst = []
    for address in found:
        if address in ("*", "0.0.0.0", "::"):  # noqa: S104 (compared, not bound)
            worst.append(address)
            continue
        try:
            if ipaddress.ip_address(address).is_global:
                worst.append(address)
        except ValueError:
            continue
    return judge(not worst, otherwise=Verdict.WARN, found=", ".join(worst or found) or "-")


def _loaded(evidence: Evidence) -> list[dict[str, Any]]:
    return list(evidence.reply("ollama.ps").json()["models"] or [])


@check("ollama.gpu", after=("ollama.up",))
def gpu(evidence: Evidence) -> Result:
    models = _loaded(evidence)
    if not models:
        return skip("no-model-loaded")
    if not evidence.fact("host.has-gpu"):
        return skip("no-gpu-here")
    slow = [str(model["name"]) for model in models if int(model.get("size_vram", 0)) < int(model["size"])]
    return judge(not slow, otherwise=Verdict.WARN, found=", ".join(slow) or "-", total=len(models))


@check("ollama.context", after=("ollama.up",))
def context(evidence: Evidence) -> Result:
    models = [model for model in _loaded(evidence) if "context_length" in model]
    if not models:
        return skip("no-model-loaded")
    short = [
        f"{model['name']} ({model['context_length']})"
        for model in models
        if int(model["context_length"]) < MIN_CONTEXT and "embed" not in str(model["name"])
    ]
    return judge(not short, otherwise=Verdict.WARN, found=", ".join(short) or "-", wanted=MIN_CONTEXT)


@check("ollama.disk")
def disk(evidence: Evidence) -> Result:
    if not evidence.has("ollama.disk"):
        return skip("no-ollama-folder")
    entry = evidence.fact("ollama.disk")
    free = int(entry["free"])
    return judge(
        free >= MIN_FREE, otherwise=Verdict.WARN, path=entry["path"], found=f"{free / 1000**3:.1f} GB"
    )


def models_with(tags: Any, capability: str) -> list[str]:
    """Names in an answer of `/api/tags`; where a server does not tell what a model can do, its name does."""
    names = []
    rows = tags.get("models") if isinstance(tags, dict) else None
    for model in rows if isinstance(rows, list) else ():
        if not isinstance(model, dict) or not isinstance(model.get("name"), str):
            continue
        able = model.get("capabilities")
        if not isinstance(able, list):
            able = ["embedding" if "embed" in model["name"] or "bge" in model["name"] else "completion"]
        if capability in able:
            names.append(model["name"])
    return names


def _fault(found: Reply) -> Result | None:
    """What a test call said against the model."""
    if found.status == 200:
        return None
    detail = found.error
    if found.body:
        try:
            detail = str(json.loads(found.body)["error"])
        except (ValueError, KeyError, TypeError):
            detail = found.body
    return fail("call", found=detail[:200])


@check("model.chat", after=("ollama.up",))
def chat(evidence: Evidence) -> Result:
    names = models_with(evidence.reply("ollama.tags").json(), "completion")
    if not names:
        return fail()
    found = ", ".join(names[:5])
    if not evidence.has("ollama.chat"):
        return ok("found", found=found)
    return _fault(evidence.reply("ollama.chat")) or ok(
        "called", found=found, name=evidence.text("ollama.chat-model")
    )


@check("model.embed", after=("ollama.up",))
def embed(evidence: Evidence) -> Result:
    names = models_with(evidence.reply("ollama.tags").json(), "embedding")
    if not names:
        return warn()
    found = ", ".join(names[:5])
    if not evidence.has("ollama.embed"):
        return ok("found", found=found)
    if bad := _fault(evidence.reply("ollama.embed")):
        return bad
    name, dimension = evidence.text("ollama.embed-model"), evidence.number("ollama.embed-dimension")
    return judge(dimension > 0, variant="called", found=found, name=name, dimension=dimension)


@check("model.template", after=("model.chat",))
def template(evidence: Evidence) -> Result:
    """{"model": {"template": text, "stops": whether anything ends an answer, None when nobody tells}}."""
    bare, endless = [], []
    for name, entry in evidence.fact("ollama.shown").items():
        # Ollama's stand-in for a model without a template.
        text = "".join(str(entry.get("template", "")).split())
        if text in ("", "{{.Prompt}}"):
            bare.append(name)
        elif entry.get("stops") is False:
            endless.append(name)
    if endless and not bare:
        return warn("endless", found=", ".join(endless))
    return judge(not bare, otherwise=Verdict.WARN, found=", ".join(bare) or "-")
