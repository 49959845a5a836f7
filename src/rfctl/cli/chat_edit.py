"""`rfctl chat create`, `edit` and `show`: what an assistant is made of."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.completion import complete_model
from rfctl.cli.kb import choose
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ragflow_client.chat_file import ChatFile


def chat_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Options of a verb that sets up an assistant; what is not given is None."""
    share = click.FloatRange(0, 1)
    for option in reversed(
        (
            click.option("--kb", metavar="NAME", multiple=True),
            click.option("--model", metavar="MODEL", default="", shell_complete=complete_model),
            click.option("--file", metavar="FILE.toml", type=click.Path(path_type=Path)),
            click.option("--system", metavar="TEXT"),
            click.option("--opener", metavar="TEXT"),
            click.option("--empty-response", metavar="TEXT"),
            click.option("--top-n", type=click.IntRange(1, 100)),
            click.option("--top-k", type=click.IntRange(1, 2048)),
            click.option("--threshold", "similarity_threshold", type=share),
            click.option("--vector-weight", "vector_similarity_weight", type=share),
            click.option("--temperature", type=click.FloatRange(0, 2)),
            click.option("--top-p", type=share),
            click.option("--refine-multiturn/--no-refine-multiturn", default=None),
        )
    ):
        function = option(function)
    return function


@command("create")
@click.argument("name")
@click.option("--no-kb", is_flag=True)
@chat_options
def create(
    app: App, name: str, kb: tuple[str, ...], model: str, file: Path | None, no_kb: bool, **values: Any
) -> None:
    """Create an assistant; one of that name that fits is left as it is."""
    from rfctl.ragflow_client.chat_option import ChatOptions

    described, given = _wishes(file, values)
    wanted = None if no_kb else (kb or described.kb)
    if no_kb and kb:
        raise UsageError("chat.kb-and-none")
    nothing = {"empty_response": app.out.text("chat.empty-response")}
    with app.ragflow() as ragflow:
        if no_kb or wanted == ():
            datasets = []
        else:
            datasets = [ragflow.dataset(one) for one in wanted or ()] or [choose(app, ragflow, None)]
        options = ChatOptions(**((nothing if datasets else {}) | given))
        chat, is_new = ragflow.create_chat(
            name, datasets, model=model or described.model, options=options, insist=tuple(given)
        )
    app.out.report({"unchanged": not is_new, "chat": chat})
    names = ", ".join(one.name for one in datasets) or "-"
    app.out.say("chat.created" if is_new else "chat.exists", name=chat.name, model=chat.model, kb=names)


@command("edit")
@click.argument("name")
@click.option("--name", "new_name", metavar="NAME", default="")
@click.option("--no-kb", is_flag=True)
@chat_options
def edit(
    app: App,
    name: str,
    new_name: str,
    kb: tuple[str, ...],
    model: str,
    file: Path | None,
    no_kb: bool,
    **values: Any,
) -> None:
    """Change what is given of an assistant; the rest and its conversations stay."""
    if no_kb and kb:
        raise UsageError("chat.kb-and-none")
    described, given = _wishes(file, values)
    wanted = () if no_kb else (kb or described.kb)
    model = model or described.model
    if not (given or new_name or model or wanted is not None):
        raise UsageError("chat.nothing-to-edit", name=name)
    with app.ragflow() as ragflow:
        chat = ragflow.chat(name)
        datasets = None if wanted is None else [ragflow.dataset(one) for one in wanted]
        chat, changed = ragflow.edit_chat(chat, name=new_name, datasets=datasets, model=model, options=given)
    app.out.report({"unchanged": not changed, "changed": changed, "chat": chat})
    if changed:
        app.out.say("chat.edited", name=chat.name, options=", ".join(changed))
    else:
        app.out.say("chat.not-edited", name=chat.name)


@command("show")
@click.argument("name", required=False)
def show(app: App, name: str | None) -> None:
    """Show an assistant with its settings."""
    from rfctl.cli.chat import pick_chat

    with app.ragflow() as ragflow:
        chat = pick_chat(app, ragflow, name, usage="show NAME")
        options = ragflow.chat_options(chat)
    app.out.report({"chat": chat, "options": options})
    rows = {
        "name": chat.name,
        "kb": ", ".join(chat.dataset_names) or "-",
        "model": chat.model,
        **options,
    }
    width = max(len(key) for key in rows)
    for key, value in rows.items():
        first, *more = str(value).splitlines() or [""]
        app.out.line(f"{key:<{width}}  {first}".rstrip())
        for line in more:
            app.out.line(f"{'':<{width}}  {line}".rstrip())


def _wishes(file: Path | None, values: dict[str, Any]) -> tuple[ChatFile, dict[str, Any]]:
    """What the file says, and all options given; flags go before the file."""
    from rfctl.ragflow_client.chat_file import ChatFile, read_chat_file

    described = ChatFile() if file is None else read_chat_file(file)
    given = {key: value for key, value in values.items() if value is not None}
    return described, {**described.options, **given}
