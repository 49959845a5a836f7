"""`rfctl kb use-model`: a model of a model server becomes one that RAGFlow's assistants can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.model_server import PROVIDERS, Kind, use_served
from rfctl.cli.ragflow_model import register
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ollama.client import OllamaClient
    from rfctl.ragflow_client.model import Model


@command("use-model")
@click.argument("name", metavar="NAME[:TAG]")
@click.option("--ollama-url", metavar="URL")
@click.option("--provider", type=click.Choice(PROVIDERS))
@click.option("--model-url", metavar="URL")
@click.option("--context", type=click.IntRange(min=64), metavar="N")
@click.option("--kind", type=click.Choice(["chat", "embedding"]))
@click.option("--default", "make_default", is_flag=True)
def use_model(
    app: App,
    name: str,
    ollama_url: str | None,
    provider: str | None,
    model_url: str | None,
    context: int | None,
    kind: Kind | None,
    make_default: bool,
) -> None:
    """The first chat model and the first embedding model become the defaults by themselves."""
    if provider:
        if not model_url:
            raise UsageError("provider.url-missing", provider=provider)
        default = make_default or None
        with app.ragflow() as ragflow:
            served = use_served(
                app, ragflow, name, provider, model_url, context=context or 0, kind=kind, default=default
            )
        app.out.report(
            {
                "unchanged": not served.changed,
                "model": served.model,
                "full_name": served.model.full_name,
                "context": served.context,
                "url": served.url,
                "proof": served.proof,
            }
        )
        print_use(app, served.model, changed=served.changed)
        if served.proof is not None:
            proof = served.proof
            app.out.note("kb.model-proved", seconds=proof.seconds, similarity=proof.similarity)
        return
    for option, value in (("--model-url", model_url), ("--context", context), ("--kind", kind)):
        if value:
            raise UsageError("provider.option-alone", option=option)
    with app.ollama() as client:
        model, changed = use(app, client, name, address=ollama_url or "", default=make_default or None)
    app.out.report({"unchanged": not changed, "model": model, "full_name": model.full_name})
    print_use(app, model, changed=changed)


def use(
    app: App,
    client: OllamaClient,
    name: str,
    *,
    num_ctx: int = 0,
    address: str = "",
    default: bool | None = None,
) -> tuple[Model, bool]:
    """(the model as RAGFlow has it, whether anything was changed). Raises as `ragflow_model.register`."""
    with app.ragflow() as ragflow:
        done = register(app, ragflow, client, name, num_ctx=num_ctx, address=address, default=default)
    model = done.chat or done.embedding
    assert model is not None
    return model, done.changed


def print_use(app: App, model: Model, *, changed: bool) -> None:
    """What was done, and the command that comes next."""
    app.out.say("kb.model-used" if changed else "kb.model-unchanged", name=model.full_name)
    if model.is_default:
        app.out.note("kb.model-default", name=model.name, kind=app.out.text(f"kb.kind-{model.kind}"))
    if model.kind == "chat":
        app.out.note("kb.model-next", name=model.name)
