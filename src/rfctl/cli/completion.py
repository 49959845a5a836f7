"""`rfctl completion SHELL`: a shell that completes commands, options, files and model names."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App, make_app
from rfctl.cli.command import command
from rfctl.cli.output import is_terminal

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

VARIABLE = "_RFCTL_COMPLETE"
# Where each shell reads the script from, once it is written there.
PLACES = {
    "bash": 'eval "$(rfctl completion bash)"  # ~/.bashrc',
    "zsh": 'eval "$(rfctl completion zsh)"  # ~/.zshrc',
    "fish": "rfctl completion fish > ~/.config/fish/completions/rfctl.fish",
    "powershell": "rfctl completion powershell | Out-String | Invoke-Expression  # $PROFILE",
}


@command("completion")
@click.argument("shell", type=click.Choice(list(PLACES)))
def completion(app: App, shell: str) -> None:
    """Print the script; the hint where it goes is no part of it."""
    from click.shell_completion import get_completion_class

    from rfctl.cli.root import root

    maker = get_completion_class(shell)
    assert maker is not None
    script = maker(root, {}, "rfctl", VARIABLE).source()
    app.out.result({"shell": shell, "script": script, "use": PLACES[shell]})
    app.out.line(script.rstrip("\n"))
    if is_terminal(sys.stdout):  # a shell that reads the script at its start is told nothing each time
        app.out.note("completion.use", line=PLACES[shell])


def complete_model(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """Names of the models in a store on this machine: read from files, so that no server is asked."""
    from rfctl.cli.model_store import configured_store
    from rfctl.core.error import RfctlError
    from rfctl.ollama.store import ModelStore

    try:
        root = configured_store(make_app(context), None)
        if root is None or not (root / "manifests").is_dir():
            return []
        names = (str(model.name) for model in ModelStore(root).models())
        return sorted(name for name in names if name.startswith(incomplete))
    except (RfctlError, OSError):
        return []


def complete_file(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Files and folders, for words that may also be something else (an address, a repository)."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]
