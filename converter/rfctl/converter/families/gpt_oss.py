"""gpt-oss, with its experts as MXFP4 blocks, as it was published, or as floats, as it is saved after
fine-tuning.

Source: `conversion/gpt_oss.py` GptOssModel of llama.cpp b11434. Gate and up rows are interleaved in one
tensor of all experts; floats are stored with inputs first, blocks with outputs first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import ClassVar

from rfctl.converter.expression import Every, Expression, Reshape, Slice, Stack
from rfctl.converter.families.common import DECODER_ATTENTION, DECODER_NAMES, DECODER_REQUIRED, describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.transpose import transpose_each
from rfctl.core.error import RfctlError

_GATE_UP = "ffn_gate_up_exps"
_STACKS = ("ffn_down_exps.weight", f"{_GATE_UP}.weight")


class GptOss(Family):
    """gpt-oss 20B and 120B."""

    hf_architectures = ("GptOssForCausalLM",)
    architecture = "gpt-oss"
    block_prefix = "model.layers."
    encoded_dtypes = frozenset({"MXFP4"})
    names: ClassVar[Mapping[str, str]] = DECODER_NAMES
    block_names: ClassVar[Mapping[str, str]] = {
        **DECODER_ATTENTION,
        "self_attn.sinks": "attn_sinks",
        "post_attention_layernorm": "post_attention_norm",
        "mlp.router": "ffn_gate_inp",
        "mlp.experts.gate_up_proj": _GATE_UP,
        "mlp.experts.down_proj": "ffn_down_exps",
    }
    block_required = (
        *(f"{name}.weight" for name in block_names.values() if name != _GATE_UP),
        "ffn_gate_exps.weight",
        "ffn_up_exps.weight",
    )

    def adapt_name(self, name: str) -> str | None:
        if name.endswith(("sinks", "experts.gate_up_proj", "experts.down_proj")):
            name += ".weight"
        elif name.endswith("_proj_bias"):
            name = name.removesuffix("_bias") + ".bias"
        return super().adapt_name(name)

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return (*DECODER_REQUIRED, "output.weight")

    def produce(self, name: str) -> tuple[str, ...]:
        if _GATE_UP in name:
            return tuple(name.replace(_GATE_UP, part) for part in ("ffn_gate_exps", "ffn_up_exps"))
        return (name,)

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        is_pair = _GATE_UP in name
        wanted = 3 if name.endswith(_STACKS) else 2 if is_pair else len(tensor.shape)
        if len(tensor.shape) != wanted or (is_pair and tensor.shape[-1] % 2):
            raise RfctlError(
                "model.tensor-shape",
                tensor=tensor.name,
                found=list(tensor.shape),
                wanted=f"{wanted} dimensions",
            )
        if tensor.dtype in self.encoded_dtypes:
            yield from self._separate(name, tensor)
            return
        if not is_pair:
            yield name, Stack(tuple(transpose_each(tensor))) if name.endswith(_STACKS) else Slice(tensor)
            return
        for start, part in enumerate(self.produce(name)):
            if name.endswith(_STACKS):
                yield part, Stack(tuple(Every(expert, start) for expert in transpose_each(tensor)))
            else:
                yield part, Every(Slice(tensor), start, columns=True)

    def _separate(self, name: str, tensor: SourceTensor) -> Iterator[tuple[str, Expression]]:
        """Gate and up of experts in blocks, which are rows of their own already."""
        parts = self.produce(name)
        if len(parts) == 1:
            yield name, Slice(tensor)
            return
        experts, rows, columns = tensor.shape
        if rows % 2:
            raise RfctlError(
                "model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted="n x 2 m x k"
            )
        for start, part in enumerate(parts):
            flat = Reshape(Slice(tensor), (experts * rows, columns))
            yield part, Reshape(Every(flat, start), (experts, rows // 2, columns))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return [
            *super().describe(source, hparams, file_type),
            uint("gpt-oss.attention.sliding_window", hparams.count("sliding_window")),
            uint("gpt-oss.expert_feed_forward_length", hparams.count("intermediate_size")),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (GptOss(),)
