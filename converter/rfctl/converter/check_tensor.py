"""Tensor names against what the family knows and what llama.cpp cannot load the model without; all at
once."""

from __future__ import annotations

from collections.abc import Mapping

from rfctl.converter.family import Family
from rfctl.converter.finding import Finding, Severity, shorten
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.core.error import RfctlError

_MOST_BLOCKS = 10_000


def compare_tensors(
    family: Family, architecture: str, hparams: HParams, tensors: Mapping[str, SourceTensor]
) -> list[Finding]:
    """Every tensor without a place in the file and every place without a tensor.

    Raises RfctlError `model.config-invalid` when the configuration does not tell the number of layers.
    """
    blocks = family.count_blocks(hparams)
    if blocks > _MOST_BLOCKS:
        raise RfctlError("model.config-invalid", key="num_hidden_layers", value=str(blocks))
    have = {name for name, _ in family.generate(hparams)}
    unmapped = []
    for name in tensors:
        adapted = family.adapt_name(name)
        if adapted is None or family.leaves_out(adapted, hparams):
            continue
        mapped = family.map_name(adapted, blocks)
        if mapped is None:
            unmapped.append(name)
        else:
            have.update(family.produce(mapped))
    wanted = [*family.require(hparams)]
    wanted += [f"blk.{number}.{name}" for number in range(blocks) for name in family.block_required]
    missing = [name for name in wanted if name not in have]
    findings = []
    if unmapped:
        params = {"count": len(unmapped), "tensors": shorten(unmapped), "architecture": architecture}
        findings.append(Finding("model.tensor-unmapped", Severity.ERROR, params))
    if missing:
        params = {"count": len(missing), "tensors": shorten(missing)}
        findings.append(Finding("model.tensors-missing", Severity.ERROR, params))
    return findings
