"""GPT-2.

Source: `conversion/gpt2.py` of llama.cpp b11434. Its Conv1D weights are transposed. `n_ctx` must be in the
configuration, as the reference demands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Expression, Slice
from rfctl.converter.families.common import describe_bpe
from rfctl.converter.family import Family
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import real, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.transpose import Transpose
from rfctl.core.error import RfctlError

_CONV1D = ("attn_qkv.weight", "attn_output.weight", "ffn_up.weight", "ffn_down.weight")
_MASKS = (".attn.bias", ".attn.masked_bias")


class Gpt2(Family):
    """GPT-2."""

    hf_architectures = ("GPT2LMHeadModel",)
    architecture = "gpt2"
    block_prefix = "h."
    names: ClassVar[Mapping[str, str]] = {
        "wte": "token_embd",
        "wpe": "position_embd",
        "ln_f": "output_norm",
        "lm_head": "output",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "ln_1": "attn_norm",
        "attn.c_attn": "attn_qkv",
        "attn.c_proj": "attn_output",
        "ln_2": "ffn_norm",
        "mlp.c_fc": "ffn_up",
        "mlp.c_proj": "ffn_down",
    }
    block_required = tuple(
        f"{name}.{suffix}" for name in block_names.values() for suffix in ("weight", "bias")
    )

    def adapt_name(self, name: str) -> str | None:
        name = name.removeprefix("transformer.")
        return None if name.endswith(_MASKS) else super().adapt_name(name)

    def demand(self, hparams: HParams) -> None:
        hparams.count("n_ctx")

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "position_embd.weight", "output_norm.weight", "output_norm.bias")

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        if not name.endswith(_CONV1D):
            return Slice(tensor)
        if len(tensor.shape) != 2:
            raise RfctlError(
                "model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted="2 dimensions"
            )
        return Transpose(Slice(tensor))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        hidden = hparams.count("n_embd")
        epsilon = check_number("layer_norm_epsilon", hparams.get("layer_norm_epsilon"))
        return [
            uint("gpt2.block_count", self.count_blocks(hparams)),
            uint("gpt2.context_length", hparams.count("n_ctx")),
            uint("gpt2.embedding_length", hidden),
            uint("gpt2.feed_forward_length", 4 * hidden),
            uint("gpt2.attention.head_count", hparams.count("n_head")),
            real("gpt2.attention.layer_norm_epsilon", epsilon),
            uint("general.file_type", file_type),
        ]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_bpe(source, hparams)


FAMILIES = (Gpt2(),)
