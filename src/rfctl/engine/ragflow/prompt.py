"""The prompt of a question: the chat's system text with the found chunks, made to fit the model's context.

After RAGFlow v0.27.0 `rag/prompts/generator.py` and `dialog_service.py`, which format the text with
str.format, so doubled braces stand for single ones. Deviations: a single brace that is no parameter's is
plain text, where RAGFlow fails; RAGFlow's page of instructions for citing (about 1,500 tokens) is not
added, marks are set by `citation`; what does not fit is left out here, lowest chunks first, where RAGFlow
counts with the number of tokens that was registered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from rfctl.engine.text.chunk import count_tokens

KNOWLEDGE = "{knowledge}"
# Real tokenisers give more tokens than the estimate for names, code and numbers.
_MARGIN = 1.2
_PER_MESSAGE = 8
_LEAST_BLOCK = 32
_FIELD = re.compile(r"\{\{|\}\}|\{([^{}]+)\}")
_SEPARATOR = "\n\n------\n\n"


class TooLongError(Exception):
    """System text and question alone do not fit the model."""


@dataclass(frozen=True)
class Block:
    """A chunk as the model sees it."""

    title: str
    content: str


@dataclass(frozen=True)
class Prompt:
    """messages for the model; used: how many of the blocks are in; system: the first message's text."""

    messages: tuple[dict[str, str], ...]
    used: int
    system: str


def build(
    template: str,
    parameters: Sequence[Any],
    variables: Mapping[str, Any],
    blocks: Sequence[Block],
    messages: Sequence[dict[str, str]],
    limit: int,
) -> Prompt:
    """A prompt of at most `limit` tokens by a cautious estimate.

    messages: the conversation, the last one from the user. Left out in turn, until it fits: the lowest
    blocks, the oldest messages, the end of the last block. Raises TooLongError, KeyError for a missing value
    of a parameter that is not optional.
    """
    text = _fill(template, parameters, variables)
    kept, history = list(blocks), list(messages)
    while True:
        prompt = _assemble(text, kept, history)
        over = estimate(prompt.messages) - limit
        if over <= 0:
            return prompt
        if len(kept) > 1:
            # Several at once: every round counts the whole prompt anew.
            while len(kept) > 1 and over > 0:
                over -= max(1, int(count_tokens(kept.pop().content) * _MARGIN))
        elif len(history) > 1:
            history.pop(0)
            while len(history) > 1 and history[0]["role"] != "user":
                history.pop(0)
        elif kept and (shorter := _shorten(kept[0], over)):
            kept[0] = shorter
        elif kept:
            kept.pop()
        else:
            raise TooLongError(
                f"system prompt and question need about {estimate(prompt.messages)} tokens,"
                f" {limit} are free in the model's context"
            )


def estimate(messages: Sequence[dict[str, str]]) -> int:
    """Tokens of some messages, rather too many than too few."""
    return sum(int(count_tokens(message["content"]) * _MARGIN) + _PER_MESSAGE for message in messages)


def show(prompt: str, question: str, seconds: Mapping[str, float], answer: str) -> str:
    """The field `prompt` of answers: prompt, question and timings (seconds by RAGFlow's names)."""
    if not seconds:
        return f"{prompt}\n\n### Query:\n{question}"
    tokens = count_tokens(answer)
    took = seconds.get("Generate answer", 0.0)
    lines = [f"  - {name}: {value * 1000:.1f}ms" for name, value in seconds.items()]
    text = "\n".join(
        [
            f"{prompt}\n\n### Query:\n{question}\n\n## Time elapsed:",
            *lines,
            "\n## Token usage:",
            f"  - Generated tokens(approximately): {tokens}",
            f"  - Token speed: {int(tokens / took) if took else 0}/s",
        ]
    )
    return text.replace("\n", "  \n")


def _fill(template: str, parameters: Sequence[Any], variables: Mapping[str, Any]) -> str:
    """The template with its parameters, but `{knowledge}`, filled in; doubled braces become single ones."""
    values: dict[str, str] = {}
    for parameter in parameters:
        if not isinstance(parameter, dict) or parameter.get("key") in (None, "knowledge"):
            continue
        key = str(parameter["key"])
        if key in variables:
            values[key] = str(variables[key])
        elif key == "date":
            values[key] = date.today().isoformat()
        elif parameter.get("optional"):
            values[key] = " "
        else:
            raise KeyError("Miss parameter: " + key)

    def put(match: re.Match[str]) -> str:
        found = match.group()
        return found[0] if match.group(1) is None else values.get(match.group(1), found)

    return _FIELD.sub(put, template)


def _assemble(text: str, blocks: Sequence[Block], history: Sequence[dict[str, str]]) -> Prompt:
    knowledge = _SEPARATOR.join(
        f"\nID: {number}\n├── Title: {block.title}\n└── Content:\n\n{block.content.strip()}"
        for number, block in enumerate(blocks)
    )
    knowledge = f"\n------\n{knowledge}" if blocks else ""
    system = text.replace(KNOWLEDGE, knowledge) if KNOWLEDGE in text else text + knowledge
    head = ({"role": "system", "content": system},) if system.strip() else ()
    return Prompt((*head, *history), len(blocks), system)


def _shorten(block: Block, over: int) -> Block | None:
    size = count_tokens(block.content)
    wanted = size - int(over / _MARGIN) - 2
    if wanted < _LEAST_BLOCK:
        return None
    # The estimate is not linear in the characters, so take a little more away than it says.
    content = block.content[: int(len(block.content) * wanted / size * 0.97)].rstrip()
    return Block(block.title, content) if content and len(content) < len(block.content) else None
