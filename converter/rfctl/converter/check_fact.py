"""The parts of a check, one after the other; each adds what it found and none stops the others."""

from __future__ import annotations

import difflib
import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rfctl.converter.adapter import find_base
from rfctl.converter.check_adapter import compare_tokenizers, examine_base, examine_merge
from rfctl.converter.check_sibling import Sibling, describe_sibling, find_siblings
from rfctl.converter.check_template import find_training_template, starts_with
from rfctl.converter.check_tensor import compare_tensors, find_mtp
from rfctl.converter.check_tokenizer import (
    TokenizerFiles,
    compare_rows,
    examine_tokenizer,
    guess_kind,
)
from rfctl.converter.check_vocabulary import (
    describe_merges,
    find_lost_tokens,
    find_paired_merges,
    find_similar_pre_tokenizers,
)
from rfctl.converter.check_weight import (
    Weights,
    examine_weights,
    find_leftovers,
    from_error,
)
from rfctl.converter.family import Family, list_families
from rfctl.converter.finding import Finding, Severity
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, fill_defaults, inner_config
from rfctl.converter.plan import Plan
from rfctl.converter.planner import plan_model
from rfctl.converter.source import HeadOnly, ModelSource, read_config
from rfctl.converter.source_quantized import dequantize_source
from rfctl.converter.support import REFERENCE_BUILD, hf_architecture, hf_names, is_projector_only
from rfctl.converter.tokenizer import FILE as TOKENIZER_FILE
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
    """What the parts of a check found out, gathered step by step.

    tensors   those of the weights, with one for all parts of every quantized one
    adapter   directory of an adapter that is merged in, None
    siblings  families that resemble an unknown model, best first
    """

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
    tensors: Mapping[str, SourceTensor] = field(default_factory=dict)
    family: Family | None = None
    draft: Plan | None = None
    adapter: Path | None = None
    siblings: list[Sibling] = field(default_factory=list)

    @property
    def has_error(self) -> bool:
        return any(finding.severity is Severity.ERROR for finding in self.findings)


def collect_facts(
    path: Path,
    adapter: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    head: HeadOnly | None = None,
) -> Facts:
    """Everything the files of the model directory `path` say, with the adapter directory merged in.

    sizes   bytes of weight files of which only the header is in the directory, by file name
    head    set where of tokenizer.json only the ends were read
    Raises RfctlError `model.not-found`.
    """
    with _without_collector():
        if adapter is None:
            path, adapter = find_base(path)
        return _collect(path, adapter, sizes or {}, head)


def _collect(path: Path, adapter: Path | None, sizes: Mapping[str, int], head: HeadOnly | None) -> Facts:
    config: Mapping[str, Any] = {}
    findings: list[Finding] = []
    try:
        config = read_config(path)
    except RfctlError as error:
        if error.id in ("model.not-found", "model.is-gguf"):
            raise
        findings.append(from_error(error))
    if findings and findings[0].id in ("model.adapter-only", "model.inside"):
        if findings[0].id == "model.adapter-only":
            findings += examine_base(path, is_base_given=False)
        return Facts(path, findings, Weights({}, False, 0), TokenizerFiles({}, "", ""), config)
    if adapter is not None:
        findings += examine_base(adapter, is_base_given=True)
    weights, found = examine_weights(path, sizes)
    findings += found
    files, found = examine_tokenizer(path)
    findings += found
    facts = Facts(path, findings, weights, files, config, adapter=adapter)
    is_readable = _see_dequantized(facts, config)
    leftovers, _ = find_leftovers(facts.tensors)
    findings += leftovers
    has_config = bool(config)
    if has_config:
        _examine_architecture(facts, config)
    is_whole = weights.is_complete and not leftovers and is_readable
    if is_whole:
        _examine_tensors(facts, config)
    if facts.family is not None and not facts.has_error:
        _draft(facts, ModelSource(path, config, weights.tensors, head))
    if not facts.tokenizer:
        facts.tokenizer, _ = guess_kind(path)
    if not facts.has_error:
        _examine_template(facts)
        _examine_vocabulary(facts, head)
        if adapter is not None and facts.draft is not None:
            facts.findings += compare_tokenizers(adapter, facts.files.template, facts.draft)
    return facts


def _see_dequantized(facts: Facts, config: Mapping[str, Any]) -> bool:
    """Fill in `tensors`; False where the model is quantized in a way that is not read, which is a finding."""
    facts.tensors = facts.weights.tensors
    try:
        facts.tensors = dequantize_source(ModelSource(facts.path, config, facts.weights.tensors)).tensors
    except RfctlError as error:
        if facts.weights.is_complete or not error.id.startswith("model.quantized-part"):
            facts.findings.append(from_error(error))
        return False
    return True


def _examine_architecture(facts: Facts, config: Mapping[str, Any]) -> None:
    names = inner_config(config).get("architectures") or config.get("architectures")
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
    kin = [other for other in names if stem != name and other.startswith(stem)]
    facts.siblings = find_siblings(config, facts.tensors) if facts.tensors else []
    fitting = [sibling.name for sibling in facts.siblings if not sibling.match.distance]
    nearest = [*kin, *fitting, *difflib.get_close_matches(name, names, n=1, cutoff=0.0)]
    params = {"architecture": name, "nearest": nearest[0], "build": REFERENCE_BUILD, "gguf": facts.gguf}
    if facts.gguf:
        id = "model.architecture-elsewhere"
    elif kin or is_projector_only(name):
        id = "model.architecture-projector"
    else:
        id = "model.architecture-nowhere"
    facts.findings.append(Finding(id, Severity.ERROR, params))
    if facts.siblings:
        facts.findings.append(describe_sibling(facts.siblings[0], len(facts.tensors)))


def _examine_tensors(facts: Facts, config: Mapping[str, Any]) -> None:
    if facts.family is not None:
        try:
            hparams = facts.family.observe(fill_defaults(config), facts.tensors)
            facts.hparams = hparams
            facts.findings += _demand(facts.family, hparams)
            facts.findings += compare_tensors(facts.family, facts.architecture, hparams, facts.tensors)
        except RfctlError as error:
            facts.findings.append(from_error(error))
    facts.findings += find_mtp(config, list(facts.tensors))
    cuts_rows = facts.family is not None and facts.family.cuts_rows
    facts.findings += compare_rows(facts.path, facts.hparams, facts.tensors, cuts_rows=cuts_rows)


def _demand(family: Family, hparams: HParams) -> list[Finding]:
    try:
        family.demand(hparams)
    except RfctlError as error:
        return [from_error(error)]
    return []


def _draft(facts: Facts, source: ModelSource) -> None:
    """Plan the conversion: the last word on whether it works, and the source of the tokenizer's details."""
    if facts.adapter is not None:
        merged, found = examine_merge(source, facts.adapter)
        facts.findings += found
        if merged is None:
            return
        source = merged
    try:
        draft = facts.draft = plan_model(source, "auto")
    except RfctlError as error:
        facts.findings.append(from_error(error))
        if error.id == "model.pre-tokenizer-unknown":
            kind = str(source.config.get("model_type") or "")
            facts.findings += find_similar_pre_tokenizers(facts.path, kind)
        if error.id == "model.tokenizer-kind":
            facts.findings += _find_class(facts, source)
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
    trained = find_training_template(facts.adapter or facts.path)
    if trained is not None and trained[1] not in facts.files.template:
        params = {"template": trained[0], "mark": trained[1]}
        facts.findings.append(Finding("model.template-other", Severity.WARN, params))
    bos = facts.files.bos
    if not bos or facts.draft.get("tokenizer.ggml.add_bos_token") is False:
        return
    is_first = starts_with(facts.files.template, bos)
    if is_first is None:
        facts.findings.append(Finding("model.template-broken", Severity.WARN))
    elif is_first:
        facts.findings.append(Finding("model.bos-twice", Severity.INFO, {"bos": bos}))


def _examine_vocabulary(facts: Facts, head: HeadOnly | None) -> None:
    if facts.draft is None:
        return
    facts.findings += find_lost_tokens(facts.path, facts.files.config, facts.draft)
    if head is None:
        facts.findings += find_paired_merges(facts.path)
    elif head.known is not None:
        facts.findings += describe_merges(has_pairs=head.known.has_pairs)
        facts.findings.append(Finding("model.head-only", Severity.INFO, {"file": TOKENIZER_FILE}))


def _find_class(facts: Facts, source: ModelSource) -> list[Finding]:
    """Classes whose tensors are the same and that take the tokenizer as it is."""
    names = []
    for sibling in find_siblings(source.config, source.tensors):
        if sibling.match.distance or sibling.name == facts.architecture:
            continue
        try:
            list_families()[sibling.name].describe_vocabulary(source, fill_defaults(source.config))
        except (RfctlError, KeyError):
            continue
        names.append(sibling.name)
    params = {"architecture": facts.architecture, "nearest": names[0]} if names else {}
    return [Finding("model.tokenizer-class", Severity.INFO, params)] if names else []
