"""`rfctl model bundle create | verify | import`: a model in a folder that can be carried."""

from __future__ import annotations

import shlex
import shutil
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import Noun, command
from rfctl.cli.kernel import choose_kernel
from rfctl.cli.output import human_bytes
from rfctl.core.error import RfctlError, UsageError

if TYPE_CHECKING:
    from rfctl.ollama.bundle import Bundle, BundleState
    from rfctl.ollama.modelfile import Modelfile

EXIT_VERDICT = 5

bundle = Noun(
    "bundle",
    {
        "create": "rfctl.cli.model_bundle:create",
        "verify": "rfctl.cli.model_bundle:verify",
        "import": "rfctl.cli.model_bundle:import_bundle",
    },
)


@command("create")
@click.argument("source", metavar="DIR_OR_GGUF", type=click.Path(path_type=Path))
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option("--name", metavar="NAME[:TAG]")
@click.option("--quantize", "--outtype", "quantize", metavar="TYPE")
@click.option("--num-ctx", type=click.IntRange(min=1))
@click.option("--modelfile", metavar="FILE", type=click.Path(path_type=Path))
@click.option("--part-size", metavar="MIB", type=click.IntRange(min=1, max=65536), default=256)
def create(
    app: App,
    source: Path,
    folder: Path,
    name: str | None,
    quantize: str | None,
    num_ctx: int | None,
    modelfile: Path | None,
    part_size: int,
) -> None:
    """Write the bundle of a GGUF file, or of a model directory that is converted first."""
    from rfctl.cli.model_push import default_name
    from rfctl.ollama.bundle import create_bundle

    if not source.exists():
        raise UsageError("ollama.push-source", path=source)
    settings = _collect_settings(modelfile, num_ctx)
    work = app.directories.cache / "bundle"
    gguf = source
    try:
        if source.is_dir():
            from rfctl.converter import convert as conversion

            work.mkdir(parents=True, exist_ok=True)
            gguf = work / f"{default_name(source)}.gguf"
            choose_kernel(app, source, quantize or "auto")
            conversion.convert(
                source, gguf, outtype=quantize or "auto", overwrite=True, reporter=app.reporter()
            )
        elif quantize is not None:
            raise UsageError("ollama.push-quantize-gguf")
        made = create_bundle(
            gguf,
            folder,
            name or default_name(source),
            modelfile=settings,
            part_bytes=part_size << 20,
            reporter=app.reporter(),
        )
    except OSError as error:
        raise RfctlError("bundle.failed", path=folder, detail=error.strerror or str(error)) from error
    finally:
        if source.is_dir():
            shutil.rmtree(work, ignore_errors=True)
    place = f"{socket.gethostname()}:{shlex.quote(str(folder.resolve()))}"
    commands = [f"rsync -avP --partial USER@{place} .", f"sftp -a -r USER@{place} ."]
    app.out.report({**_document(made), "fetch": commands})
    app.out.say(
        "bundle.created", path=folder, name=made.name, size=human_bytes(made.size), count=len(made.parts)
    )
    app.out.note("bundle.fetch")
    for line in commands:
        app.out.line(f"  {line}")
    app.out.note("bundle.next", path=folder.name)


@command("verify")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
def verify(app: App, folder: Path) -> None:
    """Exit code 5 when something is missing or damaged."""
    from rfctl.ollama.bundle import verify_bundle

    state: BundleState = verify_bundle(folder, reporter=app.reporter())
    app.out.report(
        {
            **_document(state.bundle),
            "complete": state.is_complete,
            "missing": state.missing,
            "damaged": state.damaged,
            "bytes_here": state.bytes_here,
        }
    )
    here, size = human_bytes(state.bytes_here), human_bytes(state.bundle.size)
    if state.is_complete:
        app.out.say("bundle.complete", path=folder, name=state.bundle.name, size=size)
        return
    app.out.say(
        "bundle.partial", path=folder, here=here, size=size, files=_shorten(state.missing, state.damaged)
    )
    raise click.exceptions.Exit(EXIT_VERDICT)


@command("import")
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("name", metavar="[NAME[:TAG]]", required=False)
@click.option("--via", type=click.Choice(["auto", "direct", "http"]), default="auto", show_default=True)
@click.option("--store", metavar="DIR", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--no-verify", is_flag=True)
@click.option("--yes", is_flag=True)
def import_bundle(
    app: App,
    folder: Path,
    name: str | None,
    via: str,
    store: Path | None,
    no_verify: bool,
    yes: bool,
) -> None:
    """Put the parts together and register the model; an interrupted import goes on where it ended."""
    from rfctl.cli.model_push import print_push, push_source
    from rfctl.ollama.bundle import assemble_bundle, read_bundle, read_settings
    from rfctl.ollama.ledger import Ledger
    from rfctl.ollama.recipe import Wishes

    found = read_bundle(folder)
    wishes = Wishes(modelfile=read_settings(found))
    work = app.directories.cache / "bundle"
    target = work / f"{found.sha256[:16]}.gguf"
    with app.ollama() as client:
        try:
            if not target.is_file():
                assemble_bundle(found, target, reporter=app.reporter())
            # Hashed while it was put together.
            Ledger(app.directories.data / "ollama-ledger.json").record_digest(
                target, "as-is", f"sha256:{found.sha256}"
            )
        except OSError as error:
            raise RfctlError("bundle.failed", path=target, detail=error.strerror or str(error)) from error
        result = push_source(
            app,
            client,
            target,
            name or found.name,
            wishes,
            verify=not no_verify,
            via=via,
            store=store,
            link=True,
            yes=yes,
        )
        print_push(app, result, client.url)
    target.unlink(missing_ok=True)
    if result.verdict.value == "failed":
        raise click.exceptions.Exit(EXIT_VERDICT)


def _collect_settings(path: Path | None, num_ctx: int | None) -> Modelfile | None:
    from rfctl.ollama.modelfile import Command, Modelfile, read_modelfile

    commands = list(read_modelfile(path).commands) if path is not None else []
    if num_ctx is not None:
        commands = [item for item in commands if item.name != "num_ctx"]
        commands.append(Command("num_ctx", str(num_ctx)))
    return Modelfile(tuple(commands)) if commands else None


def _document(made: Bundle) -> dict[str, object]:
    return {
        "folder": made.folder,
        "name": made.name,
        "file": made.file,
        "size": made.size,
        "sha256": made.sha256,
        "parts": len(made.parts),
        "origin": made.origin,
    }


def _shorten(missing: tuple[str, ...], damaged: tuple[str, ...], most: int = 6) -> str:
    names = [*missing, *damaged]
    return ", ".join(names[:most]) + (f", +{len(names) - most}" if len(names) > most else "")
