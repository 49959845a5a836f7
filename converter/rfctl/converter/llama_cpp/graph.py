"""Tensors as recorded operations: what the stand-ins of the child write down and the parent computes.

A node has a dtype by its safetensors name and a shape, Hugging Face order. Values are in storage form
(`rfctl.converter.expression`): bfloat16 and 8-bit floats are integers until an operation needs numbers.
Arithmetic follows torch 2: bfloat16 is computed in float32 and rounded; `c / tensor` is reciprocal times c;
`c ** tensor` is computed in float64.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rfctl.converter.expression import STORAGE
from rfctl.converter.quantization.dtype import bf16_to_f32, f32_to_bf16

Values = NDArray[Any]
FLOATS = ("F16", "BF16", "F32", "F64")
_RANK = {"BOOL": 0, "U8": 1, "I8": 1, "I16": 2, "I32": 3, "I64": 4, "F16": 5, "BF16": 5, "F32": 6, "F64": 7}


@dataclass(frozen=True, eq=False)
class Node:
    """One tensor.

    op      "source" (bytes of a file), "data" (values in `data`) or an operation of `apply`
    params  what the operation needs besides tensors; for "source" (file, offset, bytes)
    """

    op: str
    inputs: tuple[Node, ...]
    params: tuple[Any, ...]
    dtype: str
    shape: tuple[int, ...]
    data: Values | None = field(default=None, repr=False)

    @property
    def is_known(self) -> bool:
        return self.data is not None


def known(values: Values, dtype: str) -> Node:
    """A node of values that are there already."""
    return Node("data", (), (), dtype, tuple(values.shape), values)


def evaluate(node: Node, read: Callable[[Node], Values]) -> Values:
    """The values of `node`; `read` gives those of a "source" node. Raises ValueError for no operation."""
    done: dict[int, Values] = {}
    # Not recursive: a graph can be as deep as a model has layers.
    stack = [(node, False)]
    while stack:
        one, is_ready = stack.pop()
        if id(one) in done:
            continue
        if one.data is not None:
            done[id(one)] = one.data
        elif one.op == "source":
            done[id(one)] = read(one)
        elif not is_ready:
            stack.append((one, True))
            stack.extend((inner, False) for inner in one.inputs)
        else:
            done[id(one)] = apply(one, [done[id(inner)] for inner in one.inputs])
    return done[id(node)]


def apply(node: Node, inputs: Sequence[Values]) -> Values:
    """One operation on the values of its inputs."""
    function = _OPERATIONS.get(node.op)
    if function is None:
        raise ValueError(f"no operation {node.op}")
    return function(node, inputs)


def list_sources(node: Node) -> list[Node]:
    """The "source" nodes below `node`."""
    seen: dict[int, Node] = {}
    stack = [node]
    while stack:
        one = stack.pop()
        if id(one) not in seen:
            seen[id(one)] = one
            stack.extend(one.inputs)
    return [one for one in seen.values() if one.op == "source"]


def cast(values: Values, source: str, target: str) -> Values:
    """Values of one dtype as another."""
    if source == target:
        return values
    numbers = widen(values, source)
    if target == "BF16":
        with np.errstate(over="ignore"):
            return f32_to_bf16(numbers.astype(np.float32))
    if target.startswith("F8"):
        raise ValueError(f"no cast to {target}")
    with np.errstate(over="ignore", invalid="ignore"):
        if source in ("F16", "BF16", "F32", "F64") and target[0] in "IU":
            numbers = np.trunc(numbers)
        return numbers.astype(STORAGE[target])


def widen(values: Values, dtype: str) -> Values:
    """Values as numpy computes with them."""
    if dtype == "BF16":
        return bf16_to_f32(np.ascontiguousarray(values))
    if dtype.startswith("F8"):
        return _float8_table(dtype)[values]
    return values


def _float8_table(dtype: str) -> NDArray[np.float32]:
    """The 256 values of an 8-bit float (OCP 8-bit floating point specification 1.0)."""
    codes = np.arange(256)
    sign = np.where(codes & 0x80, -1.0, 1.0)
    if dtype == "F8_E8M0":
        values = np.exp2(codes - 127.0)
        values[255] = math.nan
        return values.astype(np.float32)
    bits, bias = (3, 7) if dtype == "F8_E4M3" else (2, 15)
    exponent = (codes & 0x7F) >> bits
    fraction = (codes & ((1 << bits) - 1)) / (1 << bits)
    values = np.where(
        exponent > 0, np.exp2(exponent - float(bias)) * (1 + fraction), np.exp2(1.0 - bias) * fraction
    )
    if dtype == "F8_E4M3":
        values[(codes & 0x7F) == 0x7F] = math.nan
    else:
        values[exponent == 31] = np.where(fraction[exponent == 31] == 0, math.inf, math.nan)
    return (sign * values).astype(np.float32)


def promote(first: Node, second: Node) -> str:
    """dtype of first + second; a tensor without dimensions gives way within its kind, as in torch."""
    one, other = first.dtype, second.dtype
    if one == other:
        return one
    kinds = [0 if _RANK[name] == 0 else 1 if _RANK[name] < 5 else 2 for name in (one, other)]
    if bool(first.shape) != bool(second.shape):
        full, scalar = (0, 1) if first.shape else (1, 0)
        if kinds[full] >= kinds[scalar]:
            return (one, other)[full]
    if kinds[0] != kinds[1]:
        return one if kinds[0] > kinds[1] else other
    if {one, other} == {"F16", "BF16"}:
        return "F32"
    if {one, other} == {"U8", "I8"}:
        return "I16"
    return one if _RANK[one] > _RANK[other] else other


def _finish(values: Values, computed: str, target: str) -> Values:
    """What was computed with numbers of `computed`, as `target`."""
    if target == "BF16":
        return f32_to_bf16(values.astype(np.float32))
    return values.astype(STORAGE[target], copy=False)


def _reshape(node: Node, inputs: Sequence[Values]) -> Values:
    return np.ascontiguousarray(inputs[0]).reshape(node.shape)


def _bits(node: Node, inputs: Sequence[Values]) -> Values:
    values = np.ascontiguousarray(inputs[0])
    if not values.ndim:
        return values.reshape(1).view(STORAGE[node.dtype]).reshape(node.shape)
    return values.view(STORAGE[node.dtype]).reshape(node.shape)


def read_index(entries: Sequence[Any], tensors: Sequence[Values]) -> tuple[Any, ...]:
    """An index from its written form: numbers, ["slice", begin, end, step], "new", "rest", ["tensor", n]."""
    index: list[Any] = []
    for entry in entries:
        if isinstance(entry, int):
            index.append(entry)
        elif entry == "new":
            index.append(None)
        elif entry == "rest":
            index.append(Ellipsis)
        elif entry[0] == "slice":
            index.append(slice(*entry[1:]))
        else:
            index.append(tensors[entry[1]])
    return tuple(index)


def _get(node: Node, inputs: Sequence[Values]) -> Values:
    return np.asarray(inputs[0][read_index(node.params, inputs[1:])])


def _set(node: Node, inputs: Sequence[Values]) -> Values:
    values = inputs[0].copy()
    values[read_index(node.params, inputs[2:])] = cast(inputs[1], node.inputs[1].dtype, node.dtype)
    return values


_UNARY: Mapping[str, Callable[[Values], Values]] = {
    "neg": np.negative, "exp": np.exp, "exp2": np.exp2, "sqrt": np.sqrt, "abs": np.abs, "sin": np.sin,
    "cos": np.cos, "log": np.log, "log2": np.log2, "floor": np.floor, "ceil": np.ceil, "round": np.rint,
    "reciprocal": lambda x: np.float32(1) / x if x.dtype != np.float64 else 1 / x,
    "rsqrt": lambda x: np.float32(1) / np.sqrt(x), "invert": np.invert, "tanh": np.tanh,
    "sigmoid": lambda x: np.float32(1) / (np.float32(1) + np.exp(-x)),
    "softplus": lambda x: np.where(x > 20, x, np.log1p(np.exp(np.minimum(x, 20)))),
    "isnan": np.isnan, "isfinite": np.isfinite,
}  # fmt: skip
_BINARY: Mapping[str, Callable[[Values, Values], Values]] = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.true_divide,
    "floordiv": np.floor_divide, "mod": np.mod, "pow": np.power, "lshift": np.left_shift,
    "rshift": np.right_shift, "and": np.bitwise_and, "or": np.bitwise_or, "xor": np.bitwise_xor,
    "maximum": np.maximum, "minimum": np.minimum, "matmul": np.matmul,
    "lt": np.less, "le": np.less_equal, "eq": np.equal, "ne": np.not_equal, "ge": np.greater_equal,
    "gt": np.greater,
}  # fmt: skip
COMPARISONS = ("lt", "le", "eq", "ne", "ge", "gt")
_REDUCTIONS: Mapping[str, Callable[..., Values]] = {
    "sum": np.sum, "mean": np.mean, "amax": np.max, "amin": np.min, "any": np.any, "all": np.all,
    "prod": np.prod,
}  # fmt: skip


def _unary(node: Node, inputs: Sequence[Values]) -> Values:
    name = node.inputs[0].dtype
    with np.errstate(all="ignore"):
        values = _UNARY[node.params[0]](widen(inputs[0], name))
    return _finish(values, name, node.dtype)


def _binary(node: Node, inputs: Sequence[Values]) -> Values:
    """`params`: the name; the dtype that both sides take first; for a plain number its side and value."""
    name, common, *scalar = node.params
    sides = [widen(values, inner.dtype) for values, inner in zip(inputs, node.inputs, strict=True)]
    work = np.float32 if common == "BF16" else STORAGE[common]
    sides = [side.astype(work, copy=False) for side in sides]
    if scalar:
        place, number = scalar
        plain = (
            np.asarray(number).astype(work)
            if common in FLOATS or common == "BF16"
            else np.asarray(number, work)
        )
        if name == "div" and place == 0 and common in FLOATS:
            with np.errstate(all="ignore"):
                return _finish(_UNARY["reciprocal"](sides[0]) * plain, common, node.dtype)
        if name == "pow" and place == 0:
            with np.errstate(all="ignore"):
                return _finish(np.power(np.float64(number), sides[0].astype(np.float64)), common, node.dtype)
        sides.insert(place, plain)
    with np.errstate(all="ignore"):
        return _finish(_BINARY[name](*sides), common, node.dtype)


def _reduce(node: Node, inputs: Sequence[Values]) -> Values:
    name, axis, keep = node.params
    values = widen(inputs[0], node.inputs[0].dtype)
    axes = tuple(axis) if isinstance(axis, (list, tuple)) else axis
    return _finish(np.asarray(_REDUCTIONS[name](values, axis=axes, keepdims=keep)), "", node.dtype)


_OPERATIONS: Mapping[str, Callable[[Node, Sequence[Values]], Values]] = {
    "reshape": _reshape,
    "bits": _bits,
    "permute": lambda node, inputs: inputs[0].transpose(node.params),
    "get": _get,
    "set": _set,
    "cast": lambda node, inputs: cast(inputs[0], node.inputs[0].dtype, node.dtype),
    "cat": lambda node, inputs: np.concatenate(inputs, axis=node.params[0]),
    "expand": lambda node, inputs: np.broadcast_to(inputs[0], node.shape),
    "repeat": lambda node, inputs: np.repeat(inputs[0], node.params[0], axis=node.params[1]),
    "flip": lambda node, inputs: np.flip(inputs[0], axis=node.params),
    "unary": _unary,
    "binary": _binary,
    "reduce": _reduce,
    "where": lambda node, inputs: np.where(inputs[0], inputs[1], inputs[2]),
}
