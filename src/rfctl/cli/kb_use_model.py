"""`rfctl kb use-model`: a model of the Ollama server becomes one that RAGFlow's assistants can use."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.ragflow_model import register

if TYPE_CHECKING:
    from rfctl.ollama.client import OllamaClient
    from rfctl.ragflow_client.model import Model


@command("use-model")
@click.argument("name", metavar="NAME[:TAG]")
@click.option("--ollama-url", metavar="URL")
@click.option("--default", "make_default", is_flag=True)
def use_model(app: App, name: str, ollama_url: str | None, make_default: bool) -> None:
    """The first chat model and the first embedding model become the defaults by themselves."""
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
