"""Vocabularies of `tokenizer.json`: byte-level BPE, WordPiece, and SentencePiece's BPE with byte fallback.

Rules: `conversion/base.py` get_vocab_base and get_vocab_base_pre, gguf-py `vocab.py` LlamaHfVocab
(llama.cpp b11434), and what AutoTokenizer of transformers 4.57.6 does to the file when it loads it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from itertools import repeat
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from rfctl.converter.hparams import HParams
from rfctl.converter.source import ModelSource, read_text
from rfctl.converter.special import token_text
from rfctl.converter.vocabulary import SPACE, TokenType, Vocabulary, check_size, is_special_looking
from rfctl.core.error import RfctlError

FILE = "tokenizer.json"
_DATA = Path(__file__).parent / "data" / "pre-tokenizer.json"
# Classes whose post-processor transformers 4 makes anew from add_bos_token and add_eos_token, with their
# defaults.
_REBUILT = {
    "Llama": (True, False),
    "CodeLlama": (True, False),
    "Gemma": (True, False),
    "Cohere": (True, False),
    "GPTNeoX": (False, False),
}
_CLEAN_UP = ((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m"),
             (" 's", "'s"), (" 've", "'ve"), (" 're", "'re"))  # fmt: skip
_LLAMA_SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
_SPECIAL = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")


@dataclass
class TokenizerFile:
    """A loaded tokenizer.json.

    head     the file without its model's vocabulary and merges
    kind     type of the model: "BPE", "WordPiece", "Unigram", ...
    merges   merges as GGUF has them, UTF-8 (BPE)
    config   tokenizer_config.json, {} if absent
    entries  token -> id of the file's vocabulary, without added tokens; None where it is no such table
    """

    head: Mapping[str, Any] = field(repr=False)
    kind: str
    merges: list[bytes] = field(repr=False)
    config: Mapping[str, Any] = field(repr=False)
    engine: Any = field(repr=False)
    entries: Mapping[str, int] | None = field(default=None, repr=False)

    def list_tokens(self) -> dict[int, str]:
        """Token of every id, added ones included."""
        if self.entries is None:
            return {id: token for token, id in self.engine.get_vocab(with_added_tokens=True).items()}
        # What the engine would give, without having it copy its whole table: a tenth of a second.
        by_id = dict(zip(self.entries.values(), self.entries, strict=True))
        by_id |= {id: token.content for id, token in self.engine.get_added_tokens_decoder().items()}
        return by_id

    def encode(self, text: str, *, add_special: bool = True) -> list[int]:
        """Token ids, as transformers' tokenizer of the class named in the configuration gives them."""
        name = str(self.config.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
        if not add_special or name not in _REBUILT:
            return list(self.engine.encode(text, add_special_tokens=add_special).ids)
        ids = list(self.engine.encode(text, add_special_tokens=False).ids)
        for side, default in zip(("bos", "eos"), _REBUILT[name], strict=True):
            adds = self.config.get(f"add_{side}_token", default)
            id = self.engine.token_to_id(token_text(self.config.get(f"{side}_token")) or "")
            if adds and id is not None:
                ids = [id, *ids] if side == "bos" else [*ids, id]
        return ids


def load_tokenizer(source: ModelSource) -> TokenizerFile:
    """Load tokenizer.json.

    Raises RfctlError `model.tokenizer-missing`, `model.tokenizer-malformed`, `model.json-malformed`.
    """
    content = read_text(source.path / FILE)
    if content is None:
        raise RfctlError("model.tokenizer-missing", path=source.path, files=FILE)
    config = source.json("tokenizer_config.json")
    config = config if isinstance(config, dict) else {}
    if isinstance(config.get("extra_special_tokens"), list):
        raise RfctlError("model.extra-special-tokens", file="tokenizer_config.json")
    head, kind, merges, entries = _parse(content)
    adapted = _adapt_normalizer(head.get("normalizer"), config)
    if adapted is not None:
        content = json.dumps(json.loads(content) | {"normalizer": adapted})
    # As bytes: a text with Chinese in it takes three times the memory, and the engine wants UTF-8.
    data = content.encode("utf-8")
    del content
    try:
        engine = Tokenizer.from_buffer(data)
    except Exception as error:  # the library raises nothing narrower for a file that it cannot read
        raise RfctlError("model.tokenizer-malformed", file=FILE, what=str(error)[:120]) from error
    engine.no_truncation()
    engine.no_padding()
    try:
        _add_tokens(engine, config)
    except UnicodeEncodeError as error:  # half a surrogate pair, which a JSON escape can hold
        raise RfctlError(
            "model.tokenizer-malformed", file="tokenizer_config.json", what=str(error)
        ) from error
    return TokenizerFile(head, kind, merges, config, engine, entries)


def find_pre_tokenizer(tokenizer: TokenizerFile) -> str:
    """Name of the pre-tokenizer, by the hash of a fixed text.

    Raises RfctlError `model.pre-tokenizer-unknown`.
    """
    digest = hash_pre_tokenizer(tokenizer)
    name = _read_hashes()["hash"].get(digest)
    if name is None:
        raise RfctlError("model.pre-tokenizer-unknown", hash=digest)
    return str(name)


def hash_pre_tokenizer(tokenizer: TokenizerFile) -> str:
    """sha256 of the ids of the check text, written as Python writes a list."""
    ids = tokenizer.encode(_read_hashes()["check_text"])
    return hashlib.sha256(str(ids).encode()).hexdigest()


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
    special = {token_text(tokenizer.config.get(name, defaults.get(name))) for name in _SPECIAL} - {None}
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


def _encode_merges(merges: Any) -> list[bytes]:
    if not isinstance(merges, list):
        raise RfctlError("model.tokenizer-malformed", file=FILE, what="merges")
    if merges and isinstance(merges[0], str):
        return _encode_all(merges)
    joined = list(map(" ".join, merges))
    if {len(pair) for pair in merges} - {2}:
        raise ValueError("a merge is not a pair")
    if "".join(joined).count(" ") != len(joined):
        # A space inside a half would be taken for the one between the halves.
        joined = [" ".join(half.replace(" ", "\u0120") for half in pair) for pair in merges]
    return _encode_all(joined)


def _encode_all(texts: list[str]) -> list[bytes]:
    """Every text in UTF-8: in one go where no text holds what stands between them."""
    whole = "\n".join(texts)
    if whole.count("\n") != len(texts) - 1:
        return [text.encode() for text in texts]
    return whole.encode().split(b"\n")


def _parse(content: str) -> tuple[dict[str, Any], str, list[bytes], Mapping[str, int] | None]:
    """tokenizer.json without vocabulary and merges, the kind of its model, its merges and its vocabulary."""
    try:
        parsed = json.loads(content)
        model = parsed["model"]
        kind = model.get("type") or ("BPE" if "merges" in model else "WordPiece")
        merges = _encode_merges(model.get("merges") or [])
        entries = _read_entries(model.get("vocab"))
        parsed["model"] = {key: value for key, value in model.items() if key not in ("vocab", "merges")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise RfctlError("model.tokenizer-malformed", file=FILE, what=str(error)[:120]) from error
    return parsed, str(kind), merges, entries


def _read_entries(vocabulary: Any) -> Mapping[str, int] | None:
    """The vocabulary as it is read by the engine; None where that takes care of oddities (ids used twice)."""
    if not isinstance(vocabulary, dict) or set(map(type, vocabulary.values())) - {int}:
        return None
    return vocabulary if len(set(vocabulary.values())) == len(vocabulary) else None


def _adapt_normalizer(normalizer: Any, config: Mapping[str, Any]) -> dict[str, Any] | None:
    """The normalizer as BertTokenizerFast sets it by the configuration, None when the file's stays."""
    name = str(config.get("tokenizer_class", "")).removesuffix("Fast")
    if name != "BertTokenizer" or not isinstance(normalizer, dict):
        return None
    if normalizer.get("type") != "BertNormalizer":
        return None
    wanted = normalizer | {
        "lowercase": config.get("do_lower_case", True),
        "strip_accents": config.get("strip_accents"),
        "handle_chinese_chars": config.get("tokenize_chinese_chars", True),
    }
    return None if wanted == normalizer else wanted


def _add_tokens(engine: Any, config: Mapping[str, Any]) -> None:
    """Add what tokenizer_config.json names and tokenizer.json lacks, as transformers does."""
    known = {token.content for token in engine.get_added_tokens_decoder().values()}
    wanted: list[Any] = []
    decoder = config.get("added_tokens_decoder")
    entries = decoder.items() if isinstance(decoder, dict) else ()
    for _, entry in sorted(((str(id).zfill(12), entry) for id, entry in entries), key=lambda item: item[0]):
        content = token_text(entry)
        if content is not None and content not in known:
            flags = {
                name: bool(entry.get(name))
                for name in ("lstrip", "rstrip", "single_word", "normalized", "special")
            }
            wanted.append(AddedToken(content, **flags))
            known.add(content)
    for name in _SPECIAL:
        content = token_text(config.get(name))
        if content and content not in known:
            wanted.append(AddedToken(content, special=True, normalized=False))
            known.add(content)
    for token in wanted:
        (engine.add_special_tokens if token.special else engine.add_tokens)([token])


@cache
def _read_hashes() -> dict[str, Any]:
    table: dict[str, Any] = json.loads(_DATA.read_text(encoding="utf-8"))
    return table
