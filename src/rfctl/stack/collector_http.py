"""Evidence from the two servers by HTTP. No redirect is followed; answers are read up to 1 MiB."""

from __future__ import annotations

import contextlib
import platform
import time
from importlib import metadata
from typing import Any

import httpx

from rfctl.core.address import is_loopback
from rfctl.stack.evidence import Reply

SECONDS = 2.0
MAX_BODY = 1 << 20
MAX_SHOWN = 5
DEFAULT_OLLAMA = "http://127.0.0.1:11434"


def ask(http: httpx.Client, path: str, *, method: str = "GET", body: object = None) -> Reply:
    """One exchange; what went wrong is in `Reply.error`."""
    try:
        with http.stream(method, path, json=body) as response:
            data = b""
            for piece in response.iter_bytes():
                data += piece
                if len(data) > MAX_BODY:
                    break
            text = data[:MAX_BODY].decode("utf-8", errors="replace")
            return Reply(response.status_code, text, "", response.headers.get("date", ""))
    except httpx.TimeoutException:
        return Reply(0, error="timeout")
    except httpx.ConnectError as error:
        text = str(error).lower()
        if "refused" in text:
            return Reply(0, error="refused")
        names = ("name or service", "getaddrinfo", "resolution", "nodename")
        return Reply(0, error="name" if any(word in text for word in names) else text[:120])
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:
        return Reply(0, error=f"{type(error).__name__}: {error}"[:120])


def _client(url: str, key: str = "") -> httpx.Client:
    local = is_loopback(url)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    return httpx.Client(
        base_url=url, timeout=SECONDS, trust_env=not local, headers=headers, verify=url.startswith("https:")
    )


def collect_ollama(url: str) -> dict[str, Any]:
    """url: "" when none is configured (the usual address of this machine is tried then)."""
    place = url or DEFAULT_OLLAMA
    values: dict[str, Any] = {
        "ollama.url": place,
        "ollama.is-configured": bool(url),
        "ollama.is-local": is_loopback(place),
    }
    with _client(place) as http:
        values["ollama.version"] = version = ask(http, "/api/version")
        if version.status != 200:
            return values
        values["ollama.tags"] = tags = ask(http, "/api/tags")
        values["ollama.ps"] = ask(http, "/api/ps")
        shown = {}
        for name in _names(tags)[:MAX_SHOWN]:
            reply = ask(http, "/api/show", method="POST", body={"model": name})
            if reply.status == 200 and isinstance(entry := _document(reply), dict):
                capabilities = entry.get("capabilities")
                if capabilities is None or "completion" in capabilities:
                    shown[name] = {"template": entry.get("template", "")}
        values["ollama.shown"] = shown
    return values


def _names(reply: Reply) -> list[str]:
    document = _document(reply)
    models = document.get("models") if isinstance(document, dict) else None
    return [str(model["name"]) for model in models or [] if isinstance(model, dict) and "name" in model]


def _document(reply: Reply) -> Any:
    try:
        return reply.json()
    except ValueError:
        return None


def collect_ragflow(url: str, key: str, web: str = "") -> dict[str, Any]:
    """url: "" when no RAGFlow is configured and no stack is made; web: address of the stack's web UI."""
    if not url:
        return {}
    values: dict[str, Any] = {"ragflow.url": url, "host.python": platform.python_version()}
    with contextlib.suppress(metadata.PackageNotFoundError):
        values["ragflow.sdk"] = metadata.version("ragflow-sdk")
    if web:
        with _client(web) as http:
            values["ragflow.web"] = ask(http, "/")
    with _client(url, key) as http:
        values["ragflow.ping"] = ping = ask(http, "/api/v1/system/ping")
        if ping.status == 404:
            # Where a server before 0.25 answers.
            values["ragflow.old-ping"] = ask(http, "/v1/system/ping")
            values["ragflow.old-version"] = ask(http, "/v1/system/version")
        if ping.status != 200:
            return values
        values["ragflow.healthz"] = ask(http, "/api/v1/system/healthz")
        values["ragflow.version"] = ask(http, "/api/v1/system/version")
        values["ragflow.language"] = ask(http, "/api/v1/language")
        values["ragflow.providers"] = ask(http, "/api/v1/providers")
        if key:
            values["ragflow.datasets"] = datasets = ask(http, "/api/v1/datasets?page_size=100")
            values["ragflow.chats"] = ask(http, "/api/v1/chats?page_size=100")
            values["kb.unfinished"] = _unfinished(http, datasets)
    return values


def _unfinished(http: httpx.Client, datasets: Reply) -> list[dict[str, Any]]:
    document = _document(datasets)
    rows = document.get("data") if isinstance(document, dict) else None
    found = []
    for dataset in (rows or [])[:10]:
        reply = ask(http, f"/api/v1/datasets/{dataset['id']}/documents?page_size=100")
        page = _document(reply)
        data = page.get("data") if isinstance(page, dict) else None
        for row in (data or {}).get("docs", []) if isinstance(data, dict) else []:
            if row.get("run") in ("RUNNING", "FAIL"):
                minutes = max(time.time() - float(row.get("update_time") or 0) / 1000, 0.0) / 60
                found.append(
                    {
                        "dataset": dataset.get("name"),
                        "name": row.get("name"),
                        "run": row["run"],
                        "minutes": round(minutes),
                    }
                )
    return found
