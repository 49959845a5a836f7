"""A stand-in for torch.Tensor that records what is done to it (only in the child process).

What depends on bytes of the model becomes a node; what is known already is computed at once. Only what
conversion code of llama.cpp uses is here; anything else fails as a missing attribute.
"""

from __future__ import annotations

import builtins
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any, Self

import numpy as np

from rfctl.converter.expression import STORAGE
from rfctl.converter.llama_cpp.arithmetic import Arithmetic
from rfctl.converter.llama_cpp.array import FakeArray, read_source
from rfctl.converter.llama_cpp.dtype import BY_NUMPY, DTYPES, DType, Size
from rfctl.converter.llama_cpp.graph import Node, apply, evaluate, known, promote
from rfctl.converter.llama_cpp.place import Place
from rfctl.converter.llama_cpp.shape import Shape


def from_numpy(values: Any) -> Tensor:
    """A tensor of an array; a piece of a file that is mapped into memory becomes a source."""
    if isinstance(values, FakeArray):
        return Tensor(values.node)
    # Only a whole mapping: a part of one knows its file, not its place in it.
    base: Any = getattr(values, "base", None)
    if isinstance(values, np.memmap) and isinstance(base, mmap.mmap):
        place = (str(values.filename), int(values.offset), int(values.nbytes))
        return Tensor(Node("source", (), place, BY_NUMPY[values.dtype], tuple(values.shape)))
    array = np.asarray(values)
    return Tensor(known(array, BY_NUMPY[array.dtype]))


def wrap(value: Any, dtype: DType | None = None) -> Tensor:
    """torch.tensor."""
    if isinstance(value, Tensor):
        return value if dtype is None else value.to(dtype)
    if isinstance(value, FakeArray):
        value = np.asarray(value)
    if isinstance(value, (list, tuple)) and value and isinstance(value[0], Tensor):
        value = [np.asarray(item) for item in value]
    array = np.asarray(value)
    if dtype is not None:
        code = dtype.code
        if code == "BF16":
            return Tensor(known(array.astype(np.float32), "F32")).to(dtype)
        return Tensor(known(array.astype(STORAGE[code]), code))
    if not isinstance(value, (np.ndarray, np.generic)) and array.dtype == np.float64:
        array = array.astype(np.float32)
    return Tensor(known(array, BY_NUMPY[array.dtype]))


def make(op: str, inputs: Sequence[Node], params: Sequence[Any], dtype: str, shape: Sequence[int]) -> Tensor:
    """A tensor of an operation; computed at once when all inputs are known."""
    node = Node(op, tuple(inputs), tuple(params), dtype, tuple(int(n) for n in shape))
    if inputs and all(inner.is_known for inner in inputs):
        node = known(
            np.asarray(apply(node, [inner.data for inner in inputs if inner.data is not None])), dtype
        )
    return Tensor(node)


class Tensor(Shape, Place, Arithmetic):
    """torch.Tensor."""

    __hash__ = object.__hash__

    is_cuda = False
    requires_grad = False
    is_sparse = False

    def __init__(self, node: Node, base: tuple[Tensor, Any] | None = None) -> None:
        self.node, self._base = node, base

    def _of(self, node: Node) -> Self:
        return type(self)(node)

    def _make(
        self, op: str, inputs: Sequence[Node], params: Sequence[Any], dtype: str, shape: Sequence[int]
    ) -> Self:
        return type(self)(make(op, inputs, params, dtype, shape).node)

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, FakeArray):
            return Tensor(value.node)
        if isinstance(value, np.ndarray):
            return from_numpy(value)
        return value.item() if isinstance(value, np.generic) else value

    def _lift(self, value: Any) -> Tensor:
        return wrap(value)

    # -- what it is ----------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        return Size(self.node.shape)

    @property
    def dtype(self) -> DType:
        return DTYPES[self.node.dtype]

    @property
    def device(self) -> str:
        return "cpu"

    @property
    def data(self) -> Tensor:
        return self

    @property
    def nbytes(self) -> int:
        return self.numel() * self.dtype.itemsize

    def size(self, dim: int | None = None) -> Any:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return self.ndim

    def numel(self) -> int:
        return math.prod(self.node.shape)

    nelement = numel

    def element_size(self) -> int:
        return self.dtype.itemsize

    def is_floating_point(self) -> bool:
        return self.dtype.is_floating_point

    def is_contiguous(self) -> bool:
        return True

    def __len__(self) -> int:
        return self.node.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[number] for number in range(len(self)))

    def __repr__(self) -> str:
        return f"tensor({self.node.op}, {self.dtype}, {tuple(self.shape)})"

    # -- values --------------------------------------------------------------------------------

    def values(self) -> Any:
        """The storage form, read from the model where it must be."""
        return evaluate(self.node, read_source)

    def numpy(self, **_: Any) -> Any:
        if self.node.dtype in ("BF16", "F8_E4M3", "F8_E5M2"):
            raise TypeError(f"Got unsupported ScalarType {self.dtype}")
        return self.node.data if self.node.is_known else FakeArray(self.node)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        values = self.float().values() if self.node.dtype == "BF16" else self.values()
        return np.asarray(values, dtype)

    def tolist(self) -> Any:
        return self.__array__().tolist()

    def item(self) -> Any:
        return self.__array__().item()

    def __bool__(self) -> builtins.bool:
        return builtins.bool(self.item())

    def __float__(self) -> builtins.float:
        return builtins.float(self.item())

    def __int__(self) -> builtins.int:
        return builtins.int(self.item())

    def __index__(self) -> builtins.int:
        return builtins.int(self.item())

    # -- dtypes --------------------------------------------------------------------------------

    def to(self, *arguments: Any, dtype: Any = None, **_: Any) -> Tensor:
        for argument in (*arguments, dtype):
            wanted = argument.dtype if isinstance(argument, Tensor) else argument
            if isinstance(wanted, DType) and wanted.code != self.node.dtype:
                return make("cast", [self.node], (), wanted.code, self.node.shape)
        return Tensor(self.node)

    def type(self, dtype: DType) -> Tensor:
        return self.to(dtype)

    def type_as(self, other: Tensor) -> Tensor:
        return self.to(other.dtype)

    def float(self) -> Tensor:
        return self.to(DTYPES["F32"])

    def double(self) -> Tensor:
        return self.to(DTYPES["F64"])

    def half(self) -> Tensor:
        return self.to(DTYPES["F16"])

    def bfloat16(self) -> Tensor:
        return self.to(DTYPES["BF16"])

    def int(self) -> Tensor:
        return self.to(DTYPES["I32"])

    def long(self) -> Tensor:
        return self.to(DTYPES["I64"])

    def bool(self) -> Tensor:
        return self.to(DTYPES["BOOL"])


def cat(tensors: Sequence[Tensor], dim: int = 0, **_: Any) -> Tensor:
    """torch.cat."""
    tensors = [tensor for tensor in tensors if tensor.node.shape != (0,)] or list(tensors)
    nodes = [tensor.node for tensor in tensors]
    common = nodes[0].dtype
    for node in nodes[1:]:
        common = promote(Node("", (), (), common, (1,)), Node("", (), (), node.dtype, (1,)))
    nodes = [Tensor(node).to(DTYPES[common]).node for node in nodes]
    shape = list(nodes[0].shape)
    axis = dim % len(shape)
    shape[axis] = sum(node.shape[axis] for node in nodes)
    return make("cat", nodes, (axis,), common, shape)


def stack(tensors: Sequence[Tensor], dim: int = 0, **_: Any) -> Tensor:
    """torch.stack."""
    dim = dim if dim >= 0 else dim + tensors[0].ndim + 1
    return cat([tensor.unsqueeze(dim) for tensor in tensors], dim)
