"""Encoders besides BERT: RoBERTa, XLM-RoBERTa, Nomic Embed and ModernBERT.

Source: `conversion/bert.py` RobertaModel, XLMRobertaModel, NomicBertModel (without experts) and
ModernBertModel of llama.cpp b11434.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rfctl.converter.description import check_number
from rfctl.converter.expression import Expression, RowRange, Slice
from rfctl.converter.families.bert import Bert
from rfctl.converter.families.common import describe_bpe
from rfctl.converter.header import SourceTensor
from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, text, uint
from rfctl.converter.plan import KeyValue
from rfctl.converter.source import ModelSource
from rfctl.converter.unigram import describe_unigram
from rfctl.core.error import RfctlError

_NOMIC = {
    "causal": False,
    "activation_function": "swiglu",
    "qkv_proj_bias": False,
    "mlp_fc1_bias": False,
    "mlp_fc2_bias": False,
    "prenorm": False,
    "rotary_emb_fraction": 1.0,
    "rotary_emb_interleaved": False,
    "rotary_emb_scale_base": None,
}
_NOMIC_POSITIONS = {(8192, 2048): 2048, (2048, 2048): 512}
_CLASSIFIER_POOLING = {"mean": 1, "cls": 2}


class Roberta(Bert):
    """RoBERTa: positions start behind the padding token, so the rows before are cut off."""

    hf_architectures: ClassVar[tuple[str, ...]] = ("RobertaModel", "RobertaForSequenceClassification")

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(name.removeprefix("roberta."))

    def express(self, name: str, tensor: SourceTensor, hparams: HParams) -> Expression:
        offset = _position_offset(hparams)
        if name != "position_embd.weight" or not offset or len(tensor.shape) != 2:
            return super().express(name, tensor, hparams)
        return RowRange(Slice(tensor), offset, tensor.shape[0])

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return super().shapes(_cut_positions(hparams))

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        return super().describe(source, _cut_positions(hparams), file_type)

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        types = hparams.count("type_vocab_size") if "type_vocab_size" in hparams else 1
        return [*describe_bpe(source, hparams), uint("tokenizer.ggml.token_type_count", types)]


class XlmRoberta(Roberta):
    """XLM-RoBERTa with its SentencePiece vocabulary: BGE-M3, multilingual E5."""

    hf_architectures = ("XLMRobertaModel", "XLMRobertaForSequenceClassification")

    def demand(self, hparams: HParams) -> None:
        if hparams.get("lora_adaptations"):
            value = str(hparams["lora_adaptations"])[:80]
            raise RfctlError("model.config-invalid", key="lora_adaptations", value=value)

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        return describe_unigram(source, hparams)


class Nomic(Bert):
    """nomic-embed-text 1 and 1.5."""

    hf_architectures = ("NomicBertModel",)
    architecture = "nomic-bert"
    block_prefix = "encoder.layers."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.word_embeddings": "token_embd",
        "embeddings.token_type_embeddings": "token_types",
        "emb_ln": "token_embd_norm",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "attn.Wqkv": "attn_qkv",
        "attn.out_proj": "attn_output",
        "norm1": "attn_output_norm",
        "mlp.fc11": "ffn_up",
        "mlp.fc12": "ffn_gate",
        "mlp.fc2": "ffn_down",
        "norm2": "layer_output_norm",
    }
    block_required = (
        *(f"{name}.weight" for name in block_names.values()),
        "attn_output_norm.bias",
        "layer_output_norm.bias",
    )

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "token_embd_norm.weight", "token_embd_norm.bias")

    def demand(self, hparams: HParams) -> None:
        for key, value in {"moe_every_n_layers": None, **_NOMIC}.items():
            found = hparams.get(key)
            if found != value and (found or value):
                raise RfctlError("model.config-invalid", key=key, value=str(found)[:80])

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return {}

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        found = hparams.count("n_positions")
        trained = hparams.count("max_trained_positions") if "max_trained_positions" in hparams else 2048
        positions = _NOMIC_POSITIONS.get((found, trained))
        if positions is None:
            raise RfctlError("model.config-invalid", key="n_positions", value=str(found))
        return super().describe(source, HParams({**hparams, "n_positions": positions}), file_type)


class ModernBert(Bert):
    """ModernBERT."""

    hf_architectures = ("ModernBertModel", "ModernBertForMaskedLM")
    architecture = "modern-bert"
    block_prefix = "layers."
    names: ClassVar[Mapping[str, str]] = {
        "embeddings.tok_embeddings": "token_embd",
        "embeddings.norm": "token_embd_norm",
        "final_norm": "output_norm",
    }
    block_names: ClassVar[Mapping[str, str]] = {
        "attn_norm": "attn_norm",
        "attn.Wqkv": "attn_qkv",
        "attn.Wo": "attn_output",
        "mlp_norm": "ffn_norm",
        "mlp.Wi": "ffn_up",
        "mlp.Wo": "ffn_down",
    }
    block_required = tuple(f"{name}.weight" for name in block_names.values() if name != "attn_norm")

    def adapt_name(self, name: str) -> str | None:
        return super().adapt_name(name.removeprefix("model."))

    def demand(self, hparams: HParams) -> None:
        # The reference writes a file without it, which llama.cpp cannot load.
        check_number("layer_norm_eps", hparams.find("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"))

    def require(self, hparams: HParams) -> tuple[str, ...]:
        return ("token_embd.weight", "token_embd_norm.weight", "output_norm.weight")

    def shapes(self, hparams: HParams) -> Mapping[str, tuple[int, ...]]:
        return {}

    def describe(self, source: ModelSource, hparams: HParams, file_type: int) -> list[KeyValue]:
        pairs = super().describe(source, hparams, file_type)
        pooling = hparams.get("classifier_pooling")
        if pooling is not None:
            if not isinstance(pooling, str) or pooling not in _CLASSIFIER_POOLING:
                raise RfctlError("model.pooling-unsupported", mode=str(pooling)[:80])
            pairs.append(uint("modern-bert.classifier.pooling_type", _CLASSIFIER_POOLING[pooling]))
        pairs.append(uint("modern-bert.attention.sliding_window", hparams.count("local_attention")))
        every = hparams.get("global_attn_every_n_layers")
        if every is not None:
            key = "modern-bert.attention.sliding_window_pattern"
            pairs.append(uint(key, hparams.count("global_attn_every_n_layers")))
        pairs.append(text("modern-bert.rope.scaling.type", "none"))
        pairs.append(uint("modern-bert.vocab_size", hparams.count("vocab_size")))
        if hparams.get("hidden_activation"):
            pairs.append(text("modern-bert.hidden_activation", str(hparams["hidden_activation"])))
        return pairs

    def describe_vocabulary(self, source: ModelSource, hparams: HParams) -> list[KeyValue]:
        adds = [flag(f"tokenizer.ggml.add_{kind}_token", True) for kind in ("bos", "eos", "sep")]
        return [*adds, *describe_bpe(source, hparams)]


def _position_offset(hparams: HParams) -> int:
    pad = hparams.get("pad_token_id")
    if pad is None:
        return 0
    if type(pad) is not int or pad < 0:
        raise RfctlError("model.config-invalid", key="pad_token_id", value=str(pad)[:80])
    return pad + 1


def _cut_positions(hparams: HParams) -> HParams:
    count = hparams.count("max_position_embeddings") - _position_offset(hparams)
    return HParams({**hparams, "max_position_embeddings": count})


FAMILIES = (Roberta(), XlmRoberta(), Nomic(), ModernBert())
