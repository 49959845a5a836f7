"""`rfctl stack setup`: from a fresh RAGFlow server to one that answers, without a browser."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.config import edit
from rfctl.cli.model_server import PROVIDERS, use_served
from rfctl.cli.ragflow_model import choose_entry, find_address, read_secret, specify, warm
from rfctl.core.address import is_loopback
from rfctl.core.credential import RAGFLOW_VARIABLES, find_ragflow_key, store_ragflow_key
from rfctl.core.error import AuthError, UsageError
from rfctl.stack.ollama_address import PORT, local_url
from rfctl.stack.project import Project

if TYPE_CHECKING:
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.proof import Proof
    from rfctl.ragflow_client.provider import Registration

PROFILE = "docker"
_EMAIL, _PASSWORD = "RFCTL_ADMIN_EMAIL", "RFCTL_ADMIN_PASSWORD"


@dataclass(frozen=True)
class _Place:
    """url: RAGFlow as this machine reaches it; env: the settings of the stack when it is the stack's."""

    url: str
    env: dict[str, str]


@dataclass(frozen=True)
class _Key:
    """origin: "stored", a variable, or "account" when it came from a login."""

    secret: str
    origin: str
    email: str = ""
    made_account: bool = False
    made_key: bool = False


@command("setup")
@click.option("--url", metavar="URL")
@click.option("--email", metavar="ADDRESS")
@click.option("--ollama-url", metavar="URL")
@click.option("--chat-model", metavar="NAME")
@click.option("--embedding-model", metavar="NAME")
@click.option("--provider", type=click.Choice(PROVIDERS))
@click.option("--model-url", metavar="URL")
@click.option("--no-register", is_flag=True)
@click.option("--no-proof", is_flag=True)
def setup(
    app: App,
    url: str | None,
    email: str | None,
    ollama_url: str | None,
    chat_model: str | None,
    embedding_model: str | None,
    provider: str | None,
    model_url: str | None,
    no_register: bool,
    no_proof: bool,
) -> None:
    """Done again it changes nothing that is as it should be."""
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.transport import Api

    if provider and not (model_url and chat_model):
        raise UsageError("setup.provider-needs", provider=provider)
    if model_url and not provider:
        raise UsageError("provider.option-alone", option="--model-url")
    place = _find_place(app, url)
    with Ragflow(Api(place.url, None)) as stranger:
        from rfctl.ragflow_client.server import read_version

        read_version(stranger.api)  # refuses what is no RAGFlow before a password goes there
    key = _find_key(app, place, email, register=not no_register)
    with Ragflow(Api(place.url, key.secret)) as ragflow:
        if ragflow.server.is_embedded:
            raise UsageError("setup.embedded")
        served = None
        if provider and model_url and chat_model:
            served = use_served(app, ragflow, chat_model, provider, model_url, kind="chat", default=True)
        registration, local = _register(
            app, ragflow, place, ollama_url, chat_model, embedding_model, has_chat=served is not None
        )
        if served is not None:
            changed = registration.changed or served.changed
            registration = replace(registration, chat=served.model, changed=changed)
        used = _use(app, place, local)
        proof = None if no_proof else _prove(app, ragflow, registration)
        server = ragflow.server
    unchanged = not (key.made_account or key.made_key or registration.changed or used)
    app.out.report(
        {
            "unchanged": unchanged,
            "url": place.url,
            "server": server.text,
            "account": key.email or None,
            "made_account": key.made_account,
            "made_key": key.made_key,
            "key_from": key.origin,
            "instance": registration.instance,
            "chat_model": registration.chat.full_name if registration.chat else None,
            "embedding_model": registration.embedding.full_name if registration.embedding else None,
            "profile": app.settings.endpoints().name,
            "proof": proof,
        }
    )
    _print(app, place, key, registration, proof, unchanged=unchanged)


def _find_place(app: App, url: str | None) -> _Place:
    """Raises UsageError `setup.no-server`."""
    from rfctl.ragflow_client.address import normalise_url
    from rfctl.stack.lifecycle import api_url

    project = Project(app.directories.data / "stack")
    env = project.read() if project.is_initialised else {}
    wanted = url or app.settings.endpoints().ragflow_url or (api_url(env) if env else "")
    if not wanted:
        raise UsageError("setup.no-server")
    place = normalise_url(wanted)
    return _Place(place, env if env and place == api_url(env) else {})


def _find_key(app: App, place: _Place, email: str | None, *, register: bool) -> _Key:
    """A key that the server takes: the known one, else one of the account. It is stored when it is new."""
    from rfctl.ragflow_client.account import Account, obtain_key

    folder = app.directories.config
    known = find_ragflow_key(place.url, os.environ, folder, keyring=app.settings.uses_keyring)
    if known is not None:
        try:
            _try_key(place.url, known.secret)
            return _Key(known.secret, known.origin)
        except AuthError:
            # A key of an earlier installation is replaced; one that somebody set by hand is not.
            if known.origin.removesuffix("_FILE") in RAGFLOW_VARIABLES:
                raise
    if place.url.startswith("http:") and not is_loopback(place.url):
        app.out.warn("setup.plain-http", url=place.url)
    account = Account(*_ask_account(app, place, email))
    access = obtain_key(place.url, account, register=register)
    stored = store_ragflow_key(place.url, access.api_key, folder, keyring=app.settings.uses_keyring)
    if stored.problem:
        app.out.warn("auth.keyring-failed", path=stored.place, detail=stored.problem)
    return _Key(access.api_key, "account", account.email, access.made_account, access.made_key)


def _try_key(url: str, secret: str) -> None:
    """Raises AuthError for a key that the server refuses."""
    from rfctl.ragflow_client.transport import Api

    with Api(url, secret) as api:
        api.call("GET", "/datasets", params={"page": 1, "page_size": 1})


def _ask_account(app: App, place: _Place, email: str | None) -> tuple[str, str]:
    """(address, password): from the stack's settings, the environment, a prompt, or a line of input."""
    own = place.env.get(_EMAIL, "")
    address = email or own or os.environ.get(_EMAIL, "").strip()
    is_terminal = sys.stdin.isatty()
    if not address:
        if not is_terminal:
            raise UsageError("setup.no-email")
        address = click.prompt(app.out.text("setup.prompt-email", url=place.url), err=True).strip()
    password = place.env.get(_PASSWORD, "") if address == own else ""
    password = password or read_secret(_PASSWORD)
    if not password and is_terminal:
        text = app.out.text("setup.prompt-password", email=address, url=place.url)
        password = click.prompt(text, hide_input=True, err=True)
    elif not password:
        password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise UsageError("setup.no-password")
    return address, password


def _register(
    app: App,
    ragflow: Ragflow,
    place: _Place,
    ollama_url: str | None,
    chat_model: str | None,
    embedding_model: str | None,
    *,
    has_chat: bool,
) -> tuple[Registration, str]:
    """(what RAGFlow uses now, Ollama's address for this machine). has_chat: another server chats."""
    from rfctl.ollama.client import OllamaClient

    local = app.settings.endpoints().ollama_url or local_url(place.env) or f"http://127.0.0.1:{PORT}"
    with OllamaClient(local, token=os.environ.get("OLLAMA_API_KEY", "").strip()) as client:
        entries = [] if has_chat else [choose_entry(client, "chat", chat_model or "")]
        entries.append(choose_entry(client, "embedding", embedding_model or ""))
        specs = [specify(app, client, entry) for entry in entries]
        names = [entry.name for entry in entries]
        address = find_address(app, ragflow, client.url, names, ollama_url or "")
        for entry in entries:
            warm(app, client, entry)
        local = client.url
    chat = None if has_chat else specs[0]
    registration = ragflow.ensure_models(
        ollama_url=address, chat=chat, embedding=specs[-1], reporter=app.reporter()
    )
    return registration, local


def _use(app: App, place: _Place, ollama_url: str) -> bool:
    """Make these two servers what commands talk to, unless they are already; whether a file was changed.

    Only who has chosen no servers yet is led there; who has gets a profile, or is told how to make one.
    """
    from rfctl.ragflow_client.address import normalise_url

    profile = app.settings.endpoints()
    if profile.ragflow_url and normalise_url(profile.ragflow_url) == place.url:
        return False
    mine = app.settings.profiles.get(PROFILE)
    if mine is not None and mine.ragflow_url and normalise_url(mine.ragflow_url) != place.url:
        app.out.note("setup.profile-hint", ollama=ollama_url, ragflow=place.url)
        return False
    path = app.settings.user_file
    changed = [
        edit(path, f"profiles.{PROFILE}.ollama_url", ollama_url),
        edit(path, f"profiles.{PROFILE}.ragflow_url", place.url),
    ]
    if app.settings.get("profile") or profile.ragflow_url:
        app.out.note("setup.profile-made", profile=PROFILE)
    else:
        changed.append(edit(path, "profile", PROFILE))
    app.__dict__.pop("settings", None)
    return any(changed)


def _prove(app: App, ragflow: Ragflow, registration: Registration) -> Proof:
    from rfctl.ragflow_client.proof import prove

    assert registration.embedding is not None
    return prove(ragflow.api, registration.embedding, registration.chat, reporter=app.reporter())


def _print(
    app: App, place: _Place, key: _Key, registration: Registration, proof: Proof | None, *, unchanged: bool
) -> None:
    out = app.out
    if key.made_account:
        out.say("setup.made-account", email=key.email, url=place.url)
    if key.origin == "account":
        out.say("setup.stored-key", url=place.url)
    for kind, model in (("chat", registration.chat), ("embedding", registration.embedding)):
        if model is not None:
            out.say(f"setup.{kind}-model", name=model.full_name)
    if proof is not None:
        out.say("setup.proved", seconds=proof.seconds, similarity=proof.similarity)
    else:
        out.warn("setup.not-proved")
    out.say("setup.unchanged" if unchanged else "setup.ready", url=place.url)
    out.note("setup.next")
