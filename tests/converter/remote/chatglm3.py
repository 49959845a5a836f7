"""Stands in for the tokenizer code that ChatGLM3 is published with, when the reference is recorded.

It has what `conversion/chatglm.py` set_vocab_chatglm3 of llama.cpp b11434 asks for, and no more.
"""

from types import SimpleNamespace

from sentencepiece import SentencePieceProcessor
from transformers import PreTrainedTokenizer

BEHIND = (
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "sop",
    "eop",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)


class ChatGLMTokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tokenizer.model"}

    def __init__(self, vocab_file, **options):
        self.tokenizer = SimpleNamespace(sp_model=SentencePieceProcessor(model_file=vocab_file))
        super().__init__(**options)

    @property
    def vocab_size(self):
        return self.tokenizer.sp_model.vocab_size() + len(BEHIND)

    def get_vocab(self):
        return {
            self._convert_id_to_token(id): id for id in range(self.vocab_size)
        } | self.added_tokens_encoder

    def _convert_id_to_token(self, id):
        model = self.tokenizer.sp_model
        place = id - model.vocab_size()
        if place >= 0:
            return BEHIND[place] if place < len(BEHIND) else ""
        return "" if id in (model.unk_id(), model.bos_id(), model.eos_id()) else model.id_to_piece(id)

    def _convert_token_to_id(self, token):
        model = self.tokenizer.sp_model
        return model.vocab_size() + BEHIND.index(token) if token in BEHIND else model.piece_to_id(token)

    def _tokenize(self, text, **options):
        return self.tokenizer.sp_model.encode(text, out_type=str)
