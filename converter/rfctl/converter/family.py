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
from dataclasses import dataclass
from functools import cache
from typing import ClassVar

from rfctl.converter.description import describe_text_model
from rfctl.converter.expression import Expression, Slice, Stack
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.core.error import RfctlError

_SKIPPED = (".attention.masked_bias", ".attention.bias", ".rotary_emb.inv_freq")
# Parts of a model that see and hear, and what joins them to the language model: llama.cpp writes them to a
# file of their own (`conversion/base.py` TextModel.filter_tensors).
_OTHER_STARTS = ("mlp", "vit.", "vpm.", "siglip2.", "conformer.", "merger.", "resampler.", "sound_encoder.",
                 "sound_projection.", "speech_embeddings.")  # fmt: skip
_OTHER_PARTS = re.compile(
    r"visual\.|vision[._]|audio[._]|talker\.|token2wav\.|code2wav\.|projector\.|pre_mm_projector_norm"
    r"|image_newline|view_seperator|patch_embed|patch_merger\.|patch_merge_mlp\.|model\.connector\."
)
_LANGUAGE = "language_model."
_NUMBER = re.compile(r"0|[1-9][0-9]{0,5}")
_SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Numbered:
    """Source tensors with a number of their own inside a layer that become one tensor (experts).

    prefix       what stands behind the layer's number and before the tensor's
    names        rest of the Hugging Face name without suffix -> GGUF name; "" when nothing follows
    count        keys of the configuration with how many there are
    """

    prefix: str
    names: Mapping[str, str]
    count: tuple[str, ...]

    def find(self, rest: str) -> tuple[int, str] | None:
        """(number, GGUF name) of the name `rest` behind the layer's number, None for another name."""
        if not rest.startswith(self.prefix):
            return None
        number, _, name = rest.removeprefix(self.prefix).partition(".")
        if not _NUMBER.fullmatch(number) or name not in self.names:
            return None
        return int(number), self.names[name]


class Family:
    """Tables and operations of one family.

    hf_architectures  entries of `architectures` in config.json
    architecture      GGUF architecture name
    block_prefix      what stands before the number of a layer
    names             Hugging Face name without .weight/.bias -> GGUF name, outside the layers
    block_names       the same inside a layer, behind the number
    numbered          tensors with a number inside the layer that are stacked
    float_names       GGUF names that stay float32 whatever the outtype
    encoded_dtypes    tensor types whose blocks a checkpoint may hold already; they are passed through
    cuts_rows         rows of the embedding behind the vocabulary are left out
    block_required    GGUF names inside a layer, behind `blk.N.`, that llama.cpp cannot load the model without
    """

    hf_architectures: ClassVar[tuple[str, ...]]
    architecture: ClassVar[str]
    block_prefix: ClassVar[str]
    names: ClassVar[Mapping[str, str]]
    block_names: ClassVar[Mapping[str, str]]
    numbered: ClassVar[tuple[Numbered, ...]] = ()
    float_names: ClassVar[frozenset[str]] = frozenset()
    cuts_rows: ClassVar[bool] = False
    encoded_dtypes: ClassVar[frozenset[str]] = frozenset()
    block_required: ClassVar[tuple[str, ...]]

    def adapt_name(self, name: str) -> str | None:
        """The name to look up, None for a tensor that is left out."""
        if name.endswith(_SKIPPED) or name.startswith(_OTHER_STARTS) or _OTHER_PARTS.search(name):
            return None
        return name.replace(_LANGUAGE, "")

    def leaves_out(self, name: str, hparams: HParams) -> bool:
        """Is the adapted tensor `name` left out because of the configuration?"""
        return False

    def place(self, name: str, hparams: HParams) -> str:
        """The adapted name where the configuration decides which layer it belongs to."""
        return name

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
            if int(number) >= block_count:
                return None
            if rest in self.block_names:
                return f"blk.{number}.{self.block_names[rest]}{suffix}"
            found = next((found for group in self.numbered if (found := group.find(rest))), None)
            return f"blk.{number}.{found[1]}{suffix}" if found else None
        return None

    def produce(self, name: str) -> tuple[str, ...]:
        """GGUF names of what is made of the tensor that `map_name` calls `name`."""
        return (name,)

    def assemble(
        self, tensors: Iterable[tuple[str, str, SourceTensor]], hparams: HParams
    ) -> Iterator[tuple[str, Expression]]:
        """The output tensors of (adapted name, GGUF name, source tensor), in the order of the file.

        A stack stands where its group's last source is, its tensors in the order of their Hugging Face
        names (`conversion/llama.py`, `qwen.py`, modify_tensors). Raises RfctlError `model.tensor-missing`.
        """
        waiting: dict[tuple[str, str], dict[str, dict[int, SourceTensor]]] = {}
        for adapted, name, tensor in tensors:
            found = self._find_numbered(adapted)
            if found is None:
                yield from self.arrange(name, tensor, hparams)
                continue
            group, number, block = found
            count = hparams.count(*group.count)
            if number >= count:
                raise RfctlError("model.tensor-unmapped", count=1, tensors=tensor.name, architecture="")
            held = waiting.setdefault((block, group.prefix), {})
            held.setdefault(name, {})[number] = tensor
            names = sorted(group.names.items())
            suffix = name[name.rindex(".") :]
            if sum(map(len, held.values())) < count * len(names):
                continue
            del waiting[block, group.prefix]
            for _, short in names:
                name = f"blk.{block}.{short}{suffix}"
                yield name, _stack([held[name][index] for index in range(count)])
        for held in waiting.values():
            raise RfctlError("model.tensor-missing", tensor=next(iter(held)))

    def _find_numbered(self, adapted: str) -> tuple[Numbered, int, str] | None:
        stem = adapted.removesuffix(".weight").removesuffix(".bias")
        block, _, rest = stem.removeprefix(self.block_prefix).partition(".")
        for group in self.numbered:
            found = group.find(rest)
            if found:
                return group, found[0], block
        return None

    def arrange(self, name: str, tensor: SourceTensor, hparams: HParams) -> Iterator[tuple[str, Expression]]:
        """The output tensors of one source tensor; one of the same name unless the family splits it."""
        yield name, self.express(name, tensor, hparams)

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        """Where the rows of the GGUF tensor `name` come from."""
        return Slice(tensor)

    def generate(self, hparams: HParams) -> Iterable[tuple[str, Expression]]:
        """Tensors that are computed from the configuration; they come first in the file."""
        return ()

    def describe_generated(self, hparams: HParams) -> Iterable[KeyValue]:
        """Pairs that come with the generated tensors; they stand before `general.type`."""
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

    def prepare(self, source: ModelSource, hparams: HParams) -> HParams:
        """The hyperparameters with what other files of the model say."""
        return hparams

    def observe(self, hparams: HParams, names: Iterable[str]) -> HParams:
        """The hyperparameters with what the names of the source tensors say."""
        return hparams

    def demand(self, hparams: HParams) -> None:
        """Raise RfctlError `model.config-invalid` for a setting that must be in config.json itself."""

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
        """The pairs that every text model has (`description.py`)."""
        return describe_text_model(self.architecture, self.count_blocks(hparams), hparams)


def _stack(tensors: list[SourceTensor]) -> Expression:
    first = tensors[0]
    for tensor in tensors:
        if (tensor.shape, tensor.dtype) != (first.shape, first.dtype):
            raise RfctlError(
                "model.tensor-shape", tensor=tensor.name, found=list(tensor.shape), wanted=list(first.shape)
            )
    return Stack(tuple(Slice(tensor) for tensor in tensors))


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
