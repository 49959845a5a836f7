"""Will this model convert, load and run? Headers and small files only; no weight is read.

Four authorities answer for themselves: our converter, llama.cpp, Ollama, and Ollama's own safetensors
importer. What no table covers is "unknown", which is never counted as supported.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from rfctl.converter.check_fact import Facts, collect_facts
from rfctl.converter.check_weight import Weights
from rfctl.converter.finding import Answer, Finding, Severity, Verdict
from rfctl.converter.memory import estimate_cache, estimate_output, find_context
from rfctl.converter.plan import Plan
from rfctl.converter.planner import describe_mix
from rfctl.converter.quantization.mix import MixTensor
from rfctl.converter.quantization.type import file_type
from rfctl.converter.source import HeadOnly
from rfctl.converter.support import REFERENCE_BUILD, Need, judge_importer, judge_llamacpp, judge_ollama
from rfctl.core.version import __version__

DEFAULT_NUM_CTX = 4096
SIZED_OUTTYPES = ("F16", "Q8_0", "Q4_K_M")


@dataclass(frozen=True)
class CheckReport:
    """The result of a check. Sizes are bytes, lengths tokens; None and "" mean: not known.

    path               the directory, or the name of the repository that it was fetched from
    will_work          no error, and everything that was asked about is supported
    architecture       class named in config.json
    gguf_architecture  what llama.cpp calls it
    parameter_count    weights in the files
    dtype_bytes        bytes of the weights by safetensors dtype
    context_length     context the model was made for
    tokenizer          kind: "BPE", "WordPiece", "Unigram", "SentencePiece"
    pre_tokenizer      `tokenizer.ggml.pre`
    has_chat_template  whether the directory has a chat template
    output_bytes       size of the converted file by outtype
    download_bytes     what must be downloaded first; 0 for a directory
    disk_bytes         most disk that a conversion takes at once, by outtype: the download and the new file,
                       which is written in one pass
    num_ctx            context the memory is estimated for
    cache_bytes        key/value cache at num_ctx, float16
    memory_bytes       weights and cache by outtype
    verdicts           what each authority says
    findings           errors first, then warnings, then notes
    """

    path: Path | str
    will_work: bool
    architecture: str
    gguf_architecture: str
    parameter_count: int
    dtype_bytes: Mapping[str, int]
    context_length: int | None
    tokenizer: str
    pre_tokenizer: str
    has_chat_template: bool
    output_bytes: Mapping[str, int]
    download_bytes: int
    disk_bytes: Mapping[str, int]
    num_ctx: int
    cache_bytes: int | None
    memory_bytes: Mapping[str, int]
    verdicts: tuple[Verdict, ...] = field(default=())
    findings: tuple[Finding, ...] = field(default=())

    @property
    def errors(self) -> tuple[Finding, ...]:
        return tuple(finding for finding in self.findings if finding.severity is Severity.ERROR)


def check(
    source: Path,
    *,
    ollama_version: str | None = None,
    llamacpp_build: str | None = None,
    num_ctx: int | None = None,
    adapter: Path | None = None,
    sizes: Mapping[str, int] | None = None,
    label: str = "",
    download_bytes: int = 0,
    outtype: str | None = None,
    head: HeadOnly | None = None,
) -> CheckReport:
    """Look at the model directory `source`.

    ollama_version   also decide for this Ollama release, e.g. "0.24.0"
    llamacpp_build   also decide for this llama.cpp build, e.g. "b10488"
    num_ctx          context to estimate the memory for; default: 4096 or the model's own if that is shorter
    adapter          directory of a LoRA adapter to merge; `source` may be one itself if its base is here
    sizes            bytes of weight files that are in the directory only with their header, by name
    label            what to call the directory in the report
    download_bytes   what a conversion would have to download first
    outtype          estimate sizes for this type only; default: F16, Q8_0 and Q4_K_M
    head             set where of tokenizer.json only the ends were read
    Raises RfctlError `model.not-found` and `model.outtype-unknown`; everything else is a finding.
    """
    outtypes = SIZED_OUTTYPES if outtype is None or outtype.lower() == "auto" else (file_type(outtype).name,)
    path = source.absolute()
    facts = collect_facts(path, adapter, sizes, head)
    need = Need(facts.gguf, facts.pre)
    verdicts = [
        _judge_converter(facts),
        _judge_llamacpp(facts, need, llamacpp_build or REFERENCE_BUILD),
        judge_ollama(need, ollama_version),
        judge_importer(facts.architecture, ollama_version),
    ]
    findings = [*facts.findings]
    asked = [verdicts[1]] * bool(llamacpp_build) + [verdicts[2]] * bool(ollama_version)
    findings += [finding for verdict in asked for finding in _explain_target(verdict)]
    if verdicts[3].answer is Answer.UNSUPPORTED and facts.family is not None:
        params = {"architecture": facts.architecture, "version": verdicts[3].version}
        findings.append(Finding("model.importer-absent", Severity.INFO, params))
    is_sound = not any(finding.severity is Severity.ERROR for finding in findings)
    is_supported = all(verdict.answer is Answer.SUPPORTED for verdict in [verdicts[0], *asked])
    if is_sound:
        findings.append(Finding("model.data-unread", Severity.INFO))
    context = find_context(facts.hparams)
    length = num_ctx or min(DEFAULT_NUM_CTX, context or DEFAULT_NUM_CTX)
    cache = 0 if facts.is_encoder else estimate_cache(facts.hparams, length, _find_window(facts.draft))
    outputs = _estimate_outputs(facts.draft, outtypes)
    order = list(Severity)
    if label:
        findings = [_relabel(finding, facts.path, label) for finding in findings]
    return CheckReport(
        path=label or facts.path,
        will_work=is_sound and is_supported,
        architecture=facts.architecture,
        gguf_architecture=facts.gguf,
        parameter_count=sum(tensor.count for tensor in facts.weights.tensors.values()),
        dtype_bytes=_sum_dtypes(facts.weights),
        context_length=context,
        tokenizer=facts.tokenizer,
        pre_tokenizer=facts.pre,
        has_chat_template=bool(facts.files.template),
        output_bytes=outputs,
        download_bytes=download_bytes,
        disk_bytes={name: size + download_bytes for name, size in outputs.items()},
        num_ctx=length,
        cache_bytes=cache,
        memory_bytes={} if cache is None else {name: size + cache for name, size in outputs.items()},
        verdicts=tuple(verdicts),
        findings=tuple(sorted(findings, key=lambda finding: order.index(finding.severity))),
    )


def _relabel(finding: Finding, path: Path, label: str) -> Finding:
    params = {key: label if value == path else value for key, value in finding.params.items()}
    return replace(finding, params=params)


def _judge_converter(facts: Facts) -> Verdict:
    params = {"architecture": facts.gguf or facts.architecture}
    if facts.draft is not None and not facts.has_error:
        return Verdict("converter", __version__, Answer.SUPPORTED, "", "support.converter-ready", params)
    if facts.architecture and facts.family is None:
        return Verdict("converter", __version__, Answer.UNSUPPORTED, "", "support.converter-absent", params)
    return Verdict("converter", __version__, Answer.UNSUPPORTED, "", "support.converter-blocked", params)


def _judge_llamacpp(facts: Facts, need: Need, build: str) -> Verdict:
    if facts.architecture and not facts.gguf and build == REFERENCE_BUILD:
        # The list of classes of this build is complete: what it lacks cannot become a file at all.
        params = {"architecture": facts.architecture, "version": build}
        return Verdict("llama.cpp", build, Answer.UNSUPPORTED, "", "support.architecture-absent", params)
    return judge_llamacpp(need, build)


def _explain_target(verdict: Verdict) -> list[Finding]:
    target = f"{verdict.authority} {verdict.version}"
    if verdict.answer is Answer.UNSUPPORTED:
        params = {"target": target, "reason": verdict.text(), "since": verdict.since or "-"}
        return [Finding("model.target-unsupported", Severity.ERROR, params)]
    if verdict.answer is Answer.UNKNOWN:
        return [Finding("model.target-unknown", Severity.WARN, {"target": target})]
    return []


def _find_window(draft: Plan | None) -> int:
    """The sliding window that the file tells llama.cpp, tokens; 0 for none."""
    value = draft.get(f"{draft.architecture}.attention.sliding_window") if draft is not None else None
    return value if isinstance(value, int) and 0 < value < 1 << 40 else 0


def _estimate_outputs(draft: Plan | None, outtypes: Sequence[str]) -> dict[str, int]:
    if draft is None:
        return {}
    tensors = [MixTensor(tensor.name, tensor.shape, tensor.type) for tensor in draft.tensors]
    model = describe_mix(draft.architecture, draft.pairs)
    return {outtype: estimate_output(tensors, model, outtype) for outtype in outtypes}


def _sum_dtypes(weights: Weights) -> dict[str, int]:
    sums: dict[str, int] = {}
    for tensor in weights.tensors.values():
        sums[tensor.dtype] = sums.get(tensor.dtype, 0) + tensor.size
    return dict(sorted(sums.items(), key=lambda item: -item[1]))
