"""A question on its way: asked in a thread, so that the page stays alive while the model is silent."""

from __future__ import annotations

import threading
from dataclasses import dataclass

from rfctl.core.error import RfctlError
from rfctl.ragflow_client.answer import Session
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.connection import Ragflow
from rfctl.ragflow_client.reference import Source
from rfctl.web.citing import cite_by_words


@dataclass(frozen=True)
class Turn:
    """A question with what came of it. question: "" for the words with which an assistant begins.

    error: why there is no answer. is_stopped: the user ended it, text is what had come until then.
    is_matched: the citations are found by the wording, neither the model's nor the server's.
    """

    question: str
    text: str = ""
    thought: str = ""
    sources: tuple[Source, ...] = ()
    error: RfctlError | None = None
    is_stopped: bool = False
    is_matched: bool = False


def make_turn(question: str, text: str, thought: str, sources: tuple[Source, ...]) -> Turn:
    """A finished turn; an answer without citations gets those that its wording tells."""
    if not sources or any(source.cited for source in sources):
        return Turn(question, text, thought, sources)
    cited, numbered = cite_by_words(text, sources)
    return Turn(question, cited, thought, numbered, is_matched=cited != text)


class _StopError(Exception):
    """Raised in the thread out of the callback, which ends the stream and its connection."""


class Asking:
    """One question. text and thought grow; `turn` is there at the end."""

    def __init__(self, ragflow: Ragflow, chat: Chat, question: str, session: Session) -> None:
        self.chat = chat
        self.question = question
        self.session = session
        self.text = ""
        self.thought = ""
        self._ragflow = ragflow
        self._turn: Turn | None = None
        self._failure: BaseException | None = None
        self._is_stopped = threading.Event()
        self._news = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def turn(self) -> Turn | None:
        """The finished turn, None while there may be more. Raises what is a bug in the thread."""
        if self._failure is not None:
            raise self._failure
        return self._turn

    def await_news(self, seconds: float) -> bool:
        """Wait until something came, at most `seconds`; whether it did."""
        came = self._news.wait(seconds)
        self._news.clear()
        return came

    def await_pause(self, seconds: float) -> None:
        """Let pieces gather for `seconds`, or until the answer is complete."""
        self._thread.join(seconds)

    def stop(self) -> Turn:
        """End it here; what has come is the answer. The thread follows with the next piece of the server."""
        self._is_stopped.set()
        if self._turn is None:
            self._turn = Turn(self.question, self.text, self.thought, is_stopped=True)
        return self._turn

    def _run(self) -> None:
        try:
            answer = self._ragflow.ask_stream(
                self.chat, self.question, self._show, self.session, think=self._think
            )
            turn = make_turn(self.question, answer.text, answer.thought, answer.sources)
        except _StopError:
            return
        except RfctlError as error:
            turn = Turn(self.question, self.text, self.thought, error=error)
        except BaseException as error:
            # Handed to the thread of the page, where a bug is seen.
            self._failure = error
            return
        finally:
            self._news.set()
        if not self._is_stopped.is_set():
            self._turn = turn
            self._news.set()

    def _show(self, piece: str) -> None:
        self.text += piece
        self._tell()

    def _think(self, piece: str) -> None:
        self.thought += piece
        self._tell()

    def _tell(self) -> None:
        if self._is_stopped.is_set():
            raise _StopError
        self._news.set()
