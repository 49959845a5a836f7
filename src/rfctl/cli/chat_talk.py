"""`rfctl chat talk`: a conversation with an assistant, line by line."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from rfctl.cli.app import App
from rfctl.cli.chat import answer_aloud, choose_chat, print_sources
from rfctl.cli.command import command
from rfctl.core.error import AuthError, RfctlError

if TYPE_CHECKING:
    from rfctl.ragflow_client.answer import Answer, Session
    from rfctl.ragflow_client.chat import Chat
    from rfctl.ragflow_client.connection import Ragflow

PROMPT = "> "


@command("talk")
@click.argument("chat", required=False)
@click.option("--session", "session_id", metavar="ID", default="")
@click.option("--stream", is_flag=True)
def talk(app: App, chat: str | None, session_id: str, stream: bool) -> None:
    """Talk with an assistant; each answer is followed by its sources. /help lists what else it knows."""
    with app.ragflow() as ragflow:
        chosen = choose_chat(app, ragflow, chat, usage="talk NAME")
        session = ragflow.find_session(chosen, session_id) if session_id else ragflow.open_session(chosen)
        conversation = _Conversation(app, ragflow, chosen, session, stream)
        app.out.note("chat.talk-begin", name=chosen.name)
        if session_id:
            conversation.show_history()
        conversation.run()
    app.out.report({"chat": chosen.name, "session_id": conversation.session.id, "turns": conversation.turns})
    app.out.note("chat.talk-end", name=chosen.name, id=conversation.session.id)
    if conversation.failure is not None and not sys.stdin.isatty():
        raise conversation.failure


class _Conversation:
    """turns: every question with its answer. failure: the last error of a question."""

    def __init__(self, app: App, ragflow: Ragflow, chat: Chat, session: Session, stream: bool) -> None:
        self._app = app
        self._ragflow = ragflow
        self._chat = chat
        self._stream = stream
        self.session = session
        self.turns: list[dict[str, Any]] = []
        self.failure: RfctlError | None = None

    def run(self) -> None:
        """Until /quit or the end of the input. Ctrl-C ends an answer, a second one the conversation."""
        while (line := _read_line()) is not None:
            word = line.strip()
            if word in ("/quit", "/exit"):
                return
            if not word:
                continue
            if word.startswith("/"):
                self._obey(word)
                continue
            try:
                self._ask(word)
            except AuthError:
                raise
            except RfctlError as error:
                self.failure = error
                self._app.out.error(error)
            except KeyboardInterrupt:
                if not sys.stdin.isatty():
                    raise
                self._app.out.note("chat.talk-stopped")

    def show_history(self) -> None:
        """What was said in this session, as the server has it."""
        for message in self._ragflow.messages(self.session):
            lead = PROMPT if message.role == "user" else ""
            self._app.out.line(f"{lead}{message.text}")

    def _ask(self, question: str) -> None:
        begin = time.monotonic()
        app = self._app
        answer = answer_aloud(app, self._ragflow, self._chat, question, self.session, stream=self._stream)
        self._keep(question, answer, time.monotonic() - begin)
        print_sources(app, answer)
        app.out.line()

    def _keep(self, question: str, answer: Answer, seconds: float) -> None:
        self.turns.append(
            {
                "question": question,
                "answer": answer.text,
                "thought": answer.thought,
                "sources": answer.sources,
                "seconds": round(seconds, 3),
            }
        )

    def _obey(self, word: str) -> None:
        match word:
            case "/history":
                self.show_history()
            case "/new":
                self.session = self._ragflow.open_session(self._chat)
                self._app.out.note("chat.talk-new")
            case "/help":
                self._app.out.say("chat.talk-help")
            case _:
                self._app.out.warn("chat.talk-unknown", word=word)


def _read_line() -> str | None:
    """The next line, None at the end; the prompt is shown to people only."""
    if sys.stdin.isatty():
        try:
            return str(click.prompt("", prompt_suffix=PROMPT, default="", show_default=False, err=True))
        except (click.Abort, EOFError):
            return None
    return sys.stdin.readline() or None
