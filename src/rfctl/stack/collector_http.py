"""Evidence from the two servers by HTTP. No redirect is followed; answers are read up to 1 MiB."""

from __future__ import annotations

import contextlib
import ipaddress
import json
import platform
import socket
import time
from collections.abc import Mapping
from importlib import metadata
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from rfctl.core.address import is_loopback
from rfctl.ragflow_client.account import encrypt_password
from rfctl.stack.check_ollama import models_with
from rfctl.stack.evidence import Reply

SECONDS = 2.0
MAX_BODY = 1 << 20
MAX_SHOWN = 5
DEFAULT_OLLAMA = "http://127.0.0.1:11434"
# Of RAGFlow's admin server (v0.23 and later), with the password "admin".
DEFAULT_ADMIN = "admin@ragflow.io"


def ask(
    http: httpx.Client, path: str, *, method: str = "GET", body: object = None, seconds: float = SECONDS
) -> Reply:
    """One exchange; what went wrong is in `Reply.error`."""
    try:
        with http.stream(method, path, json=body, timeout=seconds) as response:
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


def collect_ollama(url: str, *, patience: float = 0) -> dict[str, Any]:
    """url: "" when none is configured (the usual address of this machine is tried then).

    patience: seconds for a call to a model that has to be loaded first; 0: only loaded models are called.
    """
    place = url or DEFAULT_OLLAMA
    values: dict[str, Any] = {
        "ollama.url": place,
        "ollama.is-configured": bool(url),
        "ollama.is-local": is_loopback(place) or _is_own_address(place),
    }
    with _client(place) as http:
        values["ollama.version"] = version = ask(http, "/api/version")
        if version.status != 200:
            return values
        values["ollama.tags"] = tags = ask(http, "/api/tags")
        values["ollama.ps"] = loaded = ask(http, "/api/ps")
        shown = {}
        for name in _names(tags)[:MAX_SHOWN]:
            reply = ask(http, "/api/show", method="POST", body={"model": name})
            if reply.status == 200 and isinstance(entry := _document(reply), dict):
                capabilities = entry.get("capabilities")
                if capabilities is None or "completion" in capabilities:
                    shown[name] = _shown(entry)
        values["ollama.shown"] = shown
        for kind, capability, path, body in _CALLS:
            names = models_with(_document(tags), capability)
            ready = [name for name in names if name in _names(loaded)] or (names if patience else [])
            if ready:
                values |= _call(http, kind, path, {"model": ready[0], **body}, patience)
    return values


# The smallest real use of a model of each kind.
_CALLS: tuple[tuple[str, str, str, dict[str, object]], ...] = (
    (
        "chat",
        "completion",
        "/api/chat",
        {"messages": [{"role": "user", "content": "1"}], "stream": False, "options": {"num_predict": 1}},
    ),
    ("embed", "embedding", "/api/embed", {"input": "1"}),
)


def _call(
    http: httpx.Client, kind: str, path: str, body: Mapping[str, object], patience: float
) -> dict[str, Any]:
    reply = ask(http, path, method="POST", body=body, seconds=patience or SECONDS)
    if reply.error == "timeout" and not patience:
        return {}  # busy, which says nothing about the model
    values: dict[str, Any] = {f"ollama.{kind}": reply, f"ollama.{kind}-model": body["model"]}
    if reply.status == 200:
        values[f"ollama.{kind}"] = Reply(200)
        with contextlib.suppress(KeyError, TypeError, IndexError):
            values[f"ollama.{kind}-dimension"] = len(_document(reply)["embeddings"][0])
    return values


def _shown(entry: Mapping[str, Any]) -> dict[str, Any]:
    """What ends an answer: a stop parameter, or the vocabulary's own end token; None when nobody tells."""
    stops: bool | None = "stop" in str(entry.get("parameters", ""))
    if not stops:
        info = entry.get("model_info")
        stops = "tokenizer.ggml.eos_token_id" in info if isinstance(info, dict) and info else None
    return {"template": entry.get("template", ""), "stops": stops}


def _is_own_address(url: str) -> bool:
    """Whether the host of `url` is a number that this machine has (Ollama on Docker's bridge)."""
    with contextlib.suppress(OSError, ValueError):
        address = ipaddress.ip_address(urlsplit(url).hostname or "")
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.bind((str(address), 0))
            return True
    return False


def _names(reply: Reply) -> list[str]:
    return [str(model["name"]) for model in _objects(_document(reply), "models") if "name" in model]


def _objects(document: Any, name: str) -> list[dict[str, Any]]:
    """The objects in a list of an answer; a server may send anything."""
    rows = document.get(name) if isinstance(document, dict) else None
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


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
        if is_loopback(url):
            values["ragflow.default-login"] = _try_default_login(http)
        if key:
            datasets = ask(http, "/api/v1/datasets?page_size=100")
            values["ragflow.datasets"] = _pruned(datasets, ("id", "name", "embedding_model", "chunk_count"))
            chats = ask(http, "/api/v1/chats?page_size=100")
            values["ragflow.chats"] = _pruned(chats, ("id", "dataset_ids", "datasets"))
            values["kb.unfinished"] = _unfinished(http, datasets)
            # Whose the key is (web_page.toml of the RAGFlow client); of the account only its address is kept.
            account = _document(ask(http, "/api/v1/users/me"))
            data = account.get("data") if isinstance(account, dict) else None
            if isinstance(data, dict) and isinstance(data.get("email"), str):
                values["ragflow.account"] = data["email"]
    return values


def _try_default_login(http: httpx.Client) -> Reply:
    """Whether the account that upstream's admin server makes is open; only tried on one's own machine.

    The session that a login opens is not kept: of the answer only its code is.
    """
    body = {"email": DEFAULT_ADMIN, "password": encrypt_password("admin")}
    reply = ask(http, "/api/v1/auth/login", method="POST", body=body)
    if reply.status == 404:
        reply = ask(http, "/v1/user/login", method="POST", body=body)
    document = _document(reply)
    code = document.get("code") if isinstance(document, dict) else None
    return Reply(reply.status, json.dumps({"code": code}), reply.error)


def _pruned(reply: Reply, names: tuple[str, ...]) -> Reply:
    """The fields that checks read: prompts and descriptions are nobody else's business."""
    document = _document(reply)
    if not isinstance(document, dict) or not isinstance(document.get("data"), list):
        return reply
    rows = [
        {name: row[name] for name in names if name in row}
        for row in document["data"]
        if isinstance(row, dict)
    ]
    return Reply(reply.status, json.dumps({"code": document.get("code"), "data": rows}, ensure_ascii=False))


def _unfinished(http: httpx.Client, datasets: Reply) -> list[dict[str, Any]]:
    found = []
    for dataset in _objects(_document(datasets), "data")[:10]:
        id = quote(str(dataset.get("id")), safe="", errors="replace")
        reply = ask(http, f"/api/v1/datasets/{id}/documents?page_size=100")
        page = _document(reply)
        for row in _objects(page.get("data") if isinstance(page, dict) else None, "docs"):
            if row.get("run") not in ("RUNNING", "FAIL"):
                continue
            begun = row.get("update_time")
            begun = begun / 1000 if isinstance(begun, int | float) else 0.0
            found.append(
                {
                    "dataset": str(dataset.get("name")),
                    "name": str(row.get("name")),
                    "run": row["run"],
                    "minutes": round(max(time.time() - begun, 0.0) / 60),
                }
            )
    return found
