"""Tensor names against what the family knows and what llama.cpp cannot load the model without; all at
once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rfctl.converter.family import Family
from rfctl.converter.finding import Finding, Severity, shorten
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.core.error import RfctlError

_MOST_BLOCKS = 10_000
_HEAD = "output.weight"
# How many layers of a second prediction head the configuration promises, and how its tensors are called.
_MTP_COUNTS = ("mtp_num_hidden_layers", "num_nextn_predict_layers")
_MTP_NAMES = ("mtp.", "model.mtp.")


@dataclass(frozen=True)
class Match:
    """How the tensors of a model fit a family.

    unmapped  names that have no place in the file
    missing   GGUF names that nothing gives
    repair    what makes every unmapped name fit: ("add", "model.") or ("strip", "wrapper."); None
    """

    unmapped: Sequence[str]
    missing: Sequence[str]
    repair: tuple[str, str] | None

    @property
    def distance(self) -> int:
        return len(self.unmapped) + len(self.missing)


def match_tensors(family: Family, hparams: HParams, names: Sequence[str]) -> Match:
    """Every tensor without a place in the file and every place without a tensor.

    Raises RfctlError `model.config-invalid` when the configuration does not tell the number of layers.
    """
    blocks = family.count_blocks(hparams)
    if blocks > _MOST_BLOCKS:
        raise RfctlError("model.config-invalid", key="num_hidden_layers", value=str(blocks))
    have = {name for name, _ in family.generate(hparams)}

    def take(name: str) -> bool:
        adapted = family.adapt_name(name)
        if adapted is None or family.leaves_out(adapted, hparams):
            return True
        mapped = family.map_name(family.place(adapted, hparams), blocks)
        if mapped is None:
            return False
        have.update(family.produce(mapped))
        return True

    unmapped = [name for name in names if not take(name)]
    repair = _find_repair(family, unmapped, blocks)
    if repair is not None:
        kind, prefix = repair
        for name in unmapped:
            take(prefix + name if kind == "add" else name.removeprefix(prefix))
    wanted = [*family.require(hparams)]
    wanted += [f"blk.{number}.{name}" for number in range(blocks) for name in family.block_required]
    return Match(unmapped, [name for name in wanted if name not in have], repair)


def compare_tensors(
    family: Family, architecture: str, hparams: HParams, tensors: Mapping[str, SourceTensor]
) -> list[Finding]:
    """What `match_tensors` finds, and heads that are there twice or not at all, as findings."""
    match = match_tensors(family, hparams, list(tensors))
    findings = []
    if match.repair is not None:
        kind, prefix = match.repair
        params = {"prefix": prefix, "count": len(match.unmapped), "tensors": shorten(list(match.unmapped), 2)}
        id = "model.prefix-missing" if kind == "add" else "model.wrapper-prefix"
        findings.append(Finding(id, Severity.ERROR, params))
    elif match.unmapped:
        params = {
            "count": len(match.unmapped),
            "tensors": shorten(list(match.unmapped)),
            "architecture": architecture,
        }
        findings.append(Finding("model.tensor-unmapped", Severity.ERROR, params))
    is_tied = hparams.get("tie_word_embeddings")
    if list(match.missing) == [_HEAD] and not match.unmapped:
        findings.append(Finding("model.head-missing", Severity.ERROR, {"value": str(is_tied).lower()}))
    elif match.missing:
        params = {"count": len(match.missing), "tensors": shorten(list(match.missing))}
        findings.append(Finding("model.tensors-missing", Severity.ERROR, params))
    if is_tied is True and "lm_head.weight" in tensors:
        findings.append(Finding("model.head-twice", Severity.WARN, {"tensor": "lm_head.weight"}))
    return findings


def find_mtp(config: Mapping[str, object], names: Sequence[str]) -> list[Finding]:
    """A promised second prediction head (MTP, NextN) without its tensors.

    llama.cpp's converter counts its layers into the model though no tensor of them is there, and stops where
    the configuration gives no count (`conversion/qwen.py` _QwenMtpMixin, b11434); ours writes what is there.
    """
    for key in _MTP_COUNTS:
        count = config.get(key)
        if type(count) is not int or count <= 0:
            continue
        layers = config.get("num_hidden_layers")
        behind = tuple(f"model.layers.{layers}." for layers in [layers] if type(layers) is int)
        if not any(name.startswith((*_MTP_NAMES, *behind)) for name in names):
            return [Finding("model.mtp-missing", Severity.WARN, {"key": key, "value": count})]
    return []


def _find_repair(family: Family, unmapped: Sequence[str], blocks: int) -> tuple[str, str] | None:
    """One change of the beginning of every unmapped name that gives all of them a place, if there is one."""
    if not unmapped:
        return None

    def fits(name: str) -> bool:
        adapted = family.adapt_name(name)
        return adapted is not None and family.map_name(adapted, blocks) is not None

    start = family.block_prefix.split(".", 1)[0] + "."
    if start != family.block_prefix and all(fits(start + name) for name in unmapped):
        return "add", start
    parts = unmapped[0].split(".")
    for count in range(1, min(4, len(parts))):
        prefix = ".".join(parts[:count]) + "."
        if all(name.startswith(prefix) and fits(name.removeprefix(prefix)) for name in unmapped):
            return "strip", prefix
    return None
