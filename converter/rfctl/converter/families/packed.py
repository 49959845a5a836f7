"""Experts of a layer in one tensor, gate and up together (`gate_up_proj`), as newer checkpoints have them.

Source: `conversion/qwen.py` Qwen2MoeModel, `qwen3vl.py` Qwen3VLMoeTextModel, `llama.py` Llama4Model of
llama.cpp b11434. Two layouts: outputs first ([experts, 2 n, inputs]) or turned ([experts, inputs, 2 n]).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from rfctl.converter.expression import Expression, Reshape, RowRange, Slice, Stack
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.transpose import transpose_each
from rfctl.core.error import RfctlError

_PAIR = "ffn_gate_up_exps"
_DOWN = "ffn_down_exps"
_HALVES = ("ffn_gate_exps", "ffn_up_exps")
PACKED_BLOCK: Mapping[str, str] = {"experts.gate_up_proj": _PAIR, "experts.down_proj": _DOWN}


class PackedExperts(Family):
    """What a family with such tensors does with them; `PACKED_BLOCK` goes into its block_names, behind the
    name of its feed-forward module.
    """

    is_turned: ClassVar[bool] = False

    def adapt_name(self, name: str) -> str | None:
        if name.endswith(tuple(PACKED_BLOCK)):
            name += ".weight"
        return super().adapt_name(name)

    def produce(self, name: str) -> tuple[str, ...]:
        if _PAIR in name:
            return tuple(name.replace(_PAIR, half) for half in _HALVES)
        return super().produce(name)

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        is_pair = _PAIR in name
        if not is_pair and _DOWN not in name:
            yield from super().arrange(name, tensor, hparams)
            return
        shape = tensor.shape
        width = shape[-1] if self.is_turned else shape[-2] if len(shape) > 1 else 0
        if len(shape) != 3 or (is_pair and width % 2):
            raise RfctlError(
                "model.tensor-shape", tensor=tensor.name, found=list(shape), wanted="n x m x 2 k"
            )
        if not is_pair:
            yield name, Stack(tuple(transpose_each(tensor))) if self.is_turned else Slice(tensor)
            return
        experts = transpose_each(tensor) if self.is_turned else _separate(tensor)
        half = width // 2
        for part, start in zip(self.produce(name), (0, half), strict=True):
            yield part, Stack(tuple(RowRange(expert, start, start + half) for expert in experts))


def _separate(tensor: SourceTensor) -> list[Expression]:
    count, *shape = tensor.shape
    return [Reshape(RowRange(Slice(tensor), number, number + 1), tuple(shape)) for number in range(count)]
