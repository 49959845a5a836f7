"""`rfctl chat`: assistants, and questions to them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from rfctl.cli.app import App
from rfctl.cli.command import command
from rfctl.cli.kb import choose, excerpt, pages_text
from rfctl.core.error import UsageError

if TYPE_CHECKING:
    from rfctl.ragflow_client.answer import Answer, Session
    from rfctl.ragflow_client.chat import Chat
    from rfctl.ragflow_client.connection import Ragflow
    from rfctl.ragflow_client.reference import Source

UNCITED_SHOWN = 3


@command("ls")
def ls(app: App) -> None:
    """List the assistants."""
    with app.ragflow() as ragflow:
        chats = ragflow.chats()
        url = ragflow.url
    app.out.records(chats)
    if not chats:
        app.out.note("chat.none", url=url)
        return
    headings = [app.out.text(f"chat.column-{name}") for name in ("name", "model", "kb")]
    app.out.table(headings, [(one.name, one.model, ", ".join(one.dataset_names) or "-") for one in chats])


@command("ask")
@click.argument("words", nargs=-1, required=True, metavar="[CHAT] QUESTION")
@click.option("--stream", is_flag=True)
def ask(app: App, words: tuple[str, ...], stream: bool) -> None:
    """Ask a question and get the answer with numbered sources."""
    if len(words) > 2:
        raise UsageError("chat.too-many-words", count=len(words))
    name = words[0] if len(words) == 2 else None
    begin = time.monotonic()
    with app.ragflow() as ragflow:
        chat = choose_chat(app, ragflow, name)
        answer = answer_aloud(app, ragflow, chat, words[-1], stream=stream)
    app.out.report(
        {
            "chat": chat.name,
            "question": words[-1],
            "answer": answer.text,
            "sources": answer.sources,
            "thought": answer.thought,
            "session_id": answer.session_id,
            "seconds": round(time.monotonic() - begin, 3),
        }
    )
    app.out.line()
    print_sources(app, answer)


def answer_aloud(
    app: App, ragflow: Ragflow, chat: Chat, question: str, session: Session | None = None, *, stream: bool
) -> Answer:
    """Ask and show thought and answer: as they come, or with their citations once they are complete."""
    if stream and app.out.is_human:
        thinking = False

        def think(piece: str) -> None:
            nonlocal thinking
            thinking = True
            app.out.thought(piece, end="")

        def show(piece: str) -> None:
            nonlocal thinking
            if thinking:
                app.out.thought("")
                thinking = False
            app.out.piece(piece)

        answer = ragflow.ask_stream(chat, question, show, session, think=think)
        app.out.line()
        return answer
    with app.reporter().stage("chat.stage-ask", unit="seconds", name=chat.name):
        answer = ragflow.ask(chat, question, session)
    if answer.thought:
        app.out.thought(answer.thought)
    app.out.line(answer.text)
    return answer


@command("rm")
@click.argument("name")
@click.option("--yes", is_flag=True)
def rm(app: App, name: str, yes: bool) -> None:
    """Remove an assistant with its conversations."""
    from rfctl.cli.consent import confirm

    with app.ragflow() as ragflow:
        chat = ragflow.chat(name)
        confirm(app, app.out.text("chat.rm-action", name=chat.name, url=ragflow.url), yes=yes)
        ragflow.remove_chat(chat)
    app.out.result({"name": chat.name, "removed": True})
    app.out.say("chat.removed", name=chat.name)


def print_sources(app: App, answer: Answer) -> None:
    """The numbered sources of an answer, then the best other passages that the model was given."""
    others = [source for source in answer.sources if not source.cited][:UNCITED_SHOWN]
    if not answer.sources:
        app.out.say("chat.no-sources")
        return
    if answer.cited:
        app.out.say("chat.sources")
        _print_passages(app, answer.cited)
    if others:
        app.out.say("chat.sources-other" if answer.cited else "chat.sources-uncited")
        _print_passages(app, others)


def _print_passages(app: App, sources: Sequence[Source]) -> None:
    for source in sources:
        place = ", ".join(part for part in (source.document, pages_text(app, source.pages)) if part)
        app.out.line(f"  [{source.number}] {place}  ({source.similarity:.2f})")
        app.out.line(f"      {excerpt(source.content, 90)}")


def pick_chat(app: App, ragflow: Ragflow, name: str | None, *, usage: str = "ask NAME QUESTION") -> Chat:
    """The assistant that is meant: the named one, the default, or the only one. Raises UsageError.

    usage: the verb with its arguments, for who must name one.
    """
    wanted = name or app.settings.get("chat.default")
    if wanted:
        return ragflow.chat(wanted)
    chats = ragflow.chats()
    if len(chats) == 1:
        return chats[0]
    if chats:
        raise UsageError("chat.not-chosen", known=", ".join(one.name for one in chats), usage=usage)
    raise UsageError("chat.none-yet", url=ragflow.url)


def choose_chat(app: App, ragflow: Ragflow, name: str | None, *, usage: str = "ask NAME QUESTION") -> Chat:
    """Like `pick_chat`; where there is none at all, one is made for the only knowledge base."""
    from rfctl.ragflow_client.chat_option import ChatOptions

    if name or app.settings.get("chat.default") or ragflow.chats():
        return pick_chat(app, ragflow, name, usage=usage)
    dataset = choose(app, ragflow, None)
    options = ChatOptions(empty_response=app.out.text("chat.empty-response"))
    chat, _ = ragflow.create_chat(dataset.name, [dataset], options=options)
    app.out.note("chat.made", name=chat.name, kb=dataset.name)
    return chat
