"""A stand-in for torch.Tensor that records what is done to it (only in the child process).

What depends on bytes of the model becomes a node; what is known already is computed at once. Only what
conversion code of llama.cpp uses is here; anything else fails as a missing attribute.
"""

from __future__ import annotations

import builtins
import math
import mmap
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from rfctl.converter.expression import STORAGE
from rfctl.converter.llama_cpp.arithmetic import Arithmetic
from rfctl.converter.llama_cpp.dtype import BY_NUMPY, DTYPES, DType, Size
from rfctl.converter.llama_cpp.graph import Node, apply, evaluate, known, promote, read_index


def read_source(node: Node) -> Any:
    """The values of a "source" node."""
    file, offset, size = node.params
    data = np.fromfile(file, np.uint8, count=size, offset=offset)
    return data.view(STORAGE[node.dtype]).reshape(node.shape)


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


class Tensor(Arithmetic):
    """torch.Tensor."""

    __hash__ = object.__hash__

    is_cuda = False
    requires_grad = False
    is_sparse = False

    def __init__(self, node: Node, base: tuple[Tensor, Any] | None = None) -> None:
        self.node, self._base = node, base

    def _make(
        self, op: str, inputs: Sequence[Node], params: Sequence[Any], dtype: str, shape: Sequence[int]
    ) -> Any:
        return make(op, inputs, params, dtype, shape)

    def _wrap(self, value: Any) -> Any:
        if isinstance(value, FakeArray):
            return Tensor(value.node)
        if isinstance(value, np.ndarray):
            return from_numpy(value)
        return value.item() if isinstance(value, np.generic) else value

    # -- what it is ----------------------------------------------------------------------------

    @property
    def shape(self) -> Size:
        return Size(self.node.shape)

    @property
    def dtype(self) -> DType:
        return DTYPES[self.node.dtype]

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

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

    # -- the same values elsewhere -------------------------------------------------------------

    def reshape(self, *shape: Any) -> Tensor:
        sizes = [
            builtins.int(n)
            for n in (shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
        ]
        if -1 in sizes:
            rest = math.prod(n for n in sizes if n != -1)
            sizes[sizes.index(-1)] = self.numel() // max(1, rest)
        if math.prod(sizes) != self.numel():
            raise RuntimeError(f"shape '{sizes}' is invalid for input of size {self.numel()}")
        if self.node.op == "source":
            return Tensor(Node("source", (), self.node.params, self.node.dtype, tuple(sizes)))
        if tuple(sizes) == self.node.shape:
            return Tensor(self.node)
        return make("reshape", [self.node], (), self.node.dtype, sizes)

    def view(self, *shape: Any) -> Tensor:
        if len(shape) == 1 and isinstance(shape[0], DType):
            return self._bits(shape[0])
        return self.reshape(*shape)

    def _bits(self, dtype: DType) -> Tensor:
        old, new = self.dtype.itemsize, dtype.itemsize
        shape = list(self.node.shape)
        if old != new:
            shape[-1] = shape[-1] * old // new
        if self.node.op == "source":
            return Tensor(Node("source", (), self.node.params, dtype.code, tuple(shape)))
        return make("bits", [self.node], (), dtype.code, shape)

    def reshape_as(self, other: Tensor) -> Tensor:
        return self.reshape(*other.shape)

    view_as = reshape_as

    def permute(self, *axes: Any) -> Tensor:
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = [axis % self.ndim for axis in order]
        return make("permute", [self.node], order, self.node.dtype, [self.node.shape[axis] for axis in order])

    def transpose(self, first: int, second: int) -> Tensor:
        order = list(range(self.ndim))
        first, second = first % self.ndim, second % self.ndim
        order[first], order[second] = order[second], order[first]
        return self.permute(order)

    swapaxes = transpose
    swapdims = transpose

    def t(self) -> Tensor:
        return self.transpose(0, 1) if self.ndim == 2 else self

    @property
    def T(self) -> Tensor:
        return self.permute(list(range(self.ndim))[::-1])

    @property
    def mT(self) -> Tensor:
        return self.transpose(-1, -2)

    def squeeze(self, dim: Any = None) -> Tensor:
        axes = range(self.ndim) if dim is None else [dim] if isinstance(dim, builtins.int) else dim
        gone = {axis % self.ndim for axis in axes if self.node.shape[axis] == 1} if self.ndim else set()
        return self.reshape([n for axis, n in enumerate(self.node.shape) if axis not in gone])

    def unsqueeze(self, dim: int) -> Tensor:
        shape = list(self.node.shape)
        shape.insert(dim if dim >= 0 else dim + self.ndim + 1, 1)
        return self.reshape(shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Tensor:
        end = end_dim % self.ndim
        shape = self.node.shape
        return self.reshape([*shape[:start_dim], math.prod(shape[start_dim : end + 1]), *shape[end + 1 :]])

    ravel = flatten

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Tensor:
        dim %= self.ndim
        return self.reshape([*self.node.shape[:dim], *sizes, *self.node.shape[dim + 1 :]])

    def _same(self, *_: Any, **__: Any) -> Tensor:
        return Tensor(self.node)

    contiguous = clone = detach = cpu = requires_grad_ = _same

    def expand(self, *shape: Any) -> Tensor:
        sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
        own = [1] * (len(sizes) - self.ndim) + list(self.node.shape)
        sizes = [old if new == -1 else new for old, new in zip(own, sizes, strict=True)]
        return make("expand", [self.node], (), self.node.dtype, sizes)

    broadcast_to = expand

    def expand_as(self, other: Tensor) -> Tensor:
        return self.expand(other.shape)

    def repeat(self, *counts: Any) -> Tensor:
        sizes = list(counts[0] if len(counts) == 1 and isinstance(counts[0], (tuple, list)) else counts)
        result = self.reshape([1] * (len(sizes) - self.ndim) + list(self.node.shape))
        for axis, count in enumerate(sizes):
            result = cat([result] * count, axis)
        return result

    def repeat_interleave(self, repeats: int, dim: int | None = None) -> Tensor:
        source = self.flatten() if dim is None else self
        axis = 0 if dim is None else dim % self.ndim
        shape = list(source.node.shape)
        shape[axis] *= builtins.int(repeats)
        return make("repeat", [source.node], (builtins.int(repeats), axis), source.node.dtype, shape)

    def flip(self, *axes: Any) -> Tensor:
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return make(
            "flip", [self.node], [axis % self.ndim for axis in order], self.node.dtype, self.node.shape
        )

    def __getitem__(self, index: Any) -> Tensor:
        entries, tensors = _write_index(index)
        probes = [
            np.zeros(tensor.shape, np.intp) if tensor.node.data is None else tensor.node.data
            for tensor in tensors
        ]
        probe = np.broadcast_to(np.zeros((), np.uint8), self.node.shape)
        shape = np.asarray(probe[read_index(entries, probes)]).shape
        result = make(
            "get", [self.node, *(tensor.node for tensor in tensors)], entries, self.node.dtype, shape
        )
        result._base = (self, index)
        return result

    def __setitem__(self, index: Any, value: Any) -> None:
        entries, tensors = _write_index(index)
        other = value if isinstance(value, Tensor) else wrap(value)
        inputs = [self.node, other.node, *(tensor.node for tensor in tensors)]
        self.node = make("set", inputs, entries, self.node.dtype, self.node.shape).node
        if self._base is not None:
            parent, place = self._base
            parent[place] = self

    def copy_(self, other: Any, **_: Any) -> Tensor:
        self[...] = other
        return self

    def fill_(self, value: Any) -> Tensor:
        self[...] = value
        return self

    def zero_(self) -> Tensor:
        return self.fill_(0)

    def select(self, dim: int, index: int) -> Tensor:
        return self[(slice(None),) * (dim % self.ndim) + (index,)]

    def narrow(self, dim: int, start: int, length: int) -> Tensor:
        return self[(slice(None),) * (dim % self.ndim) + (slice(start, start + length),)]

    def index_select(self, dim: int, index: Tensor) -> Tensor:
        return self[(slice(None),) * (dim % self.ndim) + (index,)]

    def split(self, sizes: Any, dim: int = 0) -> tuple[Tensor, ...]:
        length = self.node.shape[dim]
        if isinstance(sizes, builtins.int):
            sizes = [min(sizes, length - begin) for begin in range(0, length, sizes)]
        pieces, begin = [], 0
        for size in sizes:
            pieces.append(self.narrow(dim, begin, size))
            begin += size
        return tuple(pieces)

    def chunk(self, count: int, dim: int = 0) -> tuple[Tensor, ...]:
        return self.split(-(-self.node.shape[dim] // count), dim)

    def unbind(self, dim: int = 0) -> tuple[Tensor, ...]:
        return tuple(self.select(dim, number) for number in range(self.node.shape[dim]))

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


def _write_index(index: Any) -> tuple[list[Any], list[Tensor]]:
    """An index as `graph.read_index` reads it, and the tensors in it."""
    entries: list[Any] = []
    tensors: list[Tensor] = []
    for one in index if isinstance(index, tuple) else (index,):
        if one is None:
            entries.append("new")
        elif one is Ellipsis:
            entries.append("rest")
        elif isinstance(one, slice):
            entries.append(
                ["slice", *(None if n is None else builtins.int(n) for n in (one.start, one.stop, one.step))]
            )
        elif isinstance(one, (builtins.int, np.integer)) and not isinstance(one, builtins.bool):
            entries.append(builtins.int(one))
        else:
            entries.append(["tensor", len(tensors)])
            tensors.append(one if isinstance(one, Tensor) else wrap(one))
    return entries, tensors


class FakeArray:
    """A numpy array that has not been read: it becomes one when anything but its shape is asked for."""

    __array_priority__ = 100

    def __init__(self, node: Node) -> None:
        self.node = node

    @property
    def shape(self) -> tuple[int, ...]:
        return self.node.shape

    @property
    def dtype(self) -> Any:
        return STORAGE[self.node.dtype]

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

    @property
    def nbytes(self) -> int:
        return math.prod(self.node.shape) * int(self.dtype.itemsize)

    def reshape(self, *shape: Any) -> FakeArray:
        return FakeArray(Tensor(self.node).reshape(*shape).node)

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        return np.asarray(evaluate(self.node, read_source), dtype)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(np.asarray(self), name)

    def __getitem__(self, index: Any) -> Any:
        return np.asarray(self)[index]

    def __len__(self) -> int:
        return self.node.shape[0]

    def __iter__(self) -> Iterator[Any]:
        return iter(np.asarray(self))
