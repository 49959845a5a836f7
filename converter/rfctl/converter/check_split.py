"""Known pre-tokenizers that split text like a given one: a hint where the hash of the whole is unknown."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

_DATA = Path(__file__).parent / "data" / "text-split.json"
_MOST = 16
# The pattern behind `use_regex` of ByteLevel (tokenizers, pre_tokenizers/byte_level.rs), without its last
# alternative, which llama.cpp leaves out.
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_GPT2_WHOLE = _GPT2 + r"|\s+"
_FOLDED = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WRITTEN_OUT = "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])"


def find_similar(pre_tokenizer: Any, model_type: str = "") -> tuple[str, ...]:
    """Names of `tokenizer.ggml.pre` whose splitting is that of `pre_tokenizer` (tokenizer.json); () for none.

    Those that resemble `model_type` of config.json come first. Splitting alike does not make two
    vocabularies equal: this is a hint, never an answer.
    """
    patterns = _list_patterns(pre_tokenizer)
    if not patterns:
        return ()
    digest = hashlib.sha256(json.dumps(patterns).encode()).hexdigest()[:16]
    names = _read_splits().get(digest, [])
    return tuple(sorted(names, key=lambda name: not (model_type and _resembles(name, model_type))))


def _resembles(name: str, model_type: str) -> bool:
    plain, kind = (text.lower().replace("-", "").replace("_", "") for text in (name, model_type))
    return plain.startswith(kind) or kind.startswith(plain)


def _list_patterns(step: Any) -> list[str] | None:
    """The regular expressions of a pre-tokenizer, one after the other; None when it does something else."""
    if not isinstance(step, dict):
        return None
    kind = step.get("type")
    if kind == "Sequence":
        steps = step.get("pretokenizers")
        if not isinstance(steps, list) or len(steps) > _MOST:
            return None
        found: list[str] = []
        for inner in steps:
            patterns = (
                _list_patterns(inner) if isinstance(inner, dict) and inner.get("type") != kind else None
            )
            if patterns is None:
                return None
            found += patterns
        return found
    if kind == "Split":
        pattern = step.get("pattern")
        text = pattern.get("Regex") if isinstance(pattern, dict) else None
        if not isinstance(text, str):
            return None
        return [_GPT2 if text == _GPT2_WHOLE else text.replace(_FOLDED, _WRITTEN_OUT)]
    if kind == "ByteLevel":
        return [_GPT2] if step.get("use_regex", True) else []
    if kind == "Digits":
        return [r"\p{N}"] if step.get("individual_digits") else None
    return None


@cache
def _read_splits() -> dict[str, list[str]]:
    table: dict[str, list[str]] = json.loads(_DATA.read_text("utf-8"))["split"]
    return table
