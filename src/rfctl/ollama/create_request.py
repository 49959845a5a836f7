"""What a Modelfile asks the server to create: the JSON of /api/create and the files behind its digests.

Rules from Ollama v0.33.0-rc2, parser/parser.go (CreateRequest, filesForModel).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rfctl.ollama.modelfile import Modelfile, ModelfileError
from rfctl.ollama.parameter import kinds, parse_parameter

_VERSION = re.compile(
    r"(0|[1-9]\d*)(\.(0|[1-9]\d*)(\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)?)?", re.ASCII
)


@dataclass(frozen=True)
class CreateRequest:
    """What a Modelfile asks for: the JSON fields of /api/create, the local files behind its digests
    (absolute path -> digest, for `files`, `adapters` and `draft_files`), and what was dropped."""

    body: Mapping[str, object]
    uploads: Mapping[Path, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()


def to_create_request(modelfile: Modelfile, folder: Path, digest: Callable[[Path], str]) -> CreateRequest:
    """The create request of a Modelfile that lies in `folder`.

    digest: gives `sha256:<hex>` of a local file. Several FROM with existing paths add up (model, projector,
    shards); one without an existing path is a model name, the last wins. Raises ModelfileError or
    ParameterError with Ollama's text.
    """
    body: dict[str, object] = {}
    parameters: dict[str, object] = {}
    uploads: dict[Path, str] = {}
    warnings: list[str] = []
    licenses: list[str] = []
    messages: list[dict[str, str]] = []

    def add_files(key: str, paths: Sequence[Path]) -> None:
        group = body.setdefault(key, {})
        assert isinstance(group, dict)
        for path in paths:
            if path not in uploads:
                uploads[path] = digest(path)
            group[str(path)] = uploads[path]

    for command in modelfile.commands:
        name, args = command.name, command.args
        match name:
            case "model":
                path = _resolve(args, folder)
                if path.exists():
                    add_files("files", _model_files(path))
                else:
                    body["from"] = args
            case "adapter" | "draft":
                path = _resolve(args, folder)
                if not path.exists():
                    if name == "draft":
                        body["draft"] = args
                        continue
                    raise ModelfileError(
                        "ollama.modelfile-file", f"stat {path}: no such file or directory", path=path
                    )
                taken = body.get("files")
                if name == "draft" and isinstance(taken, dict) and str(path) in taken:
                    raise ModelfileError(
                        "ollama.modelfile-file",
                        f"DRAFT must not reference the same local path as FROM: {path}",
                        path=path,
                    )
                add_files("adapters" if name == "adapter" else "draft_files", _model_files(path))
            case "template" | "system" | "renderer" | "parser":
                body[name] = args
            case "requires":
                if not is_semantic_version(args):
                    raise ModelfileError(
                        "ollama.modelfile-requires",
                        "requires must be a valid semver (e.g. 0.14.0)",
                        value=args,
                    )
                body[name] = args
            case "license":
                licenses.append(args)
            case "message":
                role, _, content = args.partition(": ")
                messages.append({"role": role, "content": content})
            case _:
                if kinds().get(name) == "deprecated":
                    warnings.append(f"warning: parameter {name} is deprecated")
                    continue
                value = parse_parameter(name, args)
                if kinds()[name] == "list":
                    known = parameters.setdefault(name, [])
                    assert isinstance(known, list)
                    known.append(value)
                else:
                    parameters[name] = value
    body |= {"license": licenses, "messages": messages, "parameters": parameters}
    # Go leaves empty fields out of the JSON.
    return CreateRequest({key: value for key, value in body.items() if value}, uploads, tuple(warnings))


def is_semantic_version(text: str) -> bool:
    """Whether REQUIRES takes `text`."""
    return _VERSION.fullmatch(text) is not None


def _resolve(args: str, folder: Path) -> Path:
    try:
        path = Path(args).expanduser()
    except RuntimeError:  # `~name` of nobody
        path = Path(args)
    return path if path.is_absolute() else folder / path


def _model_files(path: Path) -> list[Path]:
    """The file itself, or the GGUF files of a folder in name order."""
    if not path.is_dir():
        return [path]
    if any(path.glob("*.safetensors")):
        raise ModelfileError(
            "ollama.modelfile-safetensors",
            "the folder holds safetensors, which have to be converted",
            path=path,
        )
    if files := sorted(path.glob("*.gguf")):
        return files
    raise ModelfileError("ollama.modelfile-empty", "no Modelfile or safetensors files found", path=path)
