"""What the parts of the stand-in for torch.Tensor have in common: a node, and ways to make other tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

from rfctl.converter.llama_cpp.graph import Node


class Recorded:
    """A tensor by the node that stands for it. `tensor.Tensor` says how tensors are made."""

    node: Node

    @property
    def ndim(self) -> int:
        return len(self.node.shape)

    def _of(self, node: Node) -> Self:
        """The tensor of a node."""
        raise NotImplementedError

    def _make(
        self, op: str, inputs: Sequence[Node], params: Sequence[Any], dtype: str, shape: Sequence[int]
    ) -> Self:
        """The tensor of an operation."""
        raise NotImplementedError

    def _wrap(self, value: Any) -> Any:
        """An array as a tensor, anything else as it is."""
        raise NotImplementedError

    def _lift(self, value: Any) -> Any:
        """A tensor of whatever torch.tensor takes."""
        raise NotImplementedError
