"""Whether a model's chat template ends, before llama.cpp renders it, which it does while it loads a model.

llama.cpp's jinja has no limits. A template of one line can loop for ever or take all memory of the machine,
so each one is rendered first in a child process with a deadline and a memory limit. What it merely gets wrong
is llama.cpp's to say.
"""

from __future__ import annotations

import asyncio

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama.model import Library, Model
from rfctl.ollama.template import Template, TemplateError, render_isolated

_CONVERSATIONS = (
    ({"role": "user", "content": "Hello"},),
    (
        {"role": "system", "content": "Answer briefly."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there"},
        {"role": "user", "content": "How are you?"},
    ),
)
# Reasons that tell of a lack of bounds; other errors may be gaps of one renderer: the sandbox of transformers
# refuses `append` and `pop` too, which llama.cpp has.
_UNBOUNDED = (
    "SecurityError: powers",
    "SecurityError: the repetition",
    "SecurityError: the number",
    "MemoryError",
    "RecursionError",
    "OverflowError",
    "the prompt has more",
    "the template has more",
)


async def ensure(library: Library, model: Model) -> None:
    """Raises ApiError 500 for a template without bounds. A model is looked at once."""
    if model.is_embedding or not model.jinja or model.layer.digest in library.bounded:
        return
    async with library.checking:
        reason = await asyncio.to_thread(_try, model.jinja)
    if reason:
        raise ApiError(500, f"the model's chat template was not rendered: {reason}")
    library.bounded.add(model.layer.digest)


def _try(text: str) -> str:
    try:
        found = render_isolated(Template(text), _CONVERSATIONS)
    except TemplateError as error:
        return error.reason
    reasons = [one.reason for one in found if isinstance(one, TemplateError)]
    return next((reason for reason in reasons if reason.startswith(_UNBOUNDED)), "")
