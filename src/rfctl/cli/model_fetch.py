"""`rfctl model fetch`: a model from a server that only ssh reaches."""

from __future__ import annotations

from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.output import human_bytes
from rfctl.core.catalog import quote_path
from rfctl.core.error import RfctlError


@command("fetch")
@click.argument("source", metavar="[USER@]HOST:PATH")
@click.argument("folder", required=False, default=".", type=click.Path(file_okay=False, path_type=Path))
@click.option("--exclude", multiple=True, metavar="GLOB")
@click.option("--ssh-port", type=click.IntRange(1, 65535), metavar="N")
@click.option("--ssh-config", type=click.Path(exists=True, dir_okay=False, path_type=Path), metavar="FILE")
def fetch(
    app: App,
    source: str,
    folder: Path,
    exclude: tuple[str, ...],
    ssh_port: int | None,
    ssh_config: Path | None,
) -> None:
    """A file or a directory; the same command goes on after Ctrl-C or a broken line."""
    from rfctl.stack.fetch import fetch as bring
    from rfctl.stack.fetch_remote import parse_source

    place = parse_source(
        source, ssh_port=ssh_port or 0, config=str(ssh_config.absolute()) if ssh_config else ""
    )
    try:
        found = bring(place, folder, exclude=exclude, reporter=app.reporter())
    except KeyboardInterrupt:
        app.out.note("bring.resume")
        raise
    except OSError as error:
        raise RfctlError("bring.unwritable", path=folder, detail=str(error)) from error
    app.out.report({"unchanged": not any(one.is_new for one in found), "source": source, "files": found})
    for one in found:
        size = human_bytes(one.size)
        app.out.say("bring.done" if one.is_new else "bring.same", path=one.path, size=size, sha256=one.sha256)
    first = str(found[-1].path if len(found) == 1 else folder / place.path.rpartition("/")[2])
    app.out.note("bring.next", path=quote_path(f"./{first}" if first.startswith("-") else first))
