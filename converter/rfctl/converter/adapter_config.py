"""adapter_config.json of a LoRA adapter: rank and scale of every module, and what is refused.

Rules: peft 0.17.1, `tuners/lora/config.py`, `tuners/lora/model.py`, `tuners/lora/layer.py` and
`utils/other.py` (get_pattern_key).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.converter.source import MAX_CONFIG_BYTES, read_json
from rfctl.core.error import RfctlError, UsageError

CONFIG = "adapter_config.json"
# Settings that change what a merge gives, and that are not handled.
_UNSUPPORTED = (
    "target_parameters",
    "layer_replication",
    "trainable_token_indices",
    "use_qalora",
    "alora_invocation_tokens",
    "use_bdlora",
    "arrow_config",
    "megatron_config",
)
# The other ways to begin (PiSSA, OLoRA, CorDA, LoftQ) change the base weights as well.
_INITIAL = ("gaussian", "eva", "orthogonal")
# Settings with a `use_` that do not change it, or that are read below.
_HARMLESS = ("use_rslora", "use_dora", "use_cache", "use_effective_conv2d")
# Regular expressions that cannot run for long: characters, classes, alternatives, no repeated groups, and few
# repetitions. A hostile file must not keep us busy; PEFT takes any expression.
_ATOM = r"(?:[A-Za-z0-9_\-]|\\[.\-_dw]|\.|\[\^?[A-Za-z0-9_.\-]+\])(?:[*+?]|\{\d{1,2}(?:,\d{1,2})?\})?"
_GROUP = rf"\((?:\?:)?(?:{_ATOM})*(?:\|(?:{_ATOM})*)*\)\??"
_PATTERN = re.compile(rf"\^?(?:{_ATOM}|{_GROUP}|\|)+\$?")
_MOST_REPEATS, _MOST_CHOICES, _MOST_ALTERNATIVES = 3, 5, 12
_MOST_CHARACTERS, _MOST_PATTERNS = 200, 5000


@dataclass(frozen=True)
class AdapterConfig:
    """What a merge needs to know.

    r, alpha         of modules that no pattern names
    rank_pattern     regular expression for a module's name or its end behind a dot -> rank; the first counts
    alpha_pattern    the same -> alpha
    is_rank_stabilized   scale is alpha / sqrt(rank), not alpha / rank
    fan_in_fan_out   weights of Conv1D layers are stored inputs first
    saved_modules    names or ends of names of modules that were trained whole
    has_bias         B has a bias, which goes to the module's own
    """

    r: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    is_rank_stabilized: bool
    fan_in_fan_out: bool
    saved_modules: tuple[str, ...]
    has_bias: bool = False

    def saves(self, module: str) -> bool:
        """Was a copy of the module called `module` trained whole?"""
        return any(module == name or module.endswith(f".{name}") for name in self.saved_modules)

    def rank(self, module: str) -> int:
        """Rank of the module called `module` in the base model."""
        return int(_look_up(self.rank_pattern, module, self.r))

    def scale(self, module: str) -> float:
        """What the product of the module's matrices is multiplied by."""
        rank = self.rank(module)
        alpha = float(_look_up(self.alpha_pattern, module, self.alpha))
        return alpha / math.sqrt(rank) if self.is_rank_stabilized else alpha / rank


def read_adapter_config(adapter: Path) -> AdapterConfig:
    """adapter_config.json of the directory `adapter`.

    Raises UsageError `adapter.not-found`, RfctlError `adapter.config-invalid`, `adapter.type-unsupported`,
    `adapter.dora`, `adapter.feature-unsupported`, `model.json-malformed`.
    """
    config = read_json(adapter / CONFIG, MAX_CONFIG_BYTES)
    if config is None and not (adapter / CONFIG).is_file():
        raise UsageError("adapter.not-found", path=adapter)
    if not isinstance(config, dict):
        raise RfctlError("model.json-malformed", file=CONFIG, what="not an object")
    kind = config.get("peft_type")
    if kind != "LORA":
        raise RfctlError("adapter.type-unsupported", path=adapter, type=str(kind)[:80])
    if config.get("use_dora"):
        raise RfctlError("adapter.dora", path=adapter)
    for key in _UNSUPPORTED:
        if config.get(key):
            raise RfctlError("adapter.feature-unsupported", key=key, value=str(config[key])[:80])
    for key, value in config.items():
        if key.startswith("use_") and key not in _HARMLESS and value:
            raise RfctlError("adapter.feature-unsupported", key=key[:80], value=str(value)[:80])
    initial = config.get("init_lora_weights")
    if isinstance(initial, str) and initial.lower() not in _INITIAL:
        raise RfctlError("adapter.feature-unsupported", key="init_lora_weights", value=initial[:80])
    saved = config.get("modules_to_save") or []
    if not isinstance(saved, list) or not all(isinstance(name, str) for name in saved):
        raise _invalid("modules_to_save", saved)
    return AdapterConfig(
        r=_read_rank("r", config.get("r")),
        alpha=_read_number("lora_alpha", config.get("lora_alpha")),
        rank_pattern={
            key: _read_rank("rank_pattern", value) for key, value in _read_pattern(config, "rank_pattern")
        },
        alpha_pattern={
            key: _read_number("alpha_pattern", value) for key, value in _read_pattern(config, "alpha_pattern")
        },
        is_rank_stabilized=bool(config.get("use_rslora")),
        fan_in_fan_out=bool(config.get("fan_in_fan_out")),
        saved_modules=tuple(saved),
        has_bias=bool(config.get("lora_bias")),
    )


def _look_up(pattern: Mapping[str, float], module: str, default: float) -> float:
    for key, value in pattern.items():
        if _compile(key).match(module):
            return value
    return default


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    return re.compile(rf"(.*\.)?({pattern})$")


def _read_pattern(config: Mapping[str, Any], key: str) -> list[tuple[str, Any]]:
    pattern = config.get(key) or {}
    if not isinstance(pattern, dict):
        raise _invalid(key, pattern)
    if len(pattern) > _MOST_PATTERNS:
        raise _invalid(key, f"{len(pattern)} entries")
    for name in pattern:
        if len(name) > _MOST_CHARACTERS or not _is_cheap(name) or not _PATTERN.fullmatch(name):
            raise RfctlError("adapter.feature-unsupported", key=key, value=name[:80])
        try:
            _compile(name)
        except re.error as error:
            raise _invalid(key, name) from error
    return list(pattern.items())


def _is_cheap(pattern: str) -> bool:
    """Few places where the search can go on in more than one way: their number is an exponent of its cost."""
    plain = pattern.replace("(?:", "(")
    repeats = sum(plain.count(sign) for sign in "*+{")
    choices = repeats + plain.count("?") + plain.count("(")
    few = repeats <= _MOST_REPEATS and choices <= _MOST_CHOICES
    return few and plain.count("|") <= _MOST_ALTERNATIVES


def _read_rank(key: str, value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 20:
        raise _invalid(key, value)
    return value


def _read_number(key: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise _invalid(key, value)
    return float(value)


def _invalid(key: str, value: Any) -> RfctlError:
    return RfctlError("adapter.config-invalid", key=key, value=str(value)[:80])
