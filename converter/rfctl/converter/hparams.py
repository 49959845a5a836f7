"""The configuration as the reference sees it: config.json over the defaults of transformers 4.57.6.

llama.cpp's converter reads `AutoConfig.from_pretrained(...).to_dict()`, so defaults of the transformers
class end up in the GGUF (`conversion/base.py` load_hparams, b11434). The defaults are data:
`data/config-defaults.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError

_DATA = Path(__file__).parent / "data" / "config-defaults.json"
_FILLED: Mapping[str, Callable[[Mapping[str, Any]], Any]] = {
    "num_key_value_heads": lambda config: config["num_attention_heads"],
    "head_dim": lambda config: config["hidden_size"] // config["num_attention_heads"],
}
_LETTERS = {"f": "full_attention", "s": "sliding_attention", "c": "chunked_attention",
            "l": "linear_attention", "v": "conv"}  # fmt: skip
# Where the language model's part stands; a later name wins.
_INNER = ("text_config", "llm_config", "lm_config", "language_config", "lfm")
_ROPE = (
    ("rope_theta", "global_rope_theta", "rope_global_theta", "rope_theta_global", "rope_theta",
     "rotary_emb_base"),
    ("partial_rotary_factor", "partial_rotary_factor", "rope_pct", "rope_percent"),
    ("original_max_position_embeddings", "original_max_position_embeddings"),
)  # fmt: skip
_LOCAL_THETA = ("local_rope_theta", "rope_local_theta", "rope_theta_local", "swa_rope_theta",
                "rope_local_base_freq")  # fmt: skip


class HParams(dict[str, Any]):
    """A configuration with defaults filled in."""

    def find(self, *keys: str) -> Any:
        """The value of the first of `keys` that is present (null counts as present), None if none is."""
        return next((self[key] for key in keys if key in self), None)

    def count(self, *keys: str) -> int:
        """Like `find`, but a positive whole number; raises RfctlError `model.config-invalid`."""
        value = self.find(*keys)
        if type(value) is not int or value <= 0 or value >= 1 << 31:
            raise RfctlError("model.config-invalid", key=keys[0], value=str(value)[:80])
        return value


def fill_defaults(config: Mapping[str, Any]) -> HParams:
    """`config` (config.json) over the defaults of its `model_type`; unchanged when the type is not known.

    What a model of several parts says about its language model (`text_config` or another spelling of it)
    goes over the rest (`conversion/base.py` load_hparams and TextModel, b11434).
    """
    merged = _fill_type(config.get("model_type"), config)
    filled = HParams(config) if merged is None else _fill_parts(config, merged)
    inner = next((filled[key] for key in reversed(_INNER) if isinstance(filled.get(key), dict)), None)
    return filled if inner is None else HParams({**filled, **inner})


def inner_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says about the language model inside a model of several parts; empty for others."""
    found = next((config[key] for key in reversed(_INNER) if isinstance(config.get(key), dict)), None)
    return found if found is not None else {}


def _fill_parts(config: Mapping[str, Any], merged: HParams) -> HParams:
    """`merged` with the defaults of the configurations inside it; `config` when one of them is not known."""
    for key, part in _read_table()["types"][config["model_type"]].get("nested", {}).items():
        given = config.get(key)
        if not isinstance(given, dict):
            # Older files have everything at the outer level.
            given = {name: value for name, value in config.items() if name != key} if part["flat"] else {}
        kind = given.get("model_type", part["type"]) if part["open"] else part["type"]
        inner = _fill_type(kind, given)
        if inner is None and key in _INNER:
            return HParams(config)
        merged[key] = given if inner is None else dict(inner)
    return merged


def _fill_type(kind: Any, config: Mapping[str, Any]) -> HParams | None:
    """`config` over the defaults of the type `kind`, None when the type is not known."""
    table = _read_table()
    entry = table["types"].get(kind) if isinstance(kind, str) else None
    if entry is None:
        return None
    defaults = {key: _read_default(value) for key, value in entry["defaults"].items()}
    computed = set(entry.get("null_is_filled", ()))
    for trigger, keys in entry.get("changes_with", {}).items():
        if trigger in config:
            # What is computed from the trigger is not the default's; what we do not compute is not known.
            defaults |= dict.fromkeys(keys)
            computed.update(key for key in keys if key not in config)
    merged = HParams(table["base"] | defaults)
    spelling = entry.get("attribute_map", {})
    merged |= {spelling.get(key, key): value for key, value in config.items()}
    for key in sorted(computed):
        if merged.get(key) is None and key in _FILLED:
            try:
                merged[key] = _FILLED[key](merged)
            except (KeyError, TypeError, ZeroDivisionError) as error:
                raise RfctlError("model.config-invalid", key=key, value="null") from error
    return merged


def _read_default(value: Any) -> Any:
    """A default as the configuration has it; kinds of layers are written as letters."""
    if isinstance(value, dict) and set(value) == {"letters"}:
        return [_LETTERS[letter] for letter in value["letters"]]
    return value


def rope_parameters(hparams: HParams) -> dict[str, Any]:
    """Rotary parameters under one spelling: `rope_theta`, `rope_type` and what the scaling type needs.

    Both `rope_parameters` (transformers 5) and `rope_scaling` with `rope_theta` are read
    (`conversion/base.py` TextModel, b11434). Raises RfctlError `model.config-invalid`.
    """
    given = hparams.get("rope_parameters", hparams.get("rope_scaling")) or {}
    if not isinstance(given, dict):
        raise RfctlError("model.config-invalid", key="rope_scaling", value=str(given)[:80])
    parameters = dict(given)
    if "full_attention" in parameters:
        inner = parameters["full_attention"]
        if not isinstance(inner, dict):
            raise RfctlError("model.config-invalid", key="rope_parameters", value=str(inner)[:80])
        return dict(inner)
    if parameters.get("type") is not None:
        parameters.setdefault("rope_type", parameters["type"])
    for key, *names in _ROPE:
        value = hparams.find(*names)
        if value is not None:
            parameters.setdefault(key, value)
    return parameters


def local_rope_theta(hparams: HParams) -> Any:
    """Base frequency of the layers with a sliding window, None if they have none of their own."""
    given = hparams.get("rope_parameters", hparams.get("rope_scaling")) or {}
    if not isinstance(given, dict):
        raise RfctlError("model.config-invalid", key="rope_scaling", value=str(given)[:80])
    if "full_attention" in given or "sliding_attention" in given:
        inner = given.get("sliding_attention")
        return inner.get("rope_theta") if isinstance(inner, dict) else None
    return hparams.find(*_LOCAL_THETA)


@cache
def _read_table() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_DATA.read_text(encoding="utf-8"))
    return table
