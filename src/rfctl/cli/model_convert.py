"""`rfctl model convert`."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.kernel import CHOICES, choose_kernel
from rfctl.cli.output import human_bytes
from rfctl.core.error import RfctlError, UsageError

if TYPE_CHECKING:
    from rfctl.converter.plan import Plan
    from rfctl.converter.preview import Preview
    from rfctl.converter.provenance import Provenance

ENGINES = ("rfctl", "llama.cpp")


@command("convert")
@click.argument("directory", metavar="DIR", type=click.Path(path_type=Path))
@click.option("-o", "--output-file", "target", metavar="FILE", type=click.Path(path_type=Path))
@click.option(
    "--outtype",
    "--quantize",
    "outtype",
    default="auto",
    metavar="TYPE",
    help="auto, f32, f16, bf16, q8_0, Q4_K_M, ...",
)
@click.option("--adapter", metavar="DIR", type=click.Path(path_type=Path), help="LoRA adapter to merge.")
@click.option("--as-adapter", is_flag=True, help="Write the adapter itself, do not merge it.")
@click.option("--threads", type=click.IntRange(min=1), help="Threads; all cores by default.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
@click.option("--kernel", type=click.Choice(CHOICES), default="auto", help="Code that quantizes.")
@click.option("--split-max-size", metavar="N(M|G)", help="Most tensor data in one file.")
@click.option("--split-max-tensors", type=click.IntRange(min=1), help="Most tensors in one file.")
@click.option("--dry-run", is_flag=True, help="Show sizes and types, write nothing.")
@click.option("--provenance", is_flag=True)
@click.option("--engine", type=click.Choice(ENGINES), default=ENGINES[0])
@click.option("--llama-cpp", "tree", metavar="DIR", envvar="LLAMA_CPP", type=click.Path(path_type=Path))
def convert(
    app: App,
    directory: Path,
    target: Path | None,
    outtype: str,
    adapter: Path | None,
    as_adapter: bool,
    threads: int | None,
    force: bool,
    kernel: str,
    split_max_size: str | None,
    split_max_tensors: int | None,
    dry_run: bool,
    provenance: bool,
    engine: str,
    tree: Path | None,
) -> None:
    """Write a model directory as a GGUF file."""
    from rfctl.cli.model_base import find_directories
    from rfctl.cli.model_provenance import find_provenance
    from rfctl.converter.convert import write
    from rfctl.converter.split import SplitRule, parse_size

    if target is None and not dry_run:
        raise UsageError("model.target-missing")
    split = SplitRule(parse_size(split_max_size) if split_max_size else 0, split_max_tensors or 0)
    started = time.monotonic()
    directory, adapter = find_directories(app, directory, adapter, config_only=as_adapter)
    if as_adapter and adapter is None:
        raise UsageError("adapter.as-adapter-alone")
    choose_kernel(app, directory, outtype, kernel)
    origin = find_provenance(app, directory, adapter, outtype) if provenance and not dry_run else None
    if as_adapter and adapter is not None:
        plan = find_adapter_plan(directory, adapter, outtype)
    else:
        plan = find_plan(app, directory, outtype, adapter, origin, engine, tree)
    if dry_run or target is None:
        from rfctl.converter.preview import preview_plan

        show_preview(app, preview_plan(plan, target, split))
        return
    result = write(
        plan,
        target,
        started=started,
        threads=threads,
        overwrite=force,
        split=split,
        reporter=app.reporter(),
    )
    app.out.report(result)
    app.out.say(
        "model.unchanged" if result.unchanged else "model.converted",
        target=result.path,
        size=human_bytes(result.size),
        outtype=result.outtype,
        count=result.tensor_count,
    )
    if len(result.files) > 1:
        app.out.say("model.converted-pieces", count=len(result.files))


def find_adapter_plan(directory: Path, adapter: Path, outtype: str) -> Plan:
    """The plan of the adapter's own file; float32 unless a type was asked for, as the reference does."""
    from rfctl.converter.adapter_file import plan_adapter
    from rfctl.converter.source import ModelSource, read_config

    asked = click.get_current_context().get_parameter_source("outtype")
    base = ModelSource(directory.absolute(), read_config(directory), {})
    is_default = asked is click.core.ParameterSource.DEFAULT
    return plan_adapter(base, adapter.absolute(), "f32" if is_default else outtype)


def find_plan(
    app: App,
    directory: Path,
    outtype: str,
    adapter: Path | None,
    origin: Provenance | None,
    engine: str,
    tree: Path | None,
) -> Plan:
    """The plan by our own tables, or by a llama.cpp tree when that was asked for.

    Raises RfctlError as `make_plan`; `tree.offer` in place of `model.architecture-unknown` where a tree could
    do it: its code is never run without being asked for.
    """
    from rfctl.converter.convert import make_plan
    from rfctl.converter.llama_cpp.front import find_tree, plan_with_tree
    from rfctl.converter.provenance import add_provenance

    if engine == ENGINES[0]:
        try:
            return make_plan(directory, outtype, adapter=adapter, provenance=origin)
        except RfctlError as error:
            if error.id != "model.architecture-unknown" or adapter is not None:
                raise
            found = find_tree(tree)
            if found is None:
                raise
            architecture = error.params["architecture"]
            raise RfctlError("tree.offer", architecture=architecture, tree=found, path=directory) from error
    if adapter is not None:
        raise UsageError("tree.adapter")
    found = find_tree(tree)
    if found is None:
        raise UsageError("tree.none", path=tree or "-")
    app.out.note("tree.runs", tree=found)
    plan = plan_with_tree(directory, outtype, found)
    return plan if origin is None else add_provenance(plan, origin)


def show_preview(app: App, preview: Preview) -> None:
    """The table of `--dry-run`."""
    out = app.out
    out.report(preview)
    if not out.is_human:
        return
    titles = [out.text(f"model.preview-{name}") for name in ("tensor", "shape", "from", "to", "bytes")]
    out.table(
        titles,
        [
            (
                tensor.name,
                "x".join(map(str, tensor.shape)),
                tensor.source_dtype,
                tensor.type,
                f"{tensor.size:,}",
            )
            for tensor in preview.tensors
        ],
    )
    out.line()
    out.table(
        [out.text(f"model.preview-{name}") for name in ("type", "tensors", "weights", "bytes")],
        [
            (total.type, total.count, f"{total.parameter_count:,}", f"{total.size:,}")
            for total in preview.totals
        ],
    )
    out.line()
    if len(preview.files) > 1:
        for file in preview.files:
            name = file.path.name if file.path is not None else ""
            out.say("model.preview-file", name=name, size=file.size, count=file.tensor_count)
    out.say("model.preview-size", size=preview.size, outtype=preview.outtype, header=preview.header_size)
    if preview.disk_free is None:
        out.say("model.preview-disk", needed=human_bytes(preview.disk_needed))
    else:
        enough = "enough" if preview.disk_free >= preview.disk_needed else "short"
        out.say(
            f"model.preview-disk-{enough}",
            needed=human_bytes(preview.disk_needed),
            free=human_bytes(preview.disk_free),
        )
