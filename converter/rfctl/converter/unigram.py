"""SentencePiece's Unigram vocabulary as XLM-RoBERTa uses it: `sentencepiece.bpe.model`, else tokenizer.json.

Rules: `conversion/bert.py` _xlmroberta_set_vocab, llama.cpp b11434. The ids are those of the Hugging Face
tokenizer, which puts four tokens of its own in front and leaves out the first three pieces.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass

import numpy as np

from rfctl.converter.hparams import HParams
from rfctl.converter.pair import flag, reals, sints, text, texts, uint
from rfctl.converter.plan import KeyValue, ValueType
from rfctl.converter.protobuf import list_fields
from rfctl.converter.sentence import load_processor, piece_type, read_piece
from rfctl.converter.source import ModelSource
from rfctl.converter.special import list_special_pairs, token_text
from rfctl.converter.tokenizer import FILE as TOKENIZER_FILE
from rfctl.converter.tokenizer import load_tokenizer
from rfctl.converter.vocabulary import TokenType, check_size
from rfctl.core.error import RfctlError

UNIGRAM_FILE = "sentencepiece.bpe.model"
_FIRST = ("<s>", "<pad>", "</s>", "<unk>")
_DROPPED = 3
_SPECIAL = {  # XLMRobertaTokenizerFast, transformers 4.57.6
    "bos_token": "<s>",
    "eos_token": "</s>",
    "sep_token": "</s>",
    "cls_token": "<s>",
    "unk_token": "<unk>",
    "pad_token": "<pad>",
    "mask_token": "<mask>",
}
_ABSENT_SCORE = -10000.0
# Field numbers of sentencepiece_model.proto.
_TRAINER, _NORMALIZER = 2, 3
_MODEL_TYPE = 3
_CHARSMAP, _DUMMY_PREFIX, _EXTRA_SPACES = 2, 3, 4
_UNIGRAM = 1


@dataclass(frozen=True)
class _Pieces:
    tokens: list[str]
    scores: list[float]
    types: list[int]
    adds_prefix: bool
    removes_spaces: bool
    charsmap: bytes


def describe_unigram(source: ModelSource, hparams: HParams) -> list[KeyValue]:
    """The pairs tokenizer.* of the vocabulary.

    Raises RfctlError `model.tokenizer-missing`, `model.tokenizer-malformed`, `model.tokenizer-kind`.
    """
    if source.has(UNIGRAM_FILE):
        pieces = _read_pieces(source, hparams)
    elif source.has(TOKENIZER_FILE):
        pieces = _read_tokenizer(source, hparams)
    else:
        files = f"{UNIGRAM_FILE}, {TOKENIZER_FILE}"
        raise RfctlError("model.tokenizer-missing", path=source.path, files=files)
    kinds = hparams.count("type_vocab_size") if "type_vocab_size" in hparams else 1
    pairs = [
        text("tokenizer.ggml.model", "t5"),
        text("tokenizer.ggml.pre", "default"),
        texts("tokenizer.ggml.tokens", pieces.tokens),
        reals("tokenizer.ggml.scores", np.array(pieces.scores, dtype=np.float32)),
        sints("tokenizer.ggml.token_type", np.array(pieces.types, dtype=np.int32)),
        flag("tokenizer.ggml.add_space_prefix", pieces.adds_prefix),
        uint("tokenizer.ggml.token_type_count", kinds),
        flag("tokenizer.ggml.remove_extra_whitespaces", pieces.removes_spaces),
    ]
    if pieces.charsmap:
        values = np.frombuffer(pieces.charsmap, dtype=np.uint8)
        key = "tokenizer.ggml.precompiled_charsmap"
        pairs.append(KeyValue(key, ValueType.ARRAY, values, ValueType.UINT8))
    head = source.json(TOKENIZER_FILE)
    return [*pairs, *list_special_pairs(source, head, None, len(pieces.tokens))]


def _read_pieces(source: ModelSource, hparams: HParams) -> _Pieces:
    processor = load_processor(source, UNIGRAM_FILE)
    spec = dict(list_fields((source.path / UNIGRAM_FILE).read_bytes()))
    trainer, normalizer = (_read_message(spec.get(number)) for number in (_TRAINER, _NORMALIZER))
    if trainer.get(_MODEL_TYPE, _UNIGRAM) != _UNIGRAM:
        raise RfctlError("model.tokenizer-kind", kind="SentencePiece BPE", wanted="Unigram")
    pieces = processor.vocab_size()
    size = check_size(max(hparams.get("vocab_size", 0), pieces))
    tokens = [read_piece(processor, number, UNIGRAM_FILE) for number in range(pieces)]
    scores = [processor.GetScore(number) for number in range(pieces)]
    types = [int(piece_type(processor, number)) for number in range(pieces)]
    tokens += [f"[PAD{number}]" for number in range(pieces, size)]
    scores += [_ABSENT_SCORE] * (size - pieces)
    types += [int(TokenType.UNUSED)] * (size - pieces)
    first = [TokenType.CONTROL] * 3 + [TokenType.UNKNOWN]
    charsmap = normalizer.get(_CHARSMAP)
    return _Pieces(
        [*_FIRST, *tokens[_DROPPED:-1]],
        [0.0] * len(_FIRST) + scores[_DROPPED:-1],
        [int(kind) for kind in first] + types[_DROPPED:-1],
        bool(normalizer.get(_DUMMY_PREFIX, 1)),
        bool(normalizer.get(_EXTRA_SPACES, 1)),
        charsmap if isinstance(charsmap, bytes) else b"",
    )


def _read_tokenizer(source: ModelSource, hparams: HParams) -> _Pieces:
    """The vocabulary of tokenizer.json: ids and flags as the loaded tokenizer has them."""
    tokenizer = load_tokenizer(source)
    if tokenizer.kind != "Unigram":
        raise RfctlError("model.tokenizer-kind", kind=tokenizer.kind, wanted="Unigram")
    whole, engine, config = source.json(TOKENIZER_FILE), tokenizer.engine, tokenizer.config
    count = engine.get_vocab_size(with_added_tokens=False)
    size = check_size(max(hparams.get("vocab_size", 0), count))
    try:
        charsmap = base64.b64decode(whole["normalizer"]["precompiled_charsmap"])
        scores = [float(score) for _, score in whole["model"]["vocab"]]
    except (KeyError, TypeError, ValueError) as error:
        raise RfctlError("model.tokenizer-malformed", file=TOKENIZER_FILE, what=str(error)[:120]) from error
    added = {token.content: id for id, token in engine.get_added_tokens_decoder().items()}
    named = [token_text(config.get(name, default)) for name, default in _SPECIAL.items()]
    named += [token_text(entry) for entry in config.get("additional_special_tokens") or ()]
    special = {engine.token_to_id(token) for token in named if token}
    fallback = whole["model"].get("unk_id")
    unknown = added.get(str(token_text(config.get("unk_token"))), 3 if fallback is None else fallback)
    known = set(added.values())
    tokens = [engine.id_to_token(id) for id in range(count)]
    types = []
    for id in range(count):
        kind = TokenType.USER_DEFINED if id in known else TokenType.NORMAL
        kind = TokenType.CONTROL if id in special else kind
        types.append(int(TokenType.UNKNOWN if id == unknown else kind))
    return _Pieces(
        tokens + [f"[PAD{id}]" for id in range(count, size)],
        scores[:count] + [_ABSENT_SCORE] * (size - count),
        types + [int(TokenType.UNUSED)] * (size - count),
        bool(config.get("add_prefix_space", False)),
        bool(config.get("clean_up_tokenization_spaces", False)),
        charsmap,
    )


def _read_message(value: int | bytes | None) -> dict[int, int | bytes]:
    return dict(list_fields(value)) if isinstance(value, bytes) else {}
