"""The parts of a check, one after the other; each adds what it found and none stops the others."""

from __future__ import annotations

import difflib
import gc
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.converter.check_template import starts_with
from rfctl.converter.check_tensor import compare_tensors
from rfctl.converter.check_tokenizer import (
    TokenizerFiles,
    compare_rows,
    examine_tokenizer,
    guess_kind,
)
from rfctl.converter.check_weight import (
    Weights,
    examine_weights,
    find_leftovers,
    find_quantization,
    from_error,
)
from rfctl.converter.family import Family, list_families
from rfctl.converter.finding import Finding, Severity
from rfctl.converter.hparams import HParams, fill_defaults
from rfctl.converter.plan import Plan
from rfctl.converter.planner import plan_model
from rfctl.converter.source import ModelSource, read_config
from rfctl.converter.support import REFERENCE_BUILD, hf_architecture, hf_names, is_projector_only
from rfctl.core.error import RfctlError

_KINDS = {"gpt2": "BPE", "bert": "WordPiece", "llama": "SentencePiece", "t5": "Unigram"}


@contextmanager
def _without_collector() -> Iterator[None]:
    """No garbage collection inside: a vocabulary is a million small objects that all stay, a quarter of the
    time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@dataclass
class Facts:
    """What the parts of a check found out, gathered step by step."""

    path: Path
    findings: list[Finding]
    weights: Weights
    files: TokenizerFiles
    hparams: Mapping[str, Any]
    architecture: str = ""
    gguf: str = ""
    tokenizer: str = ""
    pre: str = ""
    is_encoder: bool = False
    family: Family | None = None
    draft: Plan | None = None

    @property
    def has_error(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def collect_facts(path: Path) -> Facts:
    """Everything the files of the model directory `path` say. Raises RfctlError `model.not-found`."""
    with _without_collector():
        return _collect(path)


def _collect(path: Path) -> Facts:
    config: Mapping[str, Any] = {}
    findings: list[Finding] = []
    try:
        config = read_config(path)
    except RfctlError as error:
        if error.id == "model.not-found":
            raise
        findings.append(from_error(error))
    if any(finding.id == "model.adapter-only" for finding in findings):
        return Facts(path, findings, Weights({}, False, 0), TokenizerFiles({}, "", ""), config)
    weights, found = examine_weights(path)
    findings += found
    files, found = examine_tokenizer(path)
    findings += found
    facts = Facts(path, findings, weights, files, config)
    quantization = find_quantization(config)
    findings += [quantization] if quantization else []
    leftovers, _ = find_leftovers(weights.tensors)
    findings += leftovers
    has_config = bool(config)
    if has_config:
        _examine_architecture(facts, config)
    is_whole = weights.is_complete and not leftovers and quantization is None
    if is_whole:
        _examine_tensors(facts, config)
    if facts.family is not None and not facts.has_error:
        _draft(facts, ModelSource(path, config, weights.tensors))
    if not facts.tokenizer:
        facts.tokenizer, _ = guess_kind(path)
    if not facts.has_error:
        _examine_template(facts)
    return facts


def _examine_architecture(facts: Facts, config: Mapping[str, Any]) -> None:
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        facts.findings.append(Finding("model.architecture-missing", Severity.ERROR, {"path": facts.path}))
        return
    name = facts.architecture = names[0][:120]
    facts.family = list_families().get(name)
    facts.gguf = hf_architecture(name)
    if facts.family is not None:
        return
    names = [*list_families(), *hf_names()]
    stem = name.removesuffix("Model")
    siblings = [other for other in names if stem != name and other.startswith(stem)]
    nearest = [*siblings, *_fitting(facts, config), *difflib.get_close_matches(name, names, n=1, cutoff=0.0)]
    params = {"architecture": name, "nearest": nearest[0], "build": REFERENCE_BUILD, "gguf": facts.gguf}
    if facts.gguf:
        id = "model.architecture-elsewhere"
    elif siblings or is_projector_only(name):
        id = "model.architecture-projector"
    else:
        id = "model.architecture-nowhere"
    facts.findings.append(Finding(id, Severity.ERROR, params))


def _fitting(facts: Facts, config: Mapping[str, Any]) -> list[str]:
    """Architectures of ours that have a place for every tensor, and a tensor for every place.

    Several may, since the same names stand for different arithmetic: first the one that `model_type` names,
    then those whose arithmetic most other models share.
    """
    found = []
    kind = str(config.get("model_type") or "").replace("_", "").lower()
    shared = Counter(hf_architecture(name) for name in hf_names())
    for name, family in list_families().items():
        try:
            if not compare_tensors(family, name, fill_defaults(config), facts.weights.tensors):
                found.append(name)
        except (RfctlError, KeyError):
            continue
    found.sort(key=lambda name: -shared[hf_architecture(name)])
    found.sort(key=lambda name: not (kind and name.lower().startswith(kind)))
    return found if facts.weights.tensors else []


def _examine_tensors(facts: Facts, config: Mapping[str, Any]) -> None:
    if facts.family is not None:
        try:
            hparams = facts.hparams = fill_defaults(config)
            facts.findings += _demand(facts.family, hparams)
            facts.findings += compare_tensors(
                facts.family, facts.architecture, hparams, facts.weights.tensors
            )
        except RfctlError as error:
            facts.findings.append(from_error(error))
    facts.findings += compare_rows(facts.path, facts.hparams, facts.weights.tensors)


def _demand(family: Family, hparams: HParams) -> list[Finding]:
    try:
        family.demand(hparams)
    except RfctlError as error:
        return [from_error(error)]
    return []


def _draft(facts: Facts, source: ModelSource) -> None:
    """Plan the conversion: the last word on whether it works, and the source of the tokenizer's details."""
    try:
        draft = facts.draft = plan_model(source, "auto")
    except RfctlError as error:
        facts.findings.append(from_error(error))
        return
    facts.hparams = draft.hparams
    facts.gguf = draft.architecture
    facts.is_encoder = draft.get(f"{draft.architecture}.attention.causal") is False
    kind = draft.get("tokenizer.ggml.model")
    facts.tokenizer = _KINDS.get(kind, str(kind))
    facts.pre = str(draft.get("tokenizer.ggml.pre") or "") if kind == "gpt2" else ""


def _examine_template(facts: Facts) -> None:
    if facts.is_encoder or facts.draft is None:
        return
    if not facts.files.template:
        facts.findings.append(Finding("model.template-missing", Severity.WARN))
        return
    bos = facts.files.bos
    if not bos or facts.draft.get("tokenizer.ggml.add_bos_token") is False:
        return
    is_first = starts_with(facts.files.template, bos)
    if is_first is None:
        facts.findings.append(Finding("model.template-broken", Severity.WARN))
    elif is_first:
        facts.findings.append(Finding("model.bos-twice", Severity.INFO, {"bos": bos}))
