"""Which of the families that are converted here an unknown model resembles, and what differs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rfctl.converter.check_tensor import Match, match_tensors
from rfctl.converter.family import list_families
from rfctl.converter.finding import Finding, Severity, shorten
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import fill_defaults
from rfctl.converter.support import hf_architecture, hf_names
from rfctl.core.error import RfctlError

# A sibling that shares less than this part of the names is none.
_LEAST = 0.5


@dataclass(frozen=True)
class Sibling:
    """A class of config.json whose family has a place for most tensors of the model."""

    name: str
    match: Match


def find_siblings(config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> list[Sibling]:
    """Classes by how well their tensor names fit, best first; [] when none fits half of them.

    Several may fit equally, since the same names stand for different arithmetic: first the one that
    `model_type` names, then those whose arithmetic most other models share.
    """
    kind = str(config.get("model_type") or "").replace("_", "").lower()
    shared = Counter(hf_architecture(name) for name in hf_names())
    found = []
    names = list(tensors)
    for name, family in list_families().items():
        try:
            match = match_tensors(family, fill_defaults(config), names)
        except (RfctlError, KeyError):
            continue
        if len(match.unmapped) + len(match.missing) <= (1 - _LEAST) * len(names):
            found.append(Sibling(name, match))

    def rank(sibling: Sibling) -> tuple[int, bool, int]:
        is_named = bool(kind) and sibling.name.lower().startswith(kind)
        return sibling.match.distance, not is_named, -shared[hf_architecture(sibling.name)]

    return sorted(found, key=rank)


def describe_sibling(sibling: Sibling, count: int) -> Finding:
    """What the model has in common with the sibling and what not; `count` tensors in the model."""
    match = sibling.match
    params = {
        "nearest": sibling.name,
        "fitting": count - len(match.unmapped),
        "count": count,
        "extra": shorten(_generalise(match.unmapped), 4) or "-",
        "missing": shorten(_generalise(match.missing), 4) or "-",
    }
    return Finding("model.architecture-sibling", Severity.INFO, params)


def _generalise(names: Any) -> list[str]:
    """The names without the number of the layer, each once: what differs is told in kinds, not per layer."""
    seen: dict[str, None] = {}
    for name in names:
        parts = ["*" if part.isdigit() else part for part in name.split(".")]
        seen[".".join(parts)] = None
    return list(seen)
