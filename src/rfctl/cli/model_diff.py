"""`rfctl model diff A B`: which keys and tensors of two GGUF files differ, and by how much."""

from __future__ import annotations

from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.model_verify_source import EXIT_VERDICT, print_comparison


@command("diff")
@click.argument("first", metavar="A", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.argument("second", metavar="B", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def diff(app: App, first: Path, second: Path) -> None:
    """Exit code 5 when they differ."""
    from rfctl.converter.compare import compare_files
    from rfctl.converter.gguf_file import open_gguf

    comparison = compare_files(open_gguf(first), open_gguf(second), reporter=app.reporter())
    app.out.report(
        {
            "first": first,
            "second": second,
            "is_same": comparison.is_same,
            "keys": comparison.keys,
            "tensors": comparison.tensors,
            "tensor_count": comparison.tensor_count,
            "same_count": comparison.same_count,
        }
    )
    print_comparison(app, comparison, "model.side-first", "model.side-second")
    if not comparison.is_same:
        raise click.exceptions.Exit(EXIT_VERDICT)
    app.out.say("model.differ-none", first=first, second=second)
