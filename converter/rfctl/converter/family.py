"""What a model family says about its tensors, its hyperparameters and its vocabulary.

A family is one module in `families/` with a `FAMILIES` tuple; `find_family` looks it up by Hugging Face
architecture name. The base class holds what llama.cpp's TextModel does for all (`conversion/base.py`,
b11434).
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import ClassVar

from rfctl.converter.expression import Expression, Slice
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams, rope_parameters
from rfctl.converter.pair import flag, real, text, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_SKIPPED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
_SUFFIXES = (".weight", ".bias")


class Family:
    """Tables and operations of one family.

    hf_architectures  entries of `architectures` in config.json
    architecture      GGUF architecture name
    block_prefix      what stands before the number of a layer
    names             Hugging Face name without .weight/.bias -> GGUF name, outside the layers
    block_names       the same inside a layer, behind the number
    float_names       GGUF names that stay float32 whatever the outtype
    block_required    GGUF names inside a layer, behind `blk.N.`, that llama.cpp cannot load the model without
    """

    hf_architectures: ClassVar[tuple[str, ...]]
    architecture: ClassVar[str]
    block_prefix: ClassVar[str]
    names: ClassVar[Mapping[str, str]]
    block_names: ClassVar[Mapping[str, str]]
    float_names: ClassVar[frozenset[str]] = frozenset()
    block_required: ClassVar[tuple[str, ...]]

    def adapt_name(self, name: str) -> str | None:
        """The name to look up, None for a tensor that is left out."""
        return None if name.endswith(_SKIPPED) else name

    def map_name(self, name: str, block_count: int) -> str | None:
        """GGUF name of the adapted tensor `name`, None when no table has it."""
        for suffix in _SUFFIXES:
            stem = name.removesuffix(suffix)
            if stem == name:
                continue
            if stem in self.names:
                return self.names[stem] + suffix
            number, _, rest = stem.removeprefix(self.block_prefix).partition(".")
            if not stem.startswith(self.block_prefix) or not _NUMBER.fullmatch(number):
                return None
            if int(number) < block_count and rest in self.block_names:
                return f"blk.{number}.{self.block_names[rest]}{suffix}"
        return None

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        """Where the rows of the GGUF tensor `name` come from."""
        return Slice(tensor)

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        """Tensors that are computed from the configuration; they come first in the file."""
        return ()

    def require(self, hparams: HParams) -> tuple[str, ...]:
        """GGUF names outside the layers that llama.cpp cannot load the model without."""
        return ()

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        """Shapes (Hugging Face order) that the configuration demands, by GGUF name; inside a layer without
        `blk.N.`.

        The rows of token_embd and output are compared with the vocabulary elsewhere.
        """
        return {}

    def count_blocks(self, hparams: HParams) -> int:
        """Number of layers; raises RfctlError `model.config-invalid`."""
        return hparams.count("num_hidden_layers", "n_layer", "num_layers")

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        """Pairs of the architecture, with general.file_type in its place."""
        return [*self.describe_common(hparams), uint("general.file_type", file_type)]

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        """Pairs tokenizer.*; raises RfctlError when there is no vocabulary of a kind that the family has."""
        raise NotImplementedError

    def describe_common(self, hparams: HParams) -> Iterator[KeyValue]:
        """The pairs that every text model has, in the order of TextModel.set_gguf_parameters."""
        prefix = self.architecture
        yield uint(f"{prefix}.block_count", self.count_blocks(hparams))
        for key, *names in (
            ("context_length", "max_position_embeddings", "n_ctx", "n_positions", "max_length"),
            ("embedding_length", "hidden_size", "n_embd"),
            ("feed_forward_length", "intermediate_size", "n_inner"),
            ("attention.head_count", "num_attention_heads", "n_head"),
            ("attention.head_count_kv", "num_key_value_heads"),
        ):
            if hparams.find(*names) is not None:
                yield uint(f"{prefix}.{key}", hparams.count(*(name for name in names if name in hparams)))
        if hparams.get("is_causal") is False:
            yield flag(f"{prefix}.attention.causal", False)
        yield from self._describe_rope(hparams)
        for key, *names in (
            ("attention.layer_norm_rms_epsilon", "rms_norm_eps", "norm_eps"),
            ("attention.layer_norm_epsilon", "layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"),
        ):
            value = hparams.find(*names)
            if value is not None:
                yield real(f"{prefix}.{key}", _number(names[0], value))
        if hparams.get("head_dim") is not None:
            yield uint(f"{prefix}.attention.key_length", hparams.count("head_dim"))
            yield uint(f"{prefix}.attention.value_length", hparams.count("head_dim"))

    def _describe_rope(self, hparams: HParams) -> Iterator[KeyValue]:
        rope = rope_parameters(hparams)
        kind, factor = rope.get("rope_type"), rope.get("factor")
        scaling = f"{self.architecture}.rope.scaling"
        if kind in ("linear", "yarn") and factor is not None:
            yield text(f"{scaling}.type", str(kind))
            yield real(f"{scaling}.factor", _number("factor", factor))
        if kind == "yarn" and factor is not None:
            original = rope.get("original_max_position_embeddings")
            if type(original) is not int or not 0 < original < 1 << 31:
                raise RfctlError(
                    "model.config-invalid", key="original_max_position_embeddings", value=str(original)
                )
            yield uint(f"{scaling}.original_context_length", original)
            for key, *names in (
                ("yarn_ext_factor", "extrapolation_factor"),
                ("yarn_attn_factor", "attention_factor", "attn_factor"),
                ("yarn_beta_fast", "beta_fast"),
                ("yarn_beta_slow", "beta_slow"),
            ):
                value = next((rope[name] for name in names if name in rope), None)
                if value is not None:
                    yield real(f"{scaling}.{key}", _number(names[0], value))
        elif kind in ("su", "longrope", "dynamic", "mrope"):
            raise RfctlError("model.rope-unsupported", kind=str(kind))
        theta = rope.get("rope_theta")
        if theta is not None:
            yield real(f"{self.architecture}.rope.freq_base", _number("rope_theta", theta))


def _number(key: str, value: object) -> float:
    # The comparison is false for NaN too.
    if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < 3e38:
        raise RfctlError("model.config-invalid", key=key, value=str(value)[:80])
    return float(value)


@cache
def list_families() -> Mapping[str, Family]:
    """Hugging Face architecture name -> family, of all modules in `families/`."""
    package = importlib.import_module("rfctl.converter.families")
    found: dict[str, Family] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
        for family in getattr(
            importlib.import_module(f"rfctl.converter.families.{module.name}"), "FAMILIES", ()
        ):
            for name in family.hf_architectures:
                found[name] = family
    return found


def find_family(source: ModelSource) -> Family:
    """The family of a model.

    Raises RfctlError `model.architecture-missing` or `model.architecture-unknown`.
    """
    name = source.architecture
    family = list_families().get(name)
    if family is None:
        raise RfctlError("model.architecture-unknown", architecture=name[:120], path=source.path)
    return family
