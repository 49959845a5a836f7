"""The stand-in for torch.Tensor: the same values in another shape or order."""

from __future__ import annotations

import builtins
import math
from collections.abc import Sequence
from typing import Any, Self

from rfctl.converter.llama_cpp.dtype import DTYPES, DType
from rfctl.converter.llama_cpp.graph import Node
from rfctl.converter.llama_cpp.recorded import Recorded


def reshape(node: Node, *shape: Any) -> tuple[int, ...]:
    """The shape that torch.Tensor.reshape gives to `node`; raises RuntimeError where it cannot have it."""
    sizes = [int(n) for n in (shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)]
    count = math.prod(node.shape)
    if -1 in sizes:
        rest = math.prod(n for n in sizes if n != -1)
        sizes[sizes.index(-1)] = count // max(1, rest)
    if math.prod(sizes) != count:
        raise RuntimeError(f"shape '{sizes}' is invalid for input of size {count}")
    return tuple(sizes)


class Shape(Recorded):
    """What a tensor does with its axes."""

    def reshape(self, *shape: Any) -> Self:
        sizes = reshape(self.node, *shape)
        if self.node.op == "source":
            return self._of(Node("source", (), self.node.params, self.node.dtype, sizes))
        if sizes == self.node.shape:
            return self._of(self.node)
        return self._make("reshape", [self.node], (), self.node.dtype, sizes)

    def view(self, *shape: Any) -> Self:
        if len(shape) == 1 and isinstance(shape[0], DType):
            return self._bits(shape[0])
        return self.reshape(*shape)

    def _bits(self, dtype: DType) -> Self:
        old, new = DTYPES[self.node.dtype].itemsize, dtype.itemsize
        shape = list(self.node.shape)
        if old != new:
            shape[-1] = shape[-1] * old // new
        if self.node.op == "source":
            return self._of(Node("source", (), self.node.params, dtype.code, tuple(shape)))
        return self._make("bits", [self.node], (), dtype.code, shape)

    def reshape_as(self, other: Any) -> Self:
        return self.reshape(*other.shape)

    view_as = reshape_as

    def permute(self, *axes: Any) -> Self:
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        order = [axis % self.ndim for axis in order]
        return self._make(
            "permute", [self.node], order, self.node.dtype, [self.node.shape[axis] for axis in order]
        )

    def transpose(self, first: int, second: int) -> Self:
        order = list(range(self.ndim))
        first, second = first % self.ndim, second % self.ndim
        order[first], order[second] = order[second], order[first]
        return self.permute(order)

    swapaxes = transpose
    swapdims = transpose

    def t(self) -> Self:
        return self.transpose(0, 1) if self.ndim == 2 else self

    @property
    def T(self) -> Self:
        return self.permute(list(range(self.ndim))[::-1])

    @property
    def mT(self) -> Self:
        return self.transpose(-1, -2)

    def squeeze(self, dim: Any = None) -> Self:
        axes = range(self.ndim) if dim is None else [dim] if isinstance(dim, builtins.int) else dim
        gone = {axis % self.ndim for axis in axes if self.node.shape[axis] == 1} if self.ndim else set()
        return self.reshape([n for axis, n in enumerate(self.node.shape) if axis not in gone])

    def unsqueeze(self, dim: int) -> Self:
        shape = list(self.node.shape)
        shape.insert(dim if dim >= 0 else dim + self.ndim + 1, 1)
        return self.reshape(shape)

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> Self:
        end = end_dim % self.ndim
        shape = self.node.shape
        return self.reshape([*shape[:start_dim], math.prod(shape[start_dim : end + 1]), *shape[end + 1 :]])

    ravel = flatten

    def unflatten(self, dim: int, sizes: Sequence[int]) -> Self:
        dim %= self.ndim
        return self.reshape([*self.node.shape[:dim], *sizes, *self.node.shape[dim + 1 :]])

    def _same(self, *_: Any, **__: Any) -> Self:
        return self._of(self.node)

    contiguous = clone = detach = cpu = requires_grad_ = _same

    def expand(self, *shape: Any) -> Self:
        sizes = list(shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape)
        own = [1] * (len(sizes) - self.ndim) + list(self.node.shape)
        sizes = [old if new == -1 else new for old, new in zip(own, sizes, strict=True)]
        return self._make("expand", [self.node], (), self.node.dtype, sizes)

    broadcast_to = expand

    def expand_as(self, other: Any) -> Self:
        return self.expand(other.shape)

    def repeat(self, *counts: Any) -> Self:
        sizes = list(counts[0] if len(counts) == 1 and isinstance(counts[0], (tuple, list)) else counts)
        result = self.reshape([1] * (len(sizes) - self.ndim) + list(self.node.shape))
        for axis, count in enumerate(sizes):
            grown = list(result.node.shape)
            grown[axis] *= count
            nodes = [result.node] * count
            result = self._make("cat", nodes, (axis,), self.node.dtype, grown)
        return result

    def repeat_interleave(self, repeats: int, dim: int | None = None) -> Self:
        source = self.flatten() if dim is None else self
        axis = 0 if dim is None else dim % self.ndim
        shape = list(source.node.shape)
        shape[axis] *= builtins.int(repeats)
        return self._make("repeat", [source.node], (builtins.int(repeats), axis), source.node.dtype, shape)

    def flip(self, *axes: Any) -> Self:
        order = axes[0] if len(axes) == 1 and isinstance(axes[0], (tuple, list)) else axes
        return self._make(
            "flip",
            [self.node],
            [axis % self.ndim for axis in order],
            self.node.dtype,
            self.node.shape,
        )
