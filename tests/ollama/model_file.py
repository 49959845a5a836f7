"""Small GGUF files for the tests: a real header, one tensor."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy as np

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def write_gguf(
    path: Path,
    *,
    template: str = CHATML,
    tokens: tuple[str, ...] = ("<unk>", "<|im_start|>", "<|im_end|>", "a", "b"),
    control: tuple[str, ...] = ("<unk>", "<|im_start|>", "<|im_end|>"),
    eos: int = 2,
    bos: int = 1,
    add_bos: bool = False,
    context: int = 32768,
    embedding: int = 64,
    pooling: int | None = None,
    causal: bool | None = None,
    name: str = "",
    rows: int = 5,
    kind: str = "",
    pieces: int = 0,
) -> Path:
    writer = gguf.GGUFWriter(path, "llama" if pooling is None and causal is None else "bert")
    if name:
        writer.add_name(name)
    if kind:
        writer.add_type(kind)
    if pieces:
        writer.add_uint16("split.count", pieces)
    if causal is not None:
        writer.add_causal_attention(causal)
    writer.add_context_length(context)
    writer.add_embedding_length(embedding)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list(list(tokens))
    kinds = [gguf.TokenType.CONTROL if token in control else gguf.TokenType.NORMAL for token in tokens]
    writer.add_token_types(kinds)
    writer.add_eos_token_id(eos)
    writer.add_bos_token_id(bos)
    writer.add_add_bos_token(add_bos)
    if template:
        writer.add_chat_template(template)
    if pooling is not None:
        writer.add_pooling_type(gguf.PoolingType(pooling))
    writer.add_tensor(
        "token_embd.weight", np.arange(rows * embedding, dtype=np.float32).reshape(rows, embedding)
    )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
