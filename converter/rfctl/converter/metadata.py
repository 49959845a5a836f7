"""The `general.*` keys: what a model says about itself in its card, its configuration and the name of its
directory.

The guessing itself (splitting a name into basename, size label, finetune, version) is `gguf.metadata`
0.19; reading the files with bounds, the sampling keys and the order are ours. Order and rules: gguf-py
`metadata.py`, llama.cpp b11434.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import PurePath
from typing import Any

import yaml
from gguf.metadata import Metadata
from gguf.utility import size_label

from rfctl.converter.pair import real, sint, text, texts, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_MAX_CARD = 4 * 1024 * 1024
# Key, keys of generation_config.json in order of preference, constructor.
_SAMPLING: tuple[tuple[str, tuple[str, ...], Callable[[str, Any], KeyValue]], ...] = (
    ("sequence", ("sequence",), text),
    ("top_k", ("top_k",), sint),
    ("top_p", ("top_p",), real),
    ("min_p", ("min_p",), real),
    ("xtc_probability", ("xtc_probability",), real),
    ("xtc_threshold", ("xtc_threshold",), real),
    ("temp", ("temperature",), real),
    ("penalty_last_n", ("penalty_last_n",), sint),
    ("penalty_repeat", ("penalty_repeat", "repetition_penalty"), real),
    ("mirostat", ("mirostat",), sint),
    ("mirostat_tau", ("mirostat_tau",), real),
    ("mirostat_eta", ("mirostat_eta",), real),
)
_BEFORE_SIZE = ("author", "version", "organization", "finetune", "basename", "description", "quantized_by")
_AFTER_SIZE = ("license", "license_name", "license_link", "url", "doi", "uuid", "repo_url")
_SOURCE = ("url", "doi", "uuid", "repo_url")
_ENTRY = ("name", "author", "version", "organization", "description", "url", "doi", "uuid", "repo_url")


def describe_model(
    source: ModelSource, shapes: Mapping[str, tuple[int, ...]], *, parameter_count: int | None = None
) -> list[KeyValue]:
    """The pairs after `general.type`: sampling, names, size, licence, origin, tags, languages.

    shapes   of all tensors of the file, generated ones included, by GGUF name (Hugging Face order)
    parameter_count   weights where the shapes do not tell; negative: not the model's own (an adapter)
    """
    if parameter_count is None:
        parameter_count = sum(map(math.prod, shapes.values()))
    card = _read_card(source)
    origin = source.config.get("_name_or_path")
    known = {"_name_or_path": origin} if isinstance(origin, str) else {}
    # gguf takes the last part of the path as the name and reads nothing else of it.
    found: Any = Metadata.apply_metadata_heuristic(
        Metadata(), card, known, PurePath(source.name), parameter_count
    )
    pairs = list(_list_sampling(source))
    pairs.append(text("general.name", str(found.name if found.name is not None else source.name)))
    for name in _BEFORE_SIZE:
        pairs += _text(name, getattr(found, name))
    label = found.size_label
    if label is None and parameter_count > 0:
        label = size_label(parameter_count, *_count_experts(shapes))
    pairs += _text("size_label", label)
    for name in _AFTER_SIZE:
        value = getattr(found, name)
        key = name.replace("license_", "license.")
        pairs += _text(key, ",".join(map(str, value)) if isinstance(value, list) else value)
    for name in _SOURCE:
        pairs += _text(f"source.{name}", getattr(found, f"source_{name}"))
    pairs += _list_entries("base_model", found.base_models)
    pairs += _list_entries("dataset", found.datasets)
    for name in ("tags", "languages"):
        values = getattr(found, name)
        if values:
            pairs.append(texts(f"general.{name}", [str(value) for value in values]))
    return pairs


def _count_experts(shapes: Mapping[str, tuple[int, ...]]) -> tuple[int, int, int]:
    """Weights outside the experts, weights of one expert of every kind, and how many experts there are
    (gguf-py `gguf_writer.py` get_total_parameter_count).
    """
    shared = expert = experts = stacks = 0
    for name, shape in shapes.items():
        at = -2 if ".bias" in name else -3
        if "_exps." in name and len(shape) >= 3:
            expert += math.prod(shape) // shape[at]
            experts += shape[at]
            stacks += 1
        else:
            shared += math.prod(shape)
    return shared, expert, experts // stacks if stacks else 0


def _text(name: str, value: Any) -> list[KeyValue]:
    return [] if value is None else [text(f"general.{name}", str(value))]


def _list_sampling(source: ModelSource) -> Iterator[KeyValue]:
    try:
        config = source.json("generation_config.json")
    except RfctlError:
        return  # the reference goes on without it as well
    if not isinstance(config, dict):
        return
    for name, keys, make in _SAMPLING:
        value = next((config[key] for key in keys if config.get(key) is not None), None)
        if value is not None and _fits(make, value):
            yield make(f"general.sampling.{name}", value)


def _fits(make: Callable[[str, Any], KeyValue], value: Any) -> bool:
    if make is text:
        return isinstance(value, str)
    # Also false for NaN.
    return isinstance(value, int | float) and abs(value) < (1 << 31 if make is sint else 3e38)


def _list_entries(kind: str, entries: list[Mapping[str, Any]] | None) -> Iterator[KeyValue]:
    if entries is None:
        return
    yield uint(f"general.{kind}.count", len(entries))
    for number, entry in enumerate(entries):
        for name in _ENTRY:
            if name in entry:
                yield text(f"general.{kind}.{number}.{name}", str(entry[name]))


def _read_card(source: ModelSource) -> dict[str, Any]:
    """The YAML front matter of README.md, empty when there is none or it is not a mapping."""
    try:
        card = source.text("README.md")
    except RfctlError:
        return {}
    lines = card[:_MAX_CARD].splitlines() if card else []
    if not lines or lines[0] != "---":
        return {}
    end = lines.index("---", 1) if "---" in lines[1:] else len(lines)
    front = "\n".join(lines[1:end]) + "\n"
    # `no` is a language here, not a truth value; and tabs are no indentation in YAML.
    front = front.replace("- no\n", '- "no"\n').replace("\t", "  ")
    try:
        data = yaml.safe_load(front)
    except (yaml.YAMLError, RecursionError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
