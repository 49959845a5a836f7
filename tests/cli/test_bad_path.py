"""A path that is not there is a wrong command line (exit 2), whatever the verb; no server is asked first."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rfctl.cli.root import execute, root

Run = Callable[..., Any]

# {model} is a directory with a configuration, {gguf} a file that begins like one.
CASES = [
    "model check nodir",
    "model check ./no/such/dir",
    "model check {model} --adapter nodir",
    "model convert nodir -o x.gguf",
    "model convert nodir --dry-run",
    "model convert {model} --adapter nodir -o x.gguf",
    "model convert {model} --engine llama.cpp --llama-cpp nodir -o x.gguf",
    "model push nodir",
    "model push no.gguf",
    "model push {model} --adapter nodir",
    "model push {gguf} --modelfile nofile",
    "model push {gguf} --via direct --store nodir",
    "model lint nofile",
    "model verify no.gguf",
    "model verify {gguf} nodir",
    "model verify {gguf} {model} --adapter nodir",
    "model verify name --gguf no.gguf",
    "model diff no.gguf {gguf}",
    "model diff {gguf} no.gguf",
    "model diff {gguf} {model}",
    "model gc --store nodir",
    "model gc --store {gguf}",
    "model bundle create nodir out",
    "model bundle create {gguf} out --modelfile nofile",
    "model bundle verify nodir",
    "model bundle import nodir",
    "model bundle import nodir --store nodir",
    "kb upload kb nofile.pdf",
    "kb sync nodir kb",
    "chat create c --file nofile.toml",
    "chat edit c --file nofile.toml",
    "eval run nofile.jsonl --chat c",
    "demo --model nodir",
    "demo --embedding-model nodir",
    "demo --pdf nofile.pdf",
    "stack restore nodir",
    "tunnel open host --ssh-config nofile",
    "model fetch host:x --ssh-config nofile",
]
# What takes a path only to write to it, or to make it.
WRITTEN = {
    "doctor --report",
    "eval run --report",
    "model bundle create FOLDER",
    "model convert --output-file",
    "model fetch [FOLDER]",
    "stack backup [FOLDER]",
    "stack upgrade --backup",
}


@pytest.mark.parametrize("line", CASES)
def test_exit_code_2(
    environment: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    line: str,
) -> None:
    dead = "http://127.0.0.1:1"
    services = {"OLLAMA_HOST": dead, "RAGFLOW_BASE_URL": dead, "RAGFLOW_API_KEY": "key"}
    for name, value in (environment | services).items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}', "utf-8")
    (tmp_path / "f.gguf").write_bytes(b"GGUF" + bytes(20))
    code = execute(line.format(model="m", gguf="f.gguf").split())
    out, error = capsys.readouterr()
    assert (code, out) == (2, ""), error
    assert error.startswith("error[")


def test_a_folder_in_place_of_a_file(rfctl: Run, tmp_path: Path) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "f").write_bytes(b"")
    result = rfctl("model", "diff", "m", "f")
    assert (result.code, result.out, result.err) == (
        2,
        "",
        "error[core.file-is-folder]: m is a folder, not a file\n"
        "  next: Give a file\n"
        "  rfctl explain core.file-is-folder\n",
    )
    result = rfctl("model", "gc", "--store", "f", "--lang", "zh")
    assert (result.code, result.out, result.err) == (
        2,
        "",
        "错误[core.folder-is-file]: f 是文件，不是文件夹\n"
        "  下一步: 请指定一个文件夹\n"
        "  rfctl explain core.folder-is-file\n",
    )


def test_the_table_has_every_path_of_the_command_tree() -> None:
    """A new argument or option that takes a path belongs into CASES, or into what is only written to."""
    import click

    found = set()
    context = click.Context(root, info_name="rfctl")
    groups: list[tuple[str, click.Group]] = [("", root)]
    while groups:
        prefix, group = groups.pop()
        for name in group.list_commands(context):
            command = group.get_command(context, name)
            path = f"{prefix}{name}"
            if isinstance(command, click.Group):
                groups.append((path + " ", command))
                continue
            assert command is not None
            for parameter in command.params:
                if isinstance(parameter.type, click.Path):
                    label = (
                        max(parameter.opts, key=len)
                        if isinstance(parameter, click.Option)
                        else parameter.make_metavar(context)
                    )
                    found.add(f"{path} {label}")
    assert len(found) > 20
    tried = {" ".join(case.split()) for case in CASES}
    for one in sorted(found - WRITTEN):
        verb, _, label = one.rpartition(" ")
        hits = [
            case for case in tried if case.startswith(verb) and (not label.startswith("--") or label in case)
        ]
        assert hits, f"{one} has no case"
    assert not WRITTEN - found
