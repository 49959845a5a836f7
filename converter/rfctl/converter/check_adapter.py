"""A LoRA adapter before it is merged: where its base is, and whether the two fit. Headers only."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from rfctl.converter.adapter import CONFIG, merge_adapter
from rfctl.converter.check_tokenizer import read_template
from rfctl.converter.check_vocabulary import find_lost_tokens
from rfctl.converter.check_weight import from_error
from rfctl.converter.finding import Finding, Severity
from rfctl.converter.plan import Plan
from rfctl.converter.source import MAX_CONFIG_BYTES, ModelSource, read_json
from rfctl.core.error import RfctlError

_DATA = Path(__file__).parent / "data" / "leftover.toml"
_HUB_ID = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
_HUB_CACHE = re.compile(r"(?:^|[/\\])models--([\w.-]{1,96}?)--([\w.-]{1,96})(?:[/\\]|$)")


def read_base(adapter: Path) -> str:
    """`base_model_name_or_path` of the adapter directory, "" where it says nothing usable."""
    try:
        config = read_json(adapter / CONFIG, MAX_CONFIG_BYTES)
    except RfctlError:
        return ""
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return base[:400] if isinstance(base, str) else ""


def examine_base(adapter: Path, *, is_base_given: bool) -> list[Finding]:
    """What the adapter says of its base: where to find it, and that training saw it quantized."""
    base = read_base(adapter)
    if not base:
        return []
    findings = []
    if not is_base_given:
        params = {"base": base, "path": adapter}
        if _HUB_ID.fullmatch(base):
            findings.append(Finding("model.adapter-base", Severity.INFO, params))
        elif repo := guess_repository(base):
            findings.append(Finding("model.adapter-base-cached", Severity.INFO, params | {"repo": repo}))
        else:
            findings.append(Finding("model.adapter-base-absent", Severity.INFO, params))
    plain = _strip_quantization(base)
    if plain:
        findings.append(
            Finding("model.adapter-base-quantized", Severity.WARN, {"base": base, "plain": plain})
        )
    return findings


def guess_repository(base: str) -> str:
    """The repository that a path in a cache of the hub or of ModelScope stands for, "" for any other path.

    `models--ORG--NAME` is the hub's; ModelScope ends in ORG/NAME and writes a dot as three underscores.
    """
    if found := _HUB_CACHE.search(base):
        return f"{found[1]}/{found[2]}"
    parts = [part for part in re.split(r"[/\\]", base) if part]
    if len(parts) > 2 and any("modelscope" in part.lower() for part in parts[:-2]):
        name = "/".join(parts[-2:]).replace("___", ".")
        return name if _HUB_ID.fullmatch(name) else ""
    return ""


def compare_tokenizers(adapter: Path, template: str, draft: Plan) -> list[Finding]:
    """What the tokenizer files beside the adapter have and the base, whose files are written, has not."""
    try:
        config = read_json(adapter / "tokenizer_config.json", MAX_CONFIG_BYTES)
    except RfctlError:
        return []  # the merge does not read it
    config = config if isinstance(config, dict) else {}
    findings = []
    for lost in find_lost_tokens(adapter, config, draft):
        params = {**lost.params, "path": adapter}
        findings.append(Finding("model.adapter-tokens", Severity.WARN, params))
    own, _ = read_template(adapter, config)
    if own.strip() and template.strip() and own.strip() != template.strip():
        findings.append(Finding("model.adapter-template", Severity.WARN, {"path": adapter}))
    return findings


def examine_merge(source: ModelSource, adapter: Path) -> tuple[ModelSource | None, list[Finding]]:
    """`source` with the adapter merged in, or what stands against it."""
    try:
        return merge_adapter(source, adapter), []
    except RfctlError as error:
        return None, [from_error(error)]
    except OSError as error:
        params = {"file": adapter.name, "what": error.strerror or ""}
        return None, [Finding("model.file-unreadable", Severity.ERROR, params)]


def _strip_quantization(base: str) -> str:
    """The name of the model before it was quantized; "" when the name does not tell of a quantization."""
    stem = base.rstrip("/\\")
    for suffix in _suffixes():
        if stem.lower().endswith(suffix):
            return stem[: -len(suffix)]
    return ""


@cache
def _suffixes() -> tuple[str, ...]:
    with _DATA.open("rb") as file:
        table: Mapping[str, Any] = tomllib.load(file)
    return tuple(table["base"]["suffixes"])
