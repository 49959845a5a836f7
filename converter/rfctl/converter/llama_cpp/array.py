"""The stand-in for the numpy array of a tensor that has not been read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from rfctl.converter.expression import STORAGE
from rfctl.converter.llama_cpp.graph import Node, evaluate
from rfctl.converter.llama_cpp.shape import reshape


def read_source(node: Node) -> Any:
    """The values of a "source" node."""
    file, offset, size = node.params
    data = np.fromfile(file, np.uint8, count=size, offset=offset)
    return data.view(STORAGE[node.dtype]).reshape(node.shape)


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
        sizes = reshape(self.node, *shape)
        if sizes == self.node.shape:
            return self
        if self.node.op == "source":
            return FakeArray(Node("source", (), self.node.params, self.node.dtype, sizes))
        return FakeArray(Node("reshape", (self.node,), (), self.node.dtype, sizes))

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
