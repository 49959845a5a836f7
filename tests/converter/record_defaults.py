"""Record what AutoConfig adds to a config.json: entries of `data/config-defaults.json`.

    PYTHON tests/converter/record_defaults.py TYPE ...

PYTHON has the transformers of the reference (4.57.6). Prints a JSON object with one entry per `model_type`.
What a configuration computes is found by asking: every number doubled, every key set to null.
"""

from __future__ import annotations

import json
import sys
from typing import Any

from transformers import AutoConfig, PretrainedConfig  # type: ignore[import-not-found]

TEXT = "text_config"  # the only inner configuration that a converter of text models reads
LETTERS = {
    "full_attention": "f",
    "sliding_attention": "s",
    "chunked_attention": "c",
    "linear_attention": "l",
    "conv": "v",
}


def read(kind: str, **given: Any) -> dict[str, Any]:
    """The configuration of `kind` as the reference's converter sees it."""
    found: dict[str, Any] = AutoConfig.for_model(kind, **given).to_dict()
    return found


def record(kind: str, base: dict[str, Any]) -> dict[str, Any]:
    """One entry of the table."""
    plain = read(kind)
    defaults = {key: value for key, value in plain.items() if key not in base or base[key] != value}
    for key in ("model_type", "transformers_version", "architectures"):
        defaults.pop(key, None)
    parts = [key for key, value in defaults.items() if is_config(value)]
    nested = {key: describe_part(kind, key, defaults[key]) for key in parts if key == TEXT}
    changes: dict[str, list[str]] = {}
    filled = []
    for key, value in defaults.items():
        if key in parts:
            continue
        try:
            if type(value) is int and value > 0:
                doubled = read(kind, **{key: 2 * value})
                moved = [
                    other
                    for other in defaults
                    if other != key and other not in parts and doubled.get(other) != plain[other]
                ]
                if moved:
                    changes[key] = moved
            if read(kind, **{key: None}).get(key) is not None:
                filled.append(key)
        except Exception as error:  # transformers refuses the setting: nothing to record
            print(f"{kind}.{key}: {error}"[:120], file=sys.stderr)
    entry: dict[str, Any] = {
        "defaults": {key: shorten(value) for key, value in defaults.items() if key not in parts}
    }
    if changes:
        entry["changes_with"] = changes
    if filled:
        entry["null_is_filled"] = filled
    if nested:
        entry["nested"] = nested
    spelling = AutoConfig.for_model(kind).attribute_map
    return entry | ({"attribute_map": spelling} if spelling else {})


def describe_part(kind: str, key: str, default: dict[str, Any]) -> dict[str, Any]:
    """Type of an inner configuration; open: it says its own type; flat: older files have its keys outside."""
    outer = AutoConfig.for_model(kind, num_hidden_layers=7)
    inner = outer.to_dict()[key]
    is_open = getattr(type(outer), "sub_configs", {}).get(key) is AutoConfig
    return {
        "type": default["model_type"],
        "open": is_open,
        "flat": inner.get("num_hidden_layers") == 7 != default.get("num_hidden_layers"),
    }


def is_config(value: Any) -> bool:
    """Is this a configuration inside a configuration?"""
    return isinstance(value, dict) and isinstance(value.get("model_type"), str)


def shorten(value: Any) -> Any:
    """Kinds of layers by their letters."""
    if isinstance(value, list) and value and all(item in LETTERS for item in value):
        return {"letters": "".join(LETTERS[item] for item in value)}
    return value


if __name__ == "__main__":
    common = PretrainedConfig().to_dict()
    print(json.dumps({kind: record(kind, common) for kind in sys.argv[1:]}, indent=1))
