"""The child process of `--engine llama.cpp`: runs a tree's conversion modules and writes down their plan.

    python -I -m rfctl.converter.llama_cpp.child REQUEST

REQUEST is a JSON file: tree, model, outtype, folder. In `folder` the child leaves plan.json and data.bin. It
executes code of the tree. Before it does, it gives up the network, other programs and writing anywhere but in
`folder`, as far as the system lets it; that guards against accidents, not against a tree that means harm.
"""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import math
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from rfctl.converter.expression import STORAGE
from rfctl.converter.llama_cpp import stand_in
from rfctl.converter.llama_cpp.array import FakeArray
from rfctl.converter.llama_cpp.graph import Node
from rfctl.converter.llama_cpp.tensor import Tensor, from_numpy

_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_FORBIDDEN = (
    "socket.connect", "socket.bind", "socket.sendto", "subprocess.Popen", "os.system", "os.exec", "os.fork",
    "os.posix_spawn", "os.forkpty", "os.spawn", "os.startfile", "os.kill", "ctypes.dlopen",
)  # fmt: skip
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink",
            "os.truncate", "shutil.rmtree", "shutil.move", "shutil.copyfile")  # fmt: skip


class Quantized:
    """What a tensor will be: has the shape that the tree's writer expects of the finished bytes."""

    def __init__(self, node: Node, type_name: str, shape: tuple[int, ...], dtype: Any) -> None:
        self.node, self.type_name, self.shape, self.dtype = node, type_name, shape, np.dtype(dtype)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * int(self.dtype.itemsize)


def main(request_path: str) -> None:
    request = json.loads(Path(request_path).read_text("utf-8"))
    tree, folder = Path(request["tree"]), Path(request["folder"])
    logging.basicConfig(level=logging.WARNING, stream=sys.stderr)
    sys.dont_write_bytecode = True
    # What stays useful without the tree is loaded before the doors close.
    for name in ("tokenizers", "sentencepiece", "yaml", "jinja2", "ctypes"):
        with contextlib.suppress(ImportError):
            __import__(name)
    stand_in.install()
    sys.path[:0] = [str(tree), str(tree / "gguf-py")]
    _close_doors(folder)
    writer, architecture = _run(tree, Path(request["model"]), request["outtype"])
    import gguf

    with (folder / "data.bin").open("wb") as blob:
        nodes = _Nodes(blob)
        document = {
            "architecture": architecture,
            "pairs": [_pair(gguf, key, value) for key, value in writer.kv_data[0].items()],
            "tensors": [_tensor(gguf, nodes, name, info) for name, info in writer.tensors[0].items()],
            "nodes": nodes.written,
        }
    (folder / "plan.json").write_text(json.dumps(document), "utf-8")


def _run(tree: Path, model: Path, outtype: str) -> tuple[Any, str]:
    import gguf
    from conversion import base  # type: ignore[import-not-found]

    if not Path(gguf.__file__).resolve().is_relative_to(tree.resolve()):
        raise ImportError(f"gguf comes from {gguf.__file__}, not from the tree")
    _patch(gguf, base)
    import conversion

    hparams = base.ModelBase.load_hparams(model, False)
    name = conversion.get_model_architecture(hparams, base.ModelType.TEXT)
    kinds = {
        "f32": "ALL_F32",
        "f16": "MOSTLY_F16",
        "bf16": "MOSTLY_BF16",
        "q8_0": "MOSTLY_Q8_0",
        "auto": "GUESSED",
    }
    made = conversion.get_model_class(name)(
        model, getattr(gguf.LlamaFileType, kinds[outtype]), model / "out.gguf", eager=True
    )
    made.prepare_tensors()
    made.prepare_metadata(vocab_only=False)
    return made.gguf_writer, gguf.MODEL_ARCH_NAMES[made.model_arch]


def _patch(gguf: Any, base: Any) -> None:
    """Record instead of computing: the one place where bytes are made, and the tree's own lazy tensors."""

    def quantize(data: Any, kind: Any) -> Any:
        node = data.node if isinstance(data, FakeArray) else from_numpy(np.ascontiguousarray(data)).node
        shape = node.shape
        if kind.name in ("F32", "F16"):
            return Quantized(node, kind.name, shape, np.float32 if kind.name == "F32" else np.float16)
        block, _ = gguf.GGML_QUANT_SIZES[kind]
        if not shape or shape[-1] % block:
            raise gguf.QuantError(f"Can't quantize tensor with shape {shape} to {kind.name}")
        return Quantized(node, kind.name, tuple(gguf.quant_shape_to_byte_shape(shape, kind)), np.uint8)

    gguf.quants.quantize = quantize
    lazy = base.LazyTorchTensor

    class Eager:
        """Our tensors are lazy themselves."""

        def __new__(
            cls, *, meta: Any = None, data: Any = None, args: Any = (), kwargs: Any = None, func: Any = None
        ) -> Any:
            return data if func is None else func(*args, **(kwargs or {}))

        @classmethod
        def from_local_tensor(cls, tensor: Any) -> Tensor:
            dtype = lazy._dtype_str_map[tensor.dtype]
            return from_numpy(tensor.mmap_bytes()).view(dtype).reshape(tuple(tensor.shape))

        @classmethod
        def from_eager(cls, tensor: Any) -> Any:
            return tensor

        @classmethod
        def to_eager(cls, tensor: Any) -> Any:
            return tensor

        @classmethod
        def meta_with_dtype_and_shape(cls, dtype: Any, shape: Any) -> Any:
            return sys.modules["torch"].empty(shape, dtype=dtype)

    for name in ("_dtype_map", "_dtype_byteswap_map", "_dtype_str_map"):
        setattr(Eager, name, getattr(lazy, name, {}))
    base.LazyTorchTensor = Eager
    package = sys.modules["conversion"]
    if hasattr(package, "LazyTorchTensor"):
        package.LazyTorchTensor = Eager  # type: ignore[attr-defined]


class _Nodes:
    """Nodes as JSON, each once, inputs before what uses them; known values go to a file beside."""

    def __init__(self, blob: BinaryIO) -> None:
        self.written: list[dict[str, Any]] = []
        self._blob, self._numbers, self._kept = blob, dict[int, int](), list[Node]()

    def add(self, node: Node) -> int:
        stack = [(node, False)]
        while stack:
            one, is_ready = stack.pop()
            if id(one) in self._numbers:
                continue
            if not is_ready:
                stack.append((one, True))
                stack.extend((inner, False) for inner in one.inputs)
                continue
            entry: dict[str, Any] = {
                "op": one.op, "inputs": [self._numbers[id(inner)] for inner in one.inputs],
                "params": _plain(one.params), "dtype": one.dtype, "shape": list(one.shape),
            }  # fmt: skip
            if one.data is not None:
                values = np.ascontiguousarray(one.data).astype(STORAGE[one.dtype], copy=False)
                entry["at"] = self._blob.tell()
                self._blob.write(values.tobytes())
            self._numbers[id(one)] = len(self.written)
            self._kept.append(one)  # an id must not be used again
            self.written.append(entry)
        return self._numbers[id(node)]


def _plain(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def _tensor(gguf: Any, nodes: _Nodes, name: str, info: Any) -> dict[str, Any]:
    given = info.tensor
    kind = gguf.GGMLQuantizationType(info.dtype).name
    is_packed = False
    if isinstance(given, (Quantized, FakeArray)):
        node = given.node
        is_packed = isinstance(given, FakeArray) and given.dtype == np.uint8
    else:
        array = np.ascontiguousarray(given)
        is_packed = array.dtype == np.uint8
        node = from_numpy(array).node
    shape = [int(n) for n in reversed(info.shape)]
    return {"name": name, "type": kind, "shape": shape, "node": nodes.add(node), "is_packed": is_packed}


def _pair(gguf: Any, key: str, entry: Any) -> dict[str, Any]:
    value, item = entry.value, None
    if entry.type.name == "ARRAY":
        if entry.sub_type is not None:
            item = entry.sub_type.name
        else:
            item = "UINT8" if isinstance(value, bytes) else gguf.GGUFValueType.get_type(value[0]).name
        return {"key": key, "type": "ARRAY", "item": item, "value": [_scalar(one) for one in value]}
    return {"key": key, "type": entry.type.name, "item": item, "value": _scalar(value)}


def _scalar(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray)):
        return {"base64": base64.b64encode(bytes(value)).decode()}
    if isinstance(value, (np.generic, Tensor)):
        value = value.item()
    if isinstance(value, float):
        return {"float": value.hex()}
    return value if isinstance(value, (str, bool)) else int(value)


def _close_doors(folder: Path) -> None:
    """No network, no programs, no changes to files outside `folder` (audit hooks of the interpreter)."""
    unshare: Callable[[int], None] | None = getattr(os, "unshare", None)
    if unshare is not None:
        with contextlib.suppress(OSError):
            unshare(os.CLONE_NEWUSER | os.CLONE_NEWNET)
    inside = str(folder.resolve()) + os.sep

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            raise PermissionError(f"{event} is not allowed here")
        if event == "open":
            path, mode, flags = arguments
            is_change = isinstance(flags, int) and bool(flags & _WRITES)
            is_change |= isinstance(mode, str) and bool(set(mode) & set("wax+"))
            is_path = isinstance(path, (str, bytes))
            if is_change and is_path and not os.path.realpath(os.fsdecode(path)).startswith(inside):
                raise PermissionError(f"writing {os.fsdecode(path)} is not allowed here")
        elif event in _CHANGES and not os.path.realpath(os.fsdecode(str(arguments[0]))).startswith(inside):
            raise PermissionError(f"{event} is not allowed here")

    sys.addaudithook(watch)


if __name__ == "__main__":
    main(sys.argv[1])
