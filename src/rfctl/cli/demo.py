"""`rfctl demo`: the whole way on real input, from a Hugging Face model and a PDF to answers with sources."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.output import human_bytes
from rfctl.core.catalog import quote_path
from rfctl.core.data import data_folder
from rfctl.core.error import RfctlError

if TYPE_CHECKING:
    from rfctl.ollama.push import Push
    from rfctl.ragflow_client.answer import Answer
    from rfctl.ragflow_client.upload import UploadItem

CHAT, EMBEDDING = "rfctl-demo-chat", "rfctl-demo-embedding"
KNOWLEDGE_BASE, ASSISTANT = "rfctl-demo", "rfctl-demo"
QUESTIONS = (
    "How many tokens long is the context without the option num-ctx?",
    "How many megabytes do the two packages of the demo have together?",
)
# A small model keeps to what it was given when it is given little: short chunks, two of them, and an end.
CHUNK_TOKENS = 64
TOP_N = 2
PARAMETERS = {"num_predict": 96, "temperature": 0.0}


@dataclass(frozen=True)
class Step:
    """One finished step: catalog id of its name, what came out, seconds."""

    id: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Turn:
    """A question, its answer with sources, seconds."""

    question: str
    answer: Answer
    seconds: float


@dataclass(frozen=True)
class Names:
    """What the demo makes on the server. Input of the user's own gets names of its own."""

    chat: str = CHAT
    embedding: str = EMBEDDING
    knowledge_base: str = KNOWLEDGE_BASE
    assistant: str = ASSISTANT


class _Steps:
    """Runs steps, prints each as it ends, and keeps them for the report."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.done: list[Step] = []

    def add(self, id: str, detail: str, started: float) -> None:
        step = Step(id, detail, round(time.monotonic() - started, 2))
        self.done.append(step)
        out = self.app.out
        out.line(f"{step.seconds:7.1f} s  {out.text(id)}: {detail}")


@command("demo")
@click.option("--model", metavar="DIR|GGUF", type=click.Path(exists=True, path_type=Path))
@click.option("--embedding-model", metavar="DIR|GGUF", type=click.Path(exists=True, path_type=Path))
@click.option("--pdf", metavar="FILE", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--question", "questions", metavar="TEXT", multiple=True)
def demo(
    app: App,
    model: Path | None,
    embedding_model: Path | None,
    pdf: Path | None,
    questions: tuple[str, ...],
) -> None:
    """It downloads about 180 MB of models once, unless --model and --embedding-model name your own."""
    from rfctl.stack.sample import fetch

    began = started = time.monotonic()
    steps = _Steps(app)
    names = _choose_names(model, embedding_model, pdf)
    cache, reporter = app.directories.cache, app.reporter()
    chat_source = model or fetch("smollm2", cache, reporter=reporter)
    embedding_source = embedding_model or fetch("minilm", cache, reporter=reporter)
    document = pdf or data_folder("docs") / "manual.pdf"
    steps.add("demo.step-fetch", f"{chat_source.name}, {embedding_source.name}", started)

    _check(steps, [source for source in (chat_source, embedding_source) if source.is_dir()])
    chat = _push(steps, chat_source, names.chat, "q8_0", {} if model else PARAMETERS)
    embedding = _push(steps, embedding_source, names.embedding, "f16", {})
    item, turns = _talk(steps, names, chat, embedding, document, questions or QUESTIONS)

    seconds = round(time.monotonic() - began, 2)
    app.out.report(
        {
            "steps": steps.done,
            "chat_model": chat.name,
            "embedding_model": embedding.name,
            "knowledge_base": names.knowledge_base,
            "assistant": names.assistant,
            "document": item,
            "turns": turns,
            "small_model": model is None,
            "seconds": seconds,
        }
    )
    _print_end(app, names, seconds, is_small=model is None)


def _choose_names(model: Path | None, embedding_model: Path | None, pdf: Path | None) -> Names:
    """Own input must not meet what an earlier run made from other input under the same name."""
    from rfctl.cli.model_push import default_name

    names = Names()
    parts = []
    if model is not None:
        names = replace(names, chat=f"rfctl-demo-{default_name(model)}")
        parts.append(default_name(model))
    if embedding_model is not None:
        names = replace(names, embedding=f"rfctl-demo-{default_name(embedding_model)}")
    if embedding_model is not None or pdf is not None:
        label = "-".join(default_name(path) for path in (embedding_model, pdf) if path is not None)
        names = replace(names, knowledge_base=f"{KNOWLEDGE_BASE}-{label}")
        parts.append(label)
    return replace(names, assistant="-".join([ASSISTANT, *parts]))


def _check(steps: _Steps, sources: list[Path]) -> None:
    from rfctl.converter.check import check
    from rfctl.core.error import VerdictError

    started = time.monotonic()
    verdicts = []
    for source in sources:
        report = check(source)
        if not report.will_work:
            count = len(report.errors)
            raise VerdictError("demo.not-usable", model=source.name, count=count, path=source)
        verdicts.append(f"{source.name} ({report.architecture} -> {report.gguf_architecture})")
    if verdicts:
        steps.add("demo.step-check", ", ".join(verdicts), started)


def _push(steps: _Steps, source: Path, name: str, outtype: str, parameters: Mapping[str, object]) -> Push:
    from rfctl.cli.model_push import push_source
    from rfctl.ollama.recipe import Wishes

    started = time.monotonic()
    with steps.app.ollama() as client:
        quantize = outtype if source.is_dir() else None
        wishes = Wishes(parameters=parameters)
        pushed = push_source(steps.app, client, source, name, wishes, quantize=quantize)
    size = f"{human_bytes(pushed.size)}, num_ctx {pushed.num_ctx}"
    verb = "demo.step-push" if pushed.unchanged else "demo.step-convert"
    steps.add(verb, f"{pushed.name} ({size})", started)
    return pushed


def _talk(
    steps: _Steps, names: Names, chat: Push, embedding: Push, document: Path, questions: tuple[str, ...]
) -> tuple[UploadItem, list[Turn]]:
    from rfctl.ragflow_client.chat_option import ChatOptions
    from rfctl.ragflow_client.dataset import ParserOptions
    from rfctl.ragflow_client.provider import ModelSpec

    app, started = steps.app, time.monotonic()
    reporter = app.reporter()
    endpoints = app.endpoints()
    turns: list[Turn] = []
    with app.ragflow() as ragflow:
        ragflow.ensure_models(
            ollama_url=endpoints.ollama_url,
            chat=ModelSpec(chat.name, chat.num_ctx),
            embedding=ModelSpec(embedding.name, embedding.num_ctx),
            reporter=reporter,
        )
        steps.add("demo.step-connect", f"{endpoints.ragflow_url} ({ragflow.server.text})", started)

        started = time.monotonic()
        parser = ParserOptions(chunk_tokens=CHUNK_TOKENS)
        dataset, _ = ragflow.create_dataset(
            names.knowledge_base, embedding_model=embedding.name, options=parser
        )
        report = ragflow.upload(dataset, [document], replace=True, reporter=reporter)
        report.check()
        item = report.items[0]
        detail = app.out.text("demo.chunks", document=item.name, pages=item.pages, chunks=item.chunks)
        steps.add("demo.step-upload", f"{dataset.name} ({detail})", started)

        started = time.monotonic()
        dataset = ragflow.dataset(dataset.name)
        options = ChatOptions(top_n=TOP_N, temperature=PARAMETERS["temperature"])
        assistant, _ = ragflow.create_chat(names.assistant, [dataset], model=chat.name, options=options)
        steps.add("demo.step-chat", assistant.name, started)

        for question in questions:
            started = time.monotonic()
            session = ragflow.open_session(assistant)
            answer = ragflow.ask(assistant, question, session)
            turns.append(Turn(question, answer, round(time.monotonic() - started, 2)))
            _print_turn(app, turns[-1])
            if not answer.sources:
                raise RfctlError("demo.no-source", question=question, path=document)
    return item, turns


def _print_turn(app: App, turn: Turn) -> None:
    from rfctl.cli.chat import print_sources

    app.out.line()
    app.out.say("demo.question", question=turn.question)
    app.out.say("demo.answer", answer=turn.answer.text.strip())
    print_sources(app, turn.answer)
    app.out.line(f"{turn.seconds:7.1f} s")


def _find_activation() -> str:
    """The command after which a shell finds `rfctl`; "" where it does already, or there is no such command.

    `make demo` calls it by its path, and `uv run` puts it on the path of its own child only.
    """
    if shutil.which("rfctl") and "UV_RUN_RECURSION_DEPTH" not in os.environ:
        return ""
    folder = Path(sys.prefix) / ("Scripts" if os.name == "nt" else "bin")
    script = folder / ("Activate.ps1" if os.name == "nt" else "activate")
    if not script.is_file():
        return ""
    return quote_path(script) if os.name == "nt" else f". {quote_path(script)}"


def _print_end(app: App, names: Names, seconds: float, *, is_small: bool) -> None:
    out = app.out
    out.line()
    if is_small:
        out.say("demo.small-model")
        out.line()
    out.say("demo.next")
    for text, id in (
        (f"rfctl kb upload manual.pdf --kb {names.knowledge_base}", "demo.next-upload"),
        (f'rfctl chat ask {names.assistant} "..."', "demo.next-ask"),
        ("rfctl model check DIR", "demo.next-model"),
        ("rfctl model push DIR NAME", "demo.next-push"),
        ("rfctl engine stop", "demo.next-stop"),
    ):
        out.line(f"  {text.ljust(52)}  {out.text(id)}")
    if hint := _find_activation():
        out.say("demo.not-on-path", command=hint)
    out.line()
    out.say("demo.total", seconds=seconds)
