"""Qwen3.5 and Qwen3-Next: linear attention in most layers, and layers that predict further tokens (MTP).

Source: `conversion/qwen.py` Qwen3NextModel, Qwen3_5TextModel, Qwen3_5MoeTextModel and their mixins of
llama.cpp b11434. A checkpoint without MTP tensors, as most fine-tunes are, is converted as with
`--no-nextn`; the reference stops there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from math import gcd
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Blocks, Expression, NegativeExponential, Reshape, Shift, Slice
from rfctl.converter.families.common import DECODER_BLOCK, head_size
from rfctl.converter.families.packed import PACKED_BLOCK, PackedExperts
from rfctl.converter.families.qwen2 import Qwen2Moe
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flags, sints, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_EXTRA_LAYERS = "rfctl_mtp_layers"  # where `observe` leaves how many there are
_EXTRA = re.compile(r"(?:model\.)?mtp\.(?:layers\.(\d{1,6})\.)?(.+)")
_EXTRA_NAMES = {
    "fc.weight": "eh_proj.weight",
    "pre_fc_norm_embedding.weight": "enorm.weight",
    "pre_fc_norm_hidden.weight": "hnorm.weight",
    "norm.weight": "shared_head.norm.weight",
}
_DECAY = "ssm_a.weight"
_SECTIONS = [11, 11, 10, 0]
_FULL = tuple(f"attn_{name}.weight" for name in ("q", "k", "v", "output", "q_norm", "k_norm"))
_LINEAR = ("ssm_a", "ssm_dt.bias", *(f"{name}.weight" for name in ("ssm_conv1d", "ssm_norm", "ssm_out",
           "attn_qkv", "attn_gate")))  # fmt: skip
_SIZES = (
    ("conv_kernel", "linear_conv_kernel_dim"),
    ("state_size", "linear_key_head_dim"),
    ("group_count", "linear_num_key_heads"),
    ("time_step_rank", "linear_num_value_heads"),
)


class Qwen3Next(PackedExperts, Qwen2Moe):
    """Qwen3-Next."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("Qwen3NextForCausalLM",)
    architecture: ClassVar[str] = "qwen3next"
    block_names: ClassVar[Mapping[str, str]] = {
        **Qwen2Moe.block_names,
        **{f"mlp.{name}": mapped for name, mapped in PACKED_BLOCK.items()},
        "post_attention_layernorm": "post_attention_norm",
        "self_attn.q_norm": "attn_q_norm",
        "self_attn.k_norm": "attn_k_norm",
        "linear_attn.A_log": "ssm_a",
        "linear_attn.dt_proj": "ssm_dt",
        "linear_attn.conv1d": "ssm_conv1d",
        "linear_attn.norm": "ssm_norm",
        "linear_attn.out_proj": "ssm_out",
        "linear_attn.in_proj_qkvz": "attn_qkv",
        "linear_attn.in_proj_ba": "ssm_ba",
        "linear_attn.in_proj_qkv": "attn_qkv",
        "linear_attn.in_proj_z": "attn_gate",
        "linear_attn.in_proj_a": "ssm_alpha",
        "linear_attn.in_proj_b": "ssm_beta",
        "eh_proj": "nextn.eh_proj",
        "enorm": "nextn.enorm",
        "hnorm": "nextn.hnorm",
        "shared_head.norm": "nextn.shared_head_norm",
    }
    block_required = (
        "attn_norm.weight",
        "post_attention_norm.weight",
        *(name for name in Qwen2Moe.block_required if name.startswith("ffn_") and "norm" not in name),
    )
    linear_required: ClassVar[tuple[str, ...]] = (*_LINEAR, "ssm_ba.weight")
    is_mixed = True  # queries, keys, values and gate of a head stand together

    def adapt_name(self, name: str) -> str | None:
        if name.endswith(".A_log"):
            name += ".weight"
        elif name.endswith(".dt_bias"):
            name = name.removesuffix("dt_bias") + "dt_proj.bias"
        return super().adapt_name(name)

    def place(self, name: str, hparams: HParams) -> str:
        found = _EXTRA.fullmatch(name)
        if found is None:
            return name
        first = hparams.count("num_hidden_layers")
        number, rest = found.groups()
        rest = _EXTRA_NAMES.get(rest, rest) if number is None else rest
        return f"{self.block_prefix}{first + int(number or 0)}.{rest}"

    def observe(self, hparams: HParams, names: Iterable[str]) -> HParams:
        adapted = (self.adapt_name(name) or "" for name in names)
        found = [match for name in adapted if (match := _EXTRA.fullmatch(name))]
        if not found:
            return HParams({**hparams, _EXTRA_LAYERS: 0})
        present = max(int(match[1] or 0) + 1 for match in found)
        return HParams({**hparams, _EXTRA_LAYERS: hparams.get("mtp_num_hidden_layers") or present})

    def count_blocks(self, hparams: HParams) -> int:
        return hparams.count("num_hidden_layers") + int(hparams.get(_EXTRA_LAYERS, 0))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        kinds = self._list_kinds(hparams)
        by_layer = (self.linear_required if is_linear else _FULL for is_linear in kinds)
        inside = (f"blk.{number}.{name}" for number, names in enumerate(by_layer) for name in names)
        return (*super().require(hparams), *inside)

    def _list_kinds(self, hparams: HParams) -> list[bool]:
        """For every layer: has it linear attention?"""
        count, step = hparams.count("num_hidden_layers"), _interval(hparams)
        if count > 10_000:
            raise RfctlError("model.config-invalid", key="num_hidden_layers", value=str(count))
        kinds = _layer_types(hparams) or [(number + 1) % step != 0 for number in range(count)]
        return [*kinds, *[False] * (self.count_blocks(hparams) - count)]

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return {}

    def produce(self, name: str) -> tuple[str, ...]:
        if name.endswith(_DECAY):
            return (name.removesuffix(".weight"),)
        if self.is_mixed and name.endswith("attn_qkv.weight"):
            return name, name.replace("attn_qkv", "attn_gate")
        return super().produce(name)

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        short = name.split(".", 2)[-1]
        if short == _DECAY:
            yield self.produce(name)[0], NegativeExponential(self._order(short, tensor, hparams))
        elif short == "attn_qkv.weight" and self.is_mixed:
            yield from zip(self.produce(name), self._separate(tensor, hparams), strict=True)
        elif short.startswith(("ssm_", "attn_gate", "attn_qkv")):
            yield name, self._order(short, tensor, hparams)
        elif name.endswith("norm.weight"):
            yield name, Shift(Slice(tensor), 1.0)
        else:
            yield from super().arrange(name, tensor, hparams)

    def _order(self, short: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        """Rows, elements or columns in the order of llama.cpp."""
        if short == "ssm_conv1d.weight" and len(tensor.shape) == 3 and tensor.shape[1] == 1:
            return Reshape(Slice(tensor), (tensor.shape[0], tensor.shape[2]))
        return Slice(tensor)

    def _separate(self, tensor: SourceTensor, hparams: HParams) -> tuple[Expression, Expression]:
        keys, values, key_size, value_size = _heads(hparams)
        per = values // keys * value_size
        height = gcd(key_size, per)
        unit = 2 * (key_size + per) // height
        _check_rows(tensor, keys * unit * height)
        ends = [0, key_size, 2 * key_size, 2 * key_size + per, 2 * (key_size + per)]
        parts = [range(start // height, end // height) for start, end in pairwise(ends)]
        orders = [[head * unit + block for head in range(keys) for block in part] for part in parts]
        joined = (*orders[0], *orders[1], *orders[2])
        return Blocks(Slice(tensor), height, joined), Blocks(Slice(tensor), height, tuple(orders[3]))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        prefix, extra = self.architecture, self.count_blocks(hparams) - hparams.count("num_hidden_layers")
        if extra:
            pairs.append(uint(f"{prefix}.nextn_predict_layers", extra))
        pairs += [uint(f"{prefix}.ssm.{key}", hparams.count(name)) for key, name in _SIZES]
        inner = hparams.count("linear_value_head_dim") * hparams.count("linear_num_value_heads")
        pairs.append(uint(f"{prefix}.ssm.inner_size", inner))
        # There and null: transformers knows the type and computes the list.
        if "layer_types" in hparams:
            pairs.append(flags(f"{prefix}.attention.recurrent_layers", self._list_kinds(hparams)))
        part = rope_parameters(hparams).get("partial_rotary_factor", 0.25)
        return [
            *pairs,
            uint(f"{prefix}.full_attention_interval", _interval(hparams)),
            uint(
                f"{prefix}.rope.dimension_count",
                int(head_size(hparams) * check_number("partial_rotary_factor", part)),
            ),
        ]


class Qwen35Moe(Qwen3Next):
    """Qwen3.5 with experts. Where there are more heads of values than of keys, the values' heads go from
    grouped by key to one round of keys after the other.
    """

    hf_architectures = ("Qwen3_5MoeForCausalLM", "Qwen3_5MoeForConditionalGeneration")
    architecture = "qwen35moe"
    is_mixed = False
    linear_required = (*_LINEAR, "ssm_alpha.weight", "ssm_beta.weight")

    def _order(self, short: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        plain = super()._order(short, tensor, hparams)
        keys, values, key_size, value_size = _heads(hparams)
        if keys == values or short == "ssm_norm.weight":
            return plain
        per = values // keys
        rounds = [key * per + turn for turn in range(per) for key in range(keys)]
        if short.startswith(("attn_qkv", "ssm_conv1d")):
            before = 2 * keys * key_size
            height = gcd(before, value_size)
            step, first = value_size // height, before // height
            tail = [first + head * step + block for head in rounds for block in range(step)]
            _check_rows(tensor, before + values * value_size)
            return Blocks(plain, height, (*range(first), *tail))
        height = value_size if short.startswith(("attn_gate", "ssm_out")) else 1
        if short.startswith("ssm_out"):
            _check_rows(tensor, values * height, axis=-1)
            return Blocks(plain, height, tuple(rounds), columns=True)
        _check_rows(tensor, values * height)
        return Blocks(plain, height, tuple(rounds))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        if "mrope_section" not in rope_parameters(hparams):
            pairs.append(sints(f"{self.architecture}.rope.dimension_sections", _SECTIONS))
        return pairs


class Qwen35(Qwen35Moe):
    """Qwen3.5."""

    hf_architectures = ("Qwen3_5ForCausalLM", "Qwen3_5ForConditionalGeneration")
    architecture = "qwen35"
    numbered = ()
    block_names: ClassVar[Mapping[str, str]] = {
        **{name: mapped for name, mapped in Qwen3Next.block_names.items() if not name.startswith("mlp.")},
        **{name: mapped for name, mapped in DECODER_BLOCK.items() if name.startswith("mlp.")},
    }
    block_required = (
        "attn_norm.weight",
        "post_attention_norm.weight",
        *(f"ffn_{name}.weight" for name in ("gate", "up", "down")),
    )


def _heads(hparams: HParams) -> tuple[int, int, int, int]:
    """Heads of keys and of values, and their sizes."""
    keys, values = hparams.count("linear_num_key_heads"), hparams.count("linear_num_value_heads")
    if values % keys:
        raise RfctlError("model.config-invalid", key="linear_num_value_heads", value=str(values))
    return keys, values, hparams.count("linear_key_head_dim"), hparams.count("linear_value_head_dim")


def _interval(hparams: HParams) -> int:
    return hparams.count("full_attention_interval") if "full_attention_interval" in hparams else 4


def _layer_types(hparams: HParams) -> list[bool] | None:
    kinds = hparams.get("layer_types")
    if kinds is None:
        return None
    if not isinstance(kinds, list) or len(kinds) != hparams.count("num_hidden_layers"):
        raise RfctlError("model.config-invalid", key="layer_types", value=str(kinds)[:80])
    return [kind == "linear_attention" for kind in kinds]


def _check_rows(tensor: SourceTensor, wanted: int, axis: int = 0) -> None:
    if not tensor.shape or tensor.shape[axis] != wanted:
        raise RfctlError("model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted=wanted)


FAMILIES = (Qwen3Next(), Qwen35Moe(), Qwen35())
