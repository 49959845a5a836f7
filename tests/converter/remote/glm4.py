"""Stands in for the tokenizer code that GLM-4-9B is published with, when the reference is recorded.

llama.cpp b11434 stops at the published code (a slow tokenizer has no `vocab`, and there are no merges in a
file it knows), so this stand-in gives what is missing: `vocab` in the byte-level spelling, and a merges.txt
by the reference's own rule, ChatGLMModel.bpe, which nothing calls any more. The hash of the splitting cannot
be that of the real vocabulary, so the name that belongs to the form is given instead.
"""

import base64
from pathlib import Path

from conversion.base import TextModel
from conversion.chatglm import ChatGLMModel
from transformers import PreTrainedTokenizer

TextModel.get_vocab_base_pre = lambda model, tokenizer: "chatglm-bpe"


class ChatGLM4Tokenizer(PreTrainedTokenizer):
    vocab_files_names = {"vocab_file": "tokenizer.model"}

    def __init__(self, vocab_file, **options):
        lines = [line.split() for line in Path(vocab_file).read_text().splitlines()]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        spell = ChatGLMModel.token_bytes_to_string
        self.names = {spell(token): rank for token, rank in ranks.items()}
        merges = ["#version: 0.2"]
        for token, rank in ranks.items():
            if len(token) > 1:
                parts = ChatGLMModel.bpe(ranks, token, max_rank=rank)
                assert len(parts) == 2
                merges.append(" ".join(map(spell, parts)))
        Path(vocab_file).with_name("merges.txt").write_text("\n".join(merges) + "\n", "utf-8")
        super().__init__(**options)

    @property
    def vocab_size(self):
        return len(self.names)

    def get_vocab(self):
        return self.names | self.added_tokens_encoder

    @property
    def vocab(self):
        return self.get_vocab()

    def _convert_id_to_token(self, id):
        return next((name for name, rank in self.names.items() if rank == id), "")

    def _convert_token_to_id(self, token):
        return self.names[token]

    def _tokenize(self, text, **options):
        raise NotImplementedError  # only added tokens are encoded
