"""From messages to the prompt: the Go template of a model, or the jinja of its GGUF rendered by llama.cpp.

Rules of Ollama v0.33.0-rc2: template/template.go (Execute, collate), server/prompt.go (what is dropped from a
long history), llm/llama_server.go:279-333 (how a long prompt is cut).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

from rfctl.engine.failure import ApiError
from rfctl.engine.ollama import go_execute, go_template
from rfctl.engine.ollama.backend import Backend
from rfctl.engine.ollama.model import Model

type Message = Mapping[str, Any]


def gather(model: Model, messages: Sequence[Message], system: str = "") -> list[dict[str, Any]]:
    """The conversation: system text (of the request, else of the model), the model's own messages, then
    those of the request. A conversation that begins with a system message keeps that one."""
    found = [dict(item) for item in (*model.messages, *messages)]
    system = system or model.system
    if system and not (messages and messages[0].get("role") == "system"):
        found.insert(0, {"role": "system", "content": system})
    return found


def render_go(
    text: str, messages: Sequence[Message], tools: Sequence[Any] = (), *, think: bool | None = None
) -> str:
    """The prompt of a Go template. Raises ApiError 500 when it cannot be executed."""
    try:
        template = go_template.parse(text)
        if "Messages" in template.names:
            return _render_messages(template, messages, tools, think)
        return _render_turns(template, messages)
    except go_template.TemplateError as error:
        raise ApiError(500, f"template: :1: {error}") from None


def _render_messages(
    template: go_template.Template, messages: Sequence[Message], tools: Sequence[Any], think: bool | None
) -> str:
    collated: list[dict[str, Any]] = []
    for message in messages:
        role, content = message.get("role", ""), message.get("content") or ""
        if collated and collated[-1]["Role"] == role and role != "tool":
            collated[-1]["Content"] += "\n\n" + content
            continue
        collated.append(
            {
                "Role": role,
                "Content": content,
                "Thinking": message.get("thinking") or "",
                "ToolName": message.get("tool_name") or "",
                "ToolCalls": [_tool_call(call) for call in message.get("tool_calls") or []],
                "Images": [],
            }
        )
    return go_execute.execute(
        template,
        {
            "System": "\n\n".join(item["Content"] for item in collated if item["Role"] == "system"),
            "Messages": collated,
            "Tools": list(tools),
            "Response": "",
            "Prompt": "",
            "Suffix": "",
            "Think": bool(think),
            "ThinkLevel": "",
            "IsThinkSet": think is not None,
        },
    )


def _tool_call(call: Mapping[str, Any]) -> dict[str, Any]:
    function = call.get("function") or {}
    return {"Function": {"Name": function.get("name", ""), "Arguments": function.get("arguments", {})}}


def _render_turns(template: go_template.Template, messages: Sequence[Message]) -> str:
    """A template for one turn (`.Prompt`, `.Response`), executed for each turn; the last one ends where the
    response would begin."""
    pieces: list[str] = []
    turn = {"System": "", "Prompt": "", "Response": "", "Suffix": ""}

    def flush() -> None:
        pieces.append(go_execute.execute(whole, turn))
        turn.update(System="", Prompt="", Response="")

    whole = template
    if "Response" not in template.names:
        whole = go_template.Template([*template.nodes, _RESPONSE], template.names)
    for message in messages:
        role, content = message.get("role"), message.get("content") or ""
        if role == "system":
            if turn["Prompt"] or turn["Response"]:
                flush()
            turn["System"] = content
        elif role == "user":
            if turn["Response"]:
                flush()
            turn["Prompt"] = content
        elif role == "assistant":
            turn["Response"] = content
    pieces.append(go_execute.execute(_until_response(whole), turn))
    return "".join(pieces) + turn["Response"]


_RESPONSE = go_template.parse("{{ .Response }}").nodes[0]


def _until_response(template: go_template.Template) -> go_template.Template:
    """The template up to the first use of `.Response`."""

    def cut(nodes: Sequence[go_template.Node]) -> tuple[list[go_template.Node], bool]:
        kept: list[go_template.Node] = []
        for node in nodes:
            if node.pipe and _uses_response(node.pipe):
                return kept, True
            body, in_body = cut(node.body)
            other, in_other = cut(node.other)
            kept.append(go_template.Node(node.kind, node.text, node.pipe, body, other))
            if in_body or in_other:
                return kept, True
        return kept, False

    return go_template.Template(cut(template.nodes)[0], template.names)


def _uses_response(pipe: go_template.Pipe) -> bool:
    return any(
        term.fields == ("Response",)
        or (isinstance(term.value, go_template.Pipe) and _uses_response(term.value))
        for command in pipe.commands
        for term in command
    )


async def render(
    backend: Backend, model: Model, messages: Sequence[Message], extra: Mapping[str, Any]
) -> str:
    """The prompt of a conversation. extra: tools and template arguments of the request."""
    if model.uses_go_template:
        return await asyncio.to_thread(render_go, model.template, messages, extra.get("tools") or ())
    return await backend.apply_template(messages, extra)


async def fit_history(
    backend: Backend, model: Model, messages: Sequence[Message], extra: Mapping[str, Any], num_ctx: int
) -> list[Message]:
    """The messages without the oldest ones that do not fit into `num_ctx` tokens. System messages and the
    last message always stay (then the prompt as a whole may still be too long)."""
    kept = list(messages)
    # A token is at least a byte of the text or a special token: short conversations need no counting.
    if sum(len(str(item.get("content") or "").encode()) + 24 for item in kept) + 256 < num_ctx:
        return kept
    candidates = [index for index, item in enumerate(kept) if item.get("role") != "system"]
    low, high = 0, max(len(candidates) - 1, 0)
    while low < high:
        middle = (low + high) // 2
        dropped = set(candidates[:middle])
        rest = [item for index, item in enumerate(kept) if index not in dropped]
        count = len(await backend.tokenize(await render(backend, model, rest, extra)))
        if count <= num_ctx:
            high = middle
        else:
            low = middle + 1
    dropped = set(candidates[:low])
    return [item for index, item in enumerate(kept) if index not in dropped]


def cut_tokens(tokens: Sequence[int], num_ctx: int, num_keep: int, *, has_bos: bool) -> list[int]:
    """A prompt that is too long: its first `num_keep` tokens (and BOS), then the last half of the rest of the
    window."""
    if len(tokens) < num_ctx:
        return list(tokens)
    keep = min(num_keep + has_bos, num_ctx - 4)
    return [*tokens[:keep], *tokens[len(tokens) - (num_ctx - keep) // 2 :]]
