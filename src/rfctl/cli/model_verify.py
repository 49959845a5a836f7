"""`rfctl model verify`: does the server make the prompt of the training? Of a GGUF file: is it sound?"""

from __future__ import annotations

from pathlib import Path

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.completion import complete_model
from rfctl.cli.model_verify_source import is_gguf, verify_file
from rfctl.core.error import UsageError

EXIT_VERDICT = 5
LEDGER = "ollama-ledger.json"


@command("verify")
@click.argument("name", metavar="NAME|FILE", shell_complete=complete_model)
@click.argument("source", metavar="[DIR]", required=False, type=click.Path(exists=True, path_type=Path))
@click.option("--trained-with", metavar="TEMPLATE")
@click.option("--gguf", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--accept-template-diff", metavar="REASON")
@click.option("--adapter", metavar="DIR", type=click.Path(exists=True, path_type=Path))
@click.option("--weights-only", is_flag=True)
@click.option("--fill-context", is_flag=True)
def verify(
    app: App,
    name: str,
    source: Path | None,
    trained_with: str | None,
    gguf: Path | None,
    accept_template_diff: str | None,
    adapter: Path | None,
    weights_only: bool,
    fill_context: bool,
) -> None:
    """Exit code 5 when a prompt differs, an answer does not end, or the model is not served for its use."""
    if is_gguf(Path(name)):
        if not Path(name).exists():
            raise UsageError("core.file-missing", path=name)
        verify_file(app, Path(name), source, adapter, weights_only)
        return
    if source is not None or adapter is not None or weights_only:
        raise UsageError("model.verify-no-file", name=name)
    from rfctl.ollama.training import find_training_template
    from rfctl.ollama.verify import verify_model

    training = find_training_template(trained_with) if trained_with is not None else None
    reason = check_reason(accept_template_diff)
    with app.ollama() as client:
        result = verify_model(
            client,
            name,
            gguf=gguf,
            training=training,
            ledger_path=app.directories.data / LEDGER,
            accept=reason,
            fill=fill_context,
            reporter=app.reporter(),
        )
    out = app.out
    checks = [
        {
            "id": check.id,
            "verdict": check.verdict,
            "message": out.text(check.id, **check.params),
            "params": check.params,
        }
        for check in result.checks
    ]
    out.report(
        {
            "name": result.name,
            "digest": result.digest,
            "url": client.url,
            "server_version": result.server_version,
            "source": result.source,
            "trained_with": result.trained_with,
            "verdict": result.verdict,
            "checks": checks,
            "differences": result.differences,
            "accepted": result.accepted,
        }
    )
    for check in result.checks:
        verdict = out.text(f"ollama.verdict-{check.verdict.value}")
        out.line(f"{verdict}: {out.text(check.id, **{**check.params, 'diff': ''}).rstrip()}")
    for difference in result.differences:
        out.line()
        out.say("verify.difference", conversation=difference.conversation)
        for line in difference.diff.splitlines():
            out.line(f"  {line}")
    if result.verdict.value == "failed":
        raise click.exceptions.Exit(EXIT_VERDICT)


def check_reason(text: str | None) -> str:
    """The reason of --accept-template-diff. Raises UsageError when it is given but empty."""
    if text is not None and not text.strip():
        raise UsageError("verify.reason-empty")
    return (text or "").strip()
