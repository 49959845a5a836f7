"""`rfctl stack setup`: from a fresh RAGFlow server to one that answers, without a browser."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.config import edit
from rfctl.cli.model_server import PROVIDERS, use_served
from rfctl.cli.ragflow_model import choose_entry, find_address, specify, warm
from rfctl.cli.stack_account import Key, Place, find_key, find_place, open_page
from rfctl.core.error import UnreachableError, UsageError
from rfctl.stack.ollama_address import PORT, local_url

if TYPE_CHECKING:
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.ownership import SameView
    from rfctl.ragflow_client.proof import Proof
    from rfctl.ragflow_client.provider import Registration
    from rfctl.ragflow_client.transport import Api

PROFILE = "docker"


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
    from rfctl.ragflow_client.ownership import compare_views
    from rfctl.ragflow_client.transport import Api

    if provider and not (model_url and chat_model):
        raise UsageError("setup.provider-needs", provider=provider)
    if model_url and not provider:
        raise UsageError("provider.option-alone", option="--model-url")
    place = find_place(app, url)
    with Ragflow(Api(place.url, None)) as stranger:
        from rfctl.ragflow_client.server import read_version

        try:
            read_version(stranger.api)  # refuses what is no RAGFlow before a password goes there
        except UnreachableError as error:
            if not place.env:
                raise
            raise UnreachableError("setup.stack-down", url=place.url) from error
    key = find_key(app, place, email, register=not no_register)
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
        with open_page(place, key) as page:
            view = compare_views(ragflow.api, page) if page is not None else None
            proof = None if no_proof else _prove(app, ragflow, registration, page)
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
            "web_page": view,
            "proof": proof,
        }
    )
    _print(app, place, key, registration, proof, view, unchanged=unchanged)


def _register(
    app: App,
    ragflow: Ragflow,
    place: Place,
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


def _use(app: App, place: Place, ollama_url: str) -> bool:
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


def _prove(app: App, ragflow: Ragflow, registration: Registration, page: Api | None) -> Proof:
    from rfctl.ragflow_client.proof import prove

    assert registration.embedding is not None
    return prove(ragflow.api, registration.embedding, registration.chat, page=page, reporter=app.reporter())


def _print(
    app: App,
    place: Place,
    key: Key,
    registration: Registration,
    proof: Proof | None,
    view: SameView | None,
    *,
    unchanged: bool,
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
    if view is not None:
        out.say("setup.same-view", email=key.email, datasets=view.datasets, chats=view.chats)
    elif key.email:
        out.say("setup.page-account", email=key.email)
    out.say("setup.unchanged" if unchanged else "setup.ready", url=place.url)
    out.note("setup.next")
