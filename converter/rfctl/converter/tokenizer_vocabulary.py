"""Vocabularies of `tokenizer.json`: byte-level BPE, WordPiece, and SentencePiece's BPE with byte fallback.

Rules: `conversion/base.py` get_vocab_base, gguf-py `vocab.py` LlamaHfVocab (llama.cpp b11434).
"""

from __future__ import annotations

from itertools import repeat

from rfctl.converter.hparams import HParams
from rfctl.converter.pre_tokenizer import find_pre_tokenizer
from rfctl.converter.special import token_text
from rfctl.converter.tokenizer import FILE, SPECIAL_TOKENS, TokenizerFile
from rfctl.converter.vocabulary import SPACE, TokenType, Vocabulary, check_size, is_special_looking
from rfctl.core.error import RfctlError

_CLEAN_UP = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
             (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))  # fmt: skip
_LLAMA_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def read_base_vocabulary(tokenizer: TokenizerFile, hparams: HParams) -> Vocabulary:
    """Tokens of ids 0 to vocab_size - 1 with their types; ids without a token become unused `[PADn]`.

    Raises RfctlError `model.vocabulary-too-small` when the tokenizer has an id that vocab_size leaves no
    room for, and `model.pre-tokenizer-unknown`.
    """
    engine = tokenizer.engine
    by_id = tokenizer.list_tokens()
    added = engine.get_added_tokens_decoder()
    size = check_size(hparams.get("vocab_size", len(by_id)))
    highest = max(by_id, default=0)
    if highest >= size:
        raise RfctlError("model.vocabulary-too-small", vocab_size=size, highest=highest, token=by_id[highest])
    pre = find_pre_tokenizer(tokenizer)
    # Nearly all tokens are plain: whole lists first, then the exceptions.
    tokens = list(map(by_id.get, range(size), repeat("")))
    types = [int(TokenType.NORMAL)] * size
    for id in set(range(size)).difference(by_id) if len(by_id) != size else ():
        tokens[id], types[id] = f"[PAD{id}]", int(TokenType.UNUSED)
    for id, entry in added.items():
        token = tokens[id]
        if not entry.normalized:
            token = _round_trip(tokenizer, token)
        if entry.special or is_special_looking(token):
            types[id] = int(TokenType.CONTROL)
        else:
            types[id] = int(TokenType.USER_DEFINED)
            token = token.replace(SPACE, " ")
        tokens[id] = token
    return Vocabulary("gpt2", pre, tokens, types)


def read_wordpiece(tokenizer: TokenizerFile, hparams: HParams) -> Vocabulary:
    """A WordPiece vocabulary with words marked by a leading space sign instead of continuations by ##.

    Rule: `conversion/bert.py` set_vocab, b11434. Raises as `read_base_vocabulary`.
    """
    base = read_base_vocabulary(tokenizer, hparams)
    for id, token in enumerate(base.tokens):
        if base.types[id] != TokenType.CONTROL:
            base.tokens[id] = token[2:] if token.startswith("##") else SPACE + token
    base.model = "bert"
    return base


def is_sentencepiece_bpe(tokenizer: TokenizerFile) -> bool:
    """Is this SentencePiece's BPE (byte fallback) in tokenizer.json form?"""
    model, decoder = tokenizer.head["model"], tokenizer.head.get("decoder")
    kind = decoder.get("type") if isinstance(decoder, dict) else None
    return tokenizer.kind == "BPE" and bool(model.get("byte_fallback")) and kind == "Sequence"


def read_sentencepiece_bpe(tokenizer: TokenizerFile) -> Vocabulary:
    """SentencePiece's BPE without `tokenizer.model`: every score is -1000 (gguf-py LlamaHfVocab)."""
    engine = tokenizer.engine
    added = engine.get_added_tokens_decoder()
    base = engine.get_vocab_size(with_added_tokens=False)
    by_id = {id: token for token, id in engine.get_vocab(with_added_tokens=True).items()}
    defaults = _LLAMA_SPECIAL if "Llama" in str(tokenizer.config.get("tokenizer_class", "")) else {}
    special = {token_text(tokenizer.config.get(name, defaults.get(name))) for name in SPECIAL_TOKENS} - {None}
    for entry in tokenizer.config.get("additional_special_tokens") or ():
        special.add(token_text(entry))
    tokens, types = [], []
    for id in [*range(base), *sorted(id for id in added if id >= base)]:
        token = by_id.get(id)
        if token is None:
            raise RfctlError("model.tokenizer-malformed", file=FILE, what=f"no token {id}")
        is_byte = len(token) == 6 and token.startswith("<0x") and token.endswith(">")
        if token in special:
            types.append(TokenType.CONTROL)
        elif is_byte and id < base:
            types.append(TokenType.BYTE)
        else:
            types.append(TokenType.NORMAL if id < base else TokenType.USER_DEFINED)
        tokens.append(token)
    return Vocabulary("llama", "default", tokens, [int(kind) for kind in types], [-1000.0] * len(tokens))


def _round_trip(tokenizer: TokenizerFile, token: str) -> str:
    """An added token as the tokenizer gives it back: llama.cpp expects such tokens normalised."""
    ids = tokenizer.engine.encode(token, add_special_tokens=False).ids
    text: str = tokenizer.engine.decode(ids, skip_special_tokens=False)
    return clean_up(text) if tokenizer.config.get("clean_up_tokenization_spaces") else text


def clean_up(text: str) -> str:
    """`text` without the spaces that transformers takes away when `clean_up_tokenization_spaces` is set."""
    for old, new in _CLEAN_UP:
        text = text.replace(old, new)
    return text
