"""A model directory in Hugging Face layout: configuration, tensor headers, and the small text files beside
them.

Which weight files count follows llama.cpp b11434 `conversion/base.py`: files named `model*.safetensors` in
name order; where there is an index, its names and the names in the files must be the same set.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfctl.converter.header import SourceTensor, read_header
from rfctl.converter.hparams import inner_config
from rfctl.converter.known_vocabulary import KnownVocabulary
from rfctl.converter.source_pickled import ENDINGS, find_pickled, refuse_model
from rfctl.converter.source_run import find_models, find_parts, refuse_folder
from rfctl.core.error import RfctlError, UsageError

INDEX = "model.safetensors.index.json"
MAX_TEXT_BYTES = 256 * 1024 * 1024
MAX_CONFIG_BYTES = 16 * 1024 * 1024
_BINARY, _NO_WAIT = getattr(os, "O_BINARY", 0), getattr(os, "O_NONBLOCK", 0)


@dataclass(frozen=True)
class HeadOnly:
    """Of tokenizer.json only the head was read; the vocabulary in the file stands in for the real one.

    known   what the real one is, None where it is not known
    """

    known: KnownVocabulary | None


@dataclass(frozen=True)
class ModelSource:
    """What a directory says about a model, without its weights.

    path         the directory, absolute
    config       config.json
    tensors      name -> header entry, in the order of the reference: files by name, names sorted inside a
                 file
    head         set where tokenizer.json holds its head only, for a check
    """

    path: Path
    config: Mapping[str, Any]
    tensors: Mapping[str, SourceTensor] = field(repr=False)
    head: HeadOnly | None = None

    @property
    def name(self) -> str:
        """Name of the directory; general.* names are guessed from it.

        In the hub's cache (`models--ORG--NAME/snapshots/COMMIT`) it is the repository's, for a commit says
        nothing to anyone.
        """
        repository = self.path.parent.parent.name
        if self.path.parent.name == "snapshots" and repository.startswith("models--"):
            return repository.rsplit("--", 1)[1]
        return self.path.name

    def has(self, name: str) -> bool:
        """Is there a file called `name`?"""
        return (self.path / name).is_file()

    def text(self, name: str) -> str | None:
        """A UTF-8 text file of the directory, None if absent. Raises RfctlError `model.file-unreadable`."""
        return read_text(self.path / name)

    def json(self, name: str) -> Any:
        """A JSON file of the directory, None if absent. Raises RfctlError `model.json-malformed`."""
        return read_json(self.path / name)

    @property
    def architecture(self) -> str:
        """The first entry of `architectures`, of the language model's part when that names one (`conversion/
        base.py` get_model_architecture, b11434); raises RfctlError `model.architecture-missing`.
        """
        names = inner_config(self.config).get("architectures") or self.config.get("architectures")
        if not isinstance(names, list) or not names or not isinstance(names[0], str):
            raise RfctlError("model.architecture-missing", path=self.path)
        return names[0]


def open_source(path: Path) -> ModelSource:
    """Read configuration and headers of the model directory `path`.

    Raises RfctlError with an id `model.*` for what is missing, truncated, malformed or contradictory.
    """
    path = path.absolute()
    config = read_config(path)
    return ModelSource(path=path, config=config, tensors=read_tensors(path))


def read_config(path: Path) -> Mapping[str, Any]:
    """config.json of the directory `path`. Raises UsageError `model.not-found`, RfctlError `model.is-gguf`,
    `model.adapter-only`, `model.inside`, `model.config-missing` or `model.json-malformed`."""
    if path.is_file() and path.suffix.lower() in ENDINGS:
        raise refuse_model(path.parent, [path.name])
    if path.is_file() and (path.suffix.lower() == ".gguf" or path.open("rb").read(4) == b"GGUF"):
        raise RfctlError("model.is-gguf", path=path)
    if not path.is_dir():
        raise UsageError("model.not-found", path=path)
    config = read_json(path / "config.json", MAX_CONFIG_BYTES)
    if config is None and not (path / "config.json").is_file():
        if (path / "adapter_config.json").is_file():
            raise RfctlError("model.adapter-only", path=path)
        if inside := find_models(path):
            raise refuse_folder(path, inside)
        raise RfctlError("model.config-missing", path=path)
    if not isinstance(config, dict):
        raise RfctlError("model.json-malformed", file="config.json", what="not an object")
    return config


def list_shards(path: Path) -> list[Path]:
    """The files that hold weights, by name; an indexed file that is absent is in the list as well."""
    found = {file.name for file in path.glob("model*.safetensors") if file.is_file()}
    index = read_index(path)
    return [path / name for name in sorted(found | (set(index.values()) if index else set()))]


def read_index(path: Path) -> Mapping[str, str] | None:
    """Tensor name -> file name of the index, None if there is no index.

    Raises RfctlError `model.index-malformed`.
    """
    index = read_json(path / INDEX)
    if index is None:
        return None
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise RfctlError("model.index-malformed", file=INDEX, what="no weight_map")
    for name, file in weight_map.items():
        if (
            not isinstance(file, str)
            or Path(file).name != file
            or "\\" in file
            or not file.endswith(".safetensors")
        ):
            raise RfctlError("model.index-malformed", file=INDEX, what=f"file of {name!r}"[:200])
    return weight_map


def read_tensors(path: Path) -> Mapping[str, SourceTensor]:
    """The tensors of the directory `path`, checked against its index.

    Raises RfctlError `model.weights-missing`, `model.weights-pickled`, `model.weights-distributed`,
    `model.shard-missing`,
    `model.tensor-duplicate`, `model.index-stale`, and those of `read_header`.
    """
    shards = list_shards(path)
    if not shards:
        if pickled := find_pickled(path):
            raise refuse_model(path, pickled)
        if parts := find_parts(path):
            raise parts
        others = ", ".join(sorted(_other_weights(path))) or "-"
        raise RfctlError("model.weights-missing", path=path, others=others)
    tensors: dict[str, SourceTensor] = {}
    for shard in shards:
        if not shard.is_file():
            raise RfctlError("model.shard-missing", file=shard.name, path=path)
        for tensor in read_header(shard):
            if tensor.name in tensors:
                first = tensors[tensor.name].file.name
                raise RfctlError("model.tensor-duplicate", tensor=tensor.name, first=first, second=shard.name)
            tensors[tensor.name] = tensor
    index = read_index(path)
    if index is not None:
        _compare_index(index, tensors)
    if not tensors:
        raise RfctlError("model.weights-missing", path=path, others="-")
    return tensors


def _compare_index(index: Mapping[str, str], tensors: Mapping[str, SourceTensor]) -> None:
    missing = sorted(set(index) - set(tensors))
    extra = sorted(set(tensors) - set(index))
    if missing or extra:
        raise RfctlError("model.index-stale", file=INDEX, missing=_shorten(missing), extra=_shorten(extra))


def _shorten(names: list[str]) -> str:
    shown = ", ".join(names[:3]) or "-"
    return f"{shown} (+{len(names) - 3})" if len(names) > 3 else shown


def _other_weights(path: Path) -> Iterator[str]:
    for pattern in ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf"):
        yield from (file.name for file in path.glob(pattern))


def read_text(path: Path, limit: int = MAX_TEXT_BYTES) -> str | None:
    """A UTF-8 file of at most `limit` bytes, None if absent. Raises RfctlError `model.file-unreadable`."""
    try:
        if path.is_symlink():
            _refuse_foreign(path)
        data = _read_regular(path, limit + 1)
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None
    except (OSError, ValueError) as error:  # ValueError: a name that no file can have
        what = getattr(error, "strerror", None) or "name"
        raise RfctlError("model.file-unreadable", file=path.name, what=what) from error
    if len(data) > limit:
        raise RfctlError("model.file-unreadable", file=path.name, what=f"> {limit} bytes")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RfctlError("model.file-unreadable", file=path.name, what="not UTF-8") from error


def _read_regular(path: Path, limit: int) -> bytes:
    """Up to `limit` bytes of a regular file. A pipe in its place would otherwise be waited for forever."""
    descriptor = os.open(path, os.O_RDONLY | _BINARY | _NO_WAIT)
    try:
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISDIR(mode):
            raise IsADirectoryError
        if not stat.S_ISREG(mode):
            raise OSError(errno.EINVAL, "not a regular file")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(limit)
    finally:
        os.close(descriptor)


def _refuse_foreign(path: Path) -> None:
    """Raise for a link that leads out of the model directory: its text could end up in a file that is shared.

    The hub's cache keeps contents in `blobs` beside `snapshots/COMMIT`; links to there are its own.
    """
    folder, target = path.parent.resolve(), path.resolve()
    own = [
        folder,
        *(parent / "blobs" for parent in folder.parents if folder.is_relative_to(parent / "snapshots")),
    ]
    if not any(target.is_relative_to(place) for place in own):
        raise RfctlError("model.link-outside", file=path.name, path=folder)


def read_json(path: Path, limit: int = MAX_TEXT_BYTES) -> Any:
    """A JSON file, None if absent. Raises RfctlError `model.json-malformed` or `model.file-unreadable`."""
    text = read_text(path, limit)
    if text is None:
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        where = "too deep" if isinstance(error, RecursionError) else "a number is too long"
        if isinstance(error, json.JSONDecodeError):
            where = f"{error.msg}, line {error.lineno}"
        raise RfctlError("model.json-malformed", file=path.name, what=where) from error
