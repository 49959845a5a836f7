"""`rfctl model ls | show | rm`, and the options of `rfctl model push`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.completion import complete_model
from rfctl.cli.output import human_bytes

if TYPE_CHECKING:
    from rfctl.ollama.answer import ModelCard, ModelEntry
    from rfctl.ollama.ledger import Entry

EXIT_VERDICT = 5


@command("ls")
def ls(app: App) -> None:
    """List the models of the server."""
    with app.ollama() as client:
        entries = client.models()
    app.out.records(entries)
    if not entries:
        app.out.note("ollama.ls-empty", url=client.url)
        return
    columns = ("name", "size", "kind", "quantization", "context", "digest")
    app.out.table(
        [app.out.text(f"ollama.column-{column}") for column in columns],
        [
            (
                entry.name,
                human_bytes(entry.size),
                ", ".join(entry.capabilities) or "-",
                entry.quantization or "-",
                entry.context_length or "-",
                entry.digest[:12],
            )
            for entry in entries
        ],
    )


@command("show")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete_model)
@click.option("--modelfile", is_flag=True, help="Print the Modelfile only.")
def show(app: App, name: str, modelfile: bool) -> None:
    """Show what the server knows of a model, or what a GGUF file says of itself."""
    from rfctl.cli.model_provenance import name_values
    from rfctl.cli.model_verify_source import is_gguf

    if not modelfile and "\0" not in name and (file := Path(name)).is_file() and is_gguf(file):
        from rfctl.cli.model_show_file import show_file

        show_file(app, file)
        return
    with app.ollama() as client:
        entry = client.get(name)
        card = client.show(entry.name)
        known = _find_origin(app, client.url, entry)
    if modelfile:
        app.out.result({"name": name, "modelfile": card.modelfile})
        app.out.piece(card.modelfile if card.modelfile.endswith("\n") else card.modelfile + "\n")
        return
    # The file tells its own origin on every machine; where it was pushed from is known only there.
    origin = name_values(card.model_info)
    if known is not None:
        origin |= {**known.provenance, "source_digest": known.source, "accepted": known.accepted}
    app.out.report({**_document(card, entry), "provenance": origin})
    _print_card(app, card, entry, origin)


@command("rm")
@click.argument("name", shell_complete=complete_model)
@click.option("--yes", is_flag=True)
def rm(app: App, name: str, yes: bool) -> None:
    """Remove a model from the server."""
    from rfctl.cli.consent import confirm

    with app.ollama() as client:
        entry = client.get(name)
        size = human_bytes(entry.size)
        confirm(app, app.out.text("ollama.rm-action", name=entry.name, size=size, url=client.url), yes=yes)
        client.delete(entry.name)
    app.out.result({"name": entry.name, "removed": True})
    app.out.say("ollama.removed", name=entry.name)


@command("push")
@click.argument("source", metavar="DIR_OR_GGUF", type=click.Path(path_type=Path))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.option(
    "--quantize",
    "--outtype",
    "quantize",
    metavar="TYPE",
    help="Type to convert a directory to, such as Q4_K_M or Q8_0.",
)
@click.option("--adapter", metavar="DIR", type=click.Path(path_type=Path), help="LoRA adapter to merge.")
@click.option("--num-ctx", type=click.IntRange(min=1))
@click.option("--system", metavar="TEXT", help="System prompt.")
@click.option("--template", metavar="NAME", help="Prompt format by name, such as chatml or llama3.")
@click.option("--modelfile", type=click.Path(path_type=Path), help="Take the settings of this Modelfile.")
@click.option("--no-verify", is_flag=True, help="Do not check afterwards what the server serves.")
@click.option("--via", type=click.Choice(["auto", "direct", "http"]), default="auto", show_default=True)
@click.option("--store", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--link", is_flag=True)
@click.option("--accept-template-diff", metavar="REASON")
@click.option("--no-provenance", is_flag=True)
@click.option("--to-ragflow", is_flag=True)
@click.option("--yes", is_flag=True)
def push(
    app: App,
    source: Path,
    name: str | None,
    quantize: str | None,
    adapter: Path | None,
    num_ctx: int | None,
    system: str | None,
    template: str | None,
    modelfile: Path | None,
    no_verify: bool,
    via: str,
    store: Path | None,
    link: bool,
    accept_template_diff: str | None,
    no_provenance: bool,
    to_ragflow: bool,
    yes: bool,
) -> None:
    """Register a model with the server, converting a directory first."""
    from rfctl.cli.model_push import accept_push, print_push, push_source, use_push
    from rfctl.cli.model_verify import check_reason
    from rfctl.ollama.modelfile import read_modelfile
    from rfctl.ollama.recipe import Wishes

    reason = check_reason(accept_template_diff)
    given = read_modelfile(modelfile) if modelfile is not None else None
    wishes = Wishes(num_ctx=num_ctx, system=system, template=template, modelfile=given)
    with app.ollama() as client:
        result = push_source(
            app,
            client,
            source,
            name,
            wishes,
            quantize=quantize,
            adapter=adapter,
            verify=not no_verify,
            modelfile_folder=modelfile.parent if modelfile is not None else None,
            via=via,
            store=store,
            link=link,
            provenance=not no_provenance,
            yes=yes,
        )
        if reason:
            result = accept_push(app, client, result, reason)
        usable = use_push(app, client, result) if to_ragflow else None
        print_push(app, result, client.url, usable)
    if result.verdict.value == "failed":
        raise click.exceptions.Exit(EXIT_VERDICT)


def _document(card: ModelCard, entry: ModelEntry | None) -> dict[str, object]:
    return {
        "name": entry.name if entry is not None else card.name,
        "digest": entry.digest if entry is not None else "",
        "size": entry.size if entry is not None else None,
        "blob": card.blob_digest,
        "architecture": card.architecture,
        "parameter_size": card.parameter_size,
        "quantization": card.quantization,
        "context_length": card.context_length,
        "embedding_length": card.embedding_length,
        "capabilities": card.capabilities,
        "parameters": card.parameters,
        "system": card.system,
        "messages": card.messages,
        "template": card.template,
        "license": card.license,
        "model_info": card.model_info,
        "tensors": card.tensors,
        "modified_at": card.modified_at,
    }


def _find_origin(app: App, url: str, entry: ModelEntry | None) -> Entry | None:
    """What was recorded when this very model was pushed from here, or None."""
    from rfctl.cli.model_verify import LEDGER
    from rfctl.ollama.ledger import Ledger

    known = Ledger(app.directories.data / LEDGER).find(url, entry.name) if entry is not None else None
    return known if known is not None and entry is not None and known.manifest == entry.digest else None


def _print_card(app: App, card: ModelCard, entry: ModelEntry | None, origin: Mapping[str, str]) -> None:
    settings = [
        f"{name} {value}"
        for name, values in card.parameters.items()
        for value in (values if isinstance(values, list) else [values])
    ]
    rows: list[tuple[str, object]] = [
        ("name", entry.name if entry is not None else card.name),
        ("architecture", card.architecture),
        ("parameters", card.parameter_size),
        ("quantization", card.quantization),
        ("size", human_bytes(entry.size) if entry is not None else "-"),
        ("context", card.context_length or "-"),
        ("dimensions", card.embedding_length or "-"),
        ("capabilities", ", ".join(card.capabilities) or "-"),
        ("settings", ", ".join(settings) or "-"),
        ("system", card.system or "-"),
        ("template", _shorten(card.template)),
        ("digest", entry.digest[:12] if entry is not None else "-"),
        ("blob", card.blob_digest[:12] or "-"),
    ]
    made_by = [origin[key] for key in ("converter", "reference", "options") if origin.get(key)]
    rows += [("converter", ", ".join(made_by))] if made_by else []
    rows += [
        (f"origin-{key}", origin[key])
        for key in (
            "path",
            "source_sha256",
            "adapter",
            "adapter_sha256",
            "source_digest",
            "pushed",
            "accepted",
        )
        if origin.get(key)
    ]
    (title, first), *rest = [(app.out.text(f"ollama.column-{key}"), str(value)) for key, value in rows]
    app.out.table([title, first], rest)


def _shorten(text: str, limit: int = 60) -> str:
    line = " ".join(text.split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
