"""The stand-in for torch.Tensor: parts of it, read and written."""

from __future__ import annotations

import builtins
from typing import Any, Self

import numpy as np

from rfctl.converter.llama_cpp.graph import read_index
from rfctl.converter.llama_cpp.recorded import Recorded


class Place(Recorded):
    """What a tensor does with its places. `_base` is the tensor that it is a part of, and where."""

    _base: tuple[Any, Any] | None

    def __getitem__(self, index: Any) -> Self:
        entries, tensors = self._write_index(index)
        probes = [
            np.zeros(tensor.node.shape, np.intp) if tensor.node.data is None else tensor.node.data
            for tensor in tensors
        ]
        probe = np.broadcast_to(np.zeros((), np.uint8), self.node.shape)
        shape = np.asarray(probe[read_index(entries, probes)]).shape
        result = self._make(
            "get", [self.node, *(tensor.node for tensor in tensors)], entries, self.node.dtype, shape
        )
        result._base = (self, index)
        return result

    def __setitem__(self, index: Any, value: Any) -> None:
        entries, tensors = self._write_index(index)
        other = value if isinstance(value, Recorded) else self._lift(value)
        inputs = [self.node, other.node, *(tensor.node for tensor in tensors)]
        self.node = self._make("set", inputs, entries, self.node.dtype, self.node.shape).node
        if self._base is not None:
            parent, place = self._base
            parent[place] = self

    def copy_(self, other: Any, **_: Any) -> Self:
        self[...] = other
        return self

    def fill_(self, value: Any) -> Self:
        self[...] = value
        return self

    def zero_(self) -> Self:
        return self.fill_(0)

    def select(self, dim: int, index: int) -> Self:
        return self[(slice(None),) * (dim % self.ndim) + (index,)]

    def narrow(self, dim: int, start: int, length: int) -> Self:
        return self[(slice(None),) * (dim % self.ndim) + (slice(start, start + length),)]

    def index_select(self, dim: int, index: Any) -> Self:
        return self[(slice(None),) * (dim % self.ndim) + (index,)]

    def split(self, sizes: Any, dim: int = 0) -> tuple[Self, ...]:
        length = self.node.shape[dim]
        if isinstance(sizes, builtins.int):
            sizes = [min(sizes, length - begin) for begin in range(0, length, sizes)]
        pieces, begin = [], 0
        for size in sizes:
            pieces.append(self.narrow(dim, begin, size))
            begin += size
        return tuple(pieces)

    def chunk(self, count: int, dim: int = 0) -> tuple[Self, ...]:
        return self.split(-(-self.node.shape[dim] // count), dim)

    def unbind(self, dim: int = 0) -> tuple[Self, ...]:
        return tuple(self.select(dim, number) for number in range(self.node.shape[dim]))

    def _write_index(self, index: Any) -> tuple[list[Any], list[Recorded]]:
        """An index as `graph.read_index` reads it, and the tensors in it."""
        entries: list[Any] = []
        tensors: list[Recorded] = []
        for one in index if isinstance(index, tuple) else (index,):
            if one is None:
                entries.append("new")
            elif one is Ellipsis:
                entries.append("rest")
            elif isinstance(one, slice):
                entries.append(
                    [
                        "slice",
                        *(None if n is None else builtins.int(n) for n in (one.start, one.stop, one.step)),
                    ]
                )
            elif isinstance(one, (builtins.int, np.integer)) and not isinstance(one, builtins.bool):
                entries.append(builtins.int(one))
            else:
                entries.append(["tensor", len(tensors)])
                tensors.append(one if isinstance(one, Recorded) else self._lift(one))
        return entries, tensors
