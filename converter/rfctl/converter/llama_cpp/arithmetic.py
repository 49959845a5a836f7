"""Arithmetic of the stand-in for torch.Tensor: every operation becomes a node (`graph.py`)."""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from typing import Any

import numpy as np

from rfctl.converter.llama_cpp.graph import COMPARISONS, FLOATS, promote
from rfctl.converter.llama_cpp.recorded import Recorded

_OPERATORS = {
    "add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "floordiv": "floordiv", "mod": "mod",
    "pow": "pow", "lshift": "lshift", "rshift": "rshift", "and": "and", "or": "or", "xor": "xor",
    "matmul": "matmul", "lt": "lt", "le": "le", "eq": "eq", "ne": "ne", "ge": "ge", "gt": "gt",
}  # fmt: skip
_METHODS = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "pow": "pow", "matmul": "matmul",
    "bitwise_and": "and", "bitwise_or": "or", "bitwise_right_shift": "rshift",
    "bitwise_left_shift": "lshift", "eq": "eq", "ne": "ne", "lt": "lt", "gt": "gt", "maximum": "maximum",
    "minimum": "minimum",
}  # fmt: skip
_FUNCTIONS = (
    "neg", "exp", "exp2", "sqrt", "abs", "sin", "cos", "log", "log2", "floor", "ceil", "round", "reciprocal",
    "rsqrt", "tanh", "sigmoid", "softplus",
)  # fmt: skip


class Arithmetic(Recorded):
    """What a tensor computes."""

    def copy_(self, other: Any, **_: Any) -> Any:
        raise NotImplementedError

    def _unary(self, name: str, dtype: str | None = None) -> Any:
        own = self.node.dtype
        kind = dtype or (own if own in FLOATS or name in ("neg", "abs", "invert") else "F32")
        return self._make("unary", [self.node], (name,), kind, self.node.shape)

    def _binary(self, name: str, other: Any, *, is_right: builtins.bool = False) -> Any:
        other = self._wrap(other)
        if isinstance(other, Recorded):
            first, second = (other.node, self.node) if is_right else (self.node, other.node)
            common = promote(first, second)
            if name == "div" and common not in FLOATS:
                common = "F32"
            shape = _matmul_shape if name == "matmul" else np.broadcast_shapes
            kind = "BOOL" if name in COMPARISONS else common
            return self._make(
                "binary", [first, second], (name, common), kind, shape(first.shape, second.shape)
            )
        if not isinstance(other, (builtins.int, builtins.float, builtins.bool)):
            return NotImplemented
        common = self.node.dtype
        if common not in FLOATS and (name == "div" or isinstance(other, builtins.float)):
            common = "F32"
        kind = "BOOL" if name in COMPARISONS else common
        params = (name, common, 0 if is_right else 1, other)
        return self._make("binary", [self.node], params, kind, self.node.shape)

    def clamp(self, min: Any = None, max: Any = None) -> Any:
        result = self if min is None else self._binary("maximum", min)
        return result if max is None else result._binary("minimum", max)

    def _reduce(
        self, name: str, dim: Any = None, keepdim: builtins.bool = False, dtype: str | None = None
    ) -> Any:
        count = len(self.node.shape)
        given = range(count) if dim is None else (dim,) if isinstance(dim, builtins.int) else dim
        axes = [axis % count for axis in given]
        shape = [
            1 if axis in axes else n for axis, n in enumerate(self.node.shape) if keepdim or axis not in axes
        ]
        return self._make("reduce", [self.node], (name, axes, keepdim), dtype or self.node.dtype, shape)

    def sum(self, dim: Any = None, keepdim: builtins.bool = False) -> Any:
        return self._reduce("sum", dim, keepdim, None if self.node.dtype in FLOATS else "I64")

    def mean(self, dim: Any = None, keepdim: builtins.bool = False) -> Any:
        return self._reduce("mean", dim, keepdim)

    def amax(self, dim: Any = None, keepdim: builtins.bool = False) -> Any:
        return self._reduce("amax", dim, keepdim)

    def amin(self, dim: Any = None, keepdim: builtins.bool = False) -> Any:
        return self._reduce("amin", dim, keepdim)

    def any(self, dim: Any = None) -> Any:
        return self._reduce("any", dim, dtype="BOOL")

    def all(self, dim: Any = None) -> Any:
        return self._reduce("all", dim, dtype="BOOL")

    def max(self, dim: Any = None) -> Any:
        if dim is not None:
            raise NotImplementedError("max with a dimension")
        return self.amax()

    def min(self, dim: Any = None) -> Any:
        if dim is not None:
            raise NotImplementedError("min with a dimension")
        return self.amin()

    def isnan(self) -> Any:
        return self._unary("isnan", "BOOL")

    def isfinite(self) -> Any:
        return self._unary("isfinite", "BOOL")

    def __neg__(self) -> Any:
        return self._unary("neg")

    def __abs__(self) -> Any:
        return self._unary("abs")

    def __invert__(self) -> Any:
        return self._unary("invert")


def _matmul_shape(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    probe = np.matmul(np.empty((*a[:-1], 0)), np.empty((0,) if len(b) == 1 else (*b[:-2], 0, b[-1])))
    return tuple(np.asarray(probe).shape)


def _install() -> None:
    """Operators and their named forms: all alike but for the name."""

    def left(name: str) -> Any:
        return lambda self, other, **_: self._binary(name, other)

    def right(name: str) -> Any:
        return lambda self, other: self._binary(name, other, is_right=True)

    def in_place(name: str) -> Any:
        return lambda self, other, **_: self.copy_(self._binary(name, other))

    def alone(name: str) -> Any:
        return lambda self: self._unary(name)

    for special, name in _OPERATORS.items():
        setattr(Arithmetic, f"__{special}__", left(name))
        if name not in COMPARISONS:
            setattr(Arithmetic, f"__r{special}__", right(name))
    for method, name in _METHODS.items():
        setattr(Arithmetic, method, left(name))
        setattr(Arithmetic, method + "_", in_place(name))
    for name in _FUNCTIONS:
        setattr(Arithmetic, name, alone(name))


_install()
