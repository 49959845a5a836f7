"""Convert a Hugging Face model directory to a GGUF file, in one piece or in several."""

from __future__ import annotations

import contextlib
import ctypes
import time
from dataclasses import dataclass
from pathlib import Path

from rfctl.converter.adapter import find_base, merge_adapter
from rfctl.converter.plan import Plan
from rfctl.converter.planner import plan_model
from rfctl.converter.provenance import Provenance, add_provenance
from rfctl.converter.source import ModelSource, open_source
from rfctl.converter.split import WHOLE, SplitRule
from rfctl.converter.writer import File, write_plan
from rfctl.core.progress import SILENT, Reporter


@dataclass(frozen=True)
class Conversion:
    """A finished conversion.

    path             the GGUF file; of a split one the first piece
    size             bytes of all files
    sha256           hex digest of `path` (the name of its blob in an Ollama store is `sha256-` + this)
    architecture     GGUF architecture name
    outtype          "F16", "Q4_K_M", ... (what "auto" became)
    file_type        general.file_type
    tensor_count     tensors in the file
    parameter_count  weights in the file
    context_length   tokens, None if the model does not say
    seconds          wall time
    files            all files, more than one when the output was split
    warnings         (id, params) of the message catalog
    unchanged        the same bytes were there already; nothing was written
    """

    path: Path
    size: int
    sha256: str
    architecture: str
    outtype: str
    file_type: int
    tensor_count: int
    parameter_count: int
    context_length: int | None
    seconds: float
    files: tuple[File, ...] = ()
    warnings: tuple[tuple[str, dict[str, object]], ...] = ()
    unchanged: bool = False


def make_plan(
    source: Path | ModelSource,
    outtype: str = "auto",
    *,
    adapter: Path | None = None,
    two_step: bool | None = None,
    provenance: Provenance | None = None,
) -> Plan:
    """What `convert` would write, without reading weights or writing anything. Raises as `convert`."""
    if not isinstance(source, ModelSource):
        if adapter is None:
            source, adapter = find_base(source)
        source = open_source(source)
    if adapter is not None:
        source = merge_adapter(source, adapter)
    plan = plan_model(source, outtype, two_step=two_step)
    return plan if provenance is None else add_provenance(plan, provenance)


def convert(
    source: Path,
    target: Path,
    *,
    outtype: str = "auto",
    adapter: Path | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    two_step: bool | None = None,
    provenance: Provenance | None = None,
    split: SplitRule = WHOLE,
    reporter: Reporter = SILENT,
) -> Conversion:
    """Convert the model directory `source` to the GGUF file `target`.

    outtype    any case: "auto" (bf16 for bf16 models, else f16), "f32", "f16", "bf16", "q8_0", or a type
               of llama-quantize such as "Q4_K_M", which is made in one pass
    adapter    directory of a LoRA adapter to merge; a `source` that is itself one is merged into the base
               it names, if that is a directory
    threads    workers, None: one per core
    overwrite  replace an existing target; else the same bytes are `unchanged`, and others are refused
    two_step   True gives the tensor and key order of llama-quantize also for types that the converter can
               write itself
    provenance written into the header as `general.source.*`; None: nothing is added
    split      when to begin another piece of the output (`split.py`)

    The bytes are those of llama.cpp b11434 (`convert_hf_to_gguf.py` under transformers 4.57.6;
    `llama-quantize` of the lossless conversion) unless `provenance` adds its keys. Raises RfctlError
    `model.*`, `adapter.*` (UsageError `model.outtype-unknown`, RefusedError `model.target-exists`); then the
    old target, or nothing, is there.
    """
    started = time.monotonic()
    plan = make_plan(source, outtype, adapter=adapter, two_step=two_step, provenance=provenance)
    return write(
        plan, target, started=started, threads=threads, overwrite=overwrite, split=split, reporter=reporter
    )


def write(
    plan: Plan,
    target: Path,
    *,
    started: float | None = None,
    threads: int | None = None,
    overwrite: bool = False,
    split: SplitRule = WHOLE,
    reporter: Reporter = SILENT,
) -> Conversion:
    """Write `plan` to `target`; the rest as `convert`. `started`: of time.monotonic(), for `seconds`."""
    started = time.monotonic() if started is None else started
    _return_memory()
    written = write_plan(plan, target, threads=threads, overwrite=overwrite, split=split, reporter=reporter)
    for id, params in written.warnings:
        reporter.warn(id, **params)
    context = plan.get(f"{plan.architecture}.context_length")
    return Conversion(
        path=written.path,
        size=written.size,
        sha256=written.sha256,
        architecture=plan.architecture,
        outtype=plan.outtype,
        file_type=plan.file_type,
        tensor_count=len(plan.tensors),
        parameter_count=plan.parameter_count,
        context_length=context if isinstance(context, int) else None,
        seconds=time.monotonic() - started,
        files=written.files,
        warnings=written.warnings,
        unchanged=written.unchanged,
    )


def _return_memory() -> None:
    """Give the memory of the tokenizer back before the weights come (glibc keeps it otherwise)."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
