"""How good retrieval and answers are, measured on questions with known answers.

recall        share of the questions whose passage is among the first k found
mrr           mean of 1/rank of that passage, 0 where it is not among them (mean reciprocal rank)
similarity    mean F1 of the words of the answer and of the expected answer (as SQuAD counts it)
citation      share of the answers that cite the expected passage
groundedness  mean share of the words of a cited sentence that are in the passages it cites
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rfctl.core.error import AuthError, RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ragflow_client.answer import Answer, ask, open_session, remove_session
from rfctl.ragflow_client.chat import Chat
from rfctl.ragflow_client.dataset import Dataset
from rfctl.ragflow_client.failure import Cause, explain
from rfctl.ragflow_client.question_set import Question
from rfctl.ragflow_client.reference import Source
from rfctl.ragflow_client.retrieval import search
from rfctl.ragflow_client.transport import Api

MEASURES = ("recall", "mrr", "similarity", "citation", "groundedness")
# Chinese, Japanese and Korean are counted by the character, everything else by the word.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]|[^\W_\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]+"
)
# A sentence with the marks behind its full stop; [1] within a sentence does not end it.
SENTENCE = re.compile(
    r"[^\n]+?(?:[.!?](?:\s*\[\d{1,3}\])*(?=\s|$)|[\u3002\uff01\uff1f](?:\s*\[\d{1,3}\])*|(?=\n)|$)"
)
_CITATION = re.compile(r"\[(\d{1,3})\]")


@dataclass(frozen=True)
class Result:
    """One question.

    rank   of the expected passage from 1, 0 when it was not found, None where it was not looked for
    error  why the question could not be asked; measures are None where they do not apply
    """

    question: Question
    rank: int | None = None
    answer: str = ""
    similarity: float | None = None
    citation: float | None = None
    groundedness: float | None = None
    sources: tuple[Source, ...] = ()
    seconds: float = 0.0
    error: Cause | None = None

    @property
    def recall(self) -> float | None:
        return None if self.rank is None else float(self.rank > 0)

    @property
    def mrr(self) -> float | None:
        return None if self.rank is None else (1 / self.rank if self.rank else 0.0)


@dataclass(frozen=True)
class Evaluation:
    """All questions.

    measures  the mean of each over the questions to which it applies, None where there are none; a question
              that could not be asked counts as 0 in what was to be measured
    """

    results: tuple[Result, ...]
    limit: int
    measures: dict[str, float | None]

    @property
    def errors(self) -> tuple[Result, ...]:
        return tuple(result for result in self.results if result.error is not None)


def evaluate(
    api: Api,
    questions: Sequence[Question],
    datasets: Sequence[Dataset],
    chat: Chat | None = None,
    *,
    limit: int = 6,
    similarity_threshold: float = 0.2,
    reporter: Reporter = SILENT,
) -> Evaluation:
    """Search `datasets` for every question and, with an assistant, ask it too, each in a session of its own.

    datasets may be empty when only answers are judged. Raises AuthError and what `search` raises for wrong
    options; an error of one question is in its result.
    """
    results = []
    with reporter.stage("eval.stage-ask", total=len(questions), unit="items") as stage:
        for question in questions:
            begin = time.monotonic()
            try:
                result = _measure(api, question, datasets, chat, limit, similarity_threshold)
            except AuthError:
                raise
            except RfctlError as error:
                rank = 0 if datasets and question.expects_passage else None
                result = _fail(question, rank, chat, explain(error))
            results.append(_timed(result, time.monotonic() - begin))
            stage.advance(1)
    measures = {name: _mean(getattr(result, name) for result in results) for name in MEASURES}
    return Evaluation(tuple(results), limit, measures)


def _measure(
    api: Api,
    question: Question,
    datasets: Sequence[Dataset],
    chat: Chat | None,
    limit: int,
    similarity_threshold: float,
) -> Result:
    rank: int | None = None
    sources: tuple[Source, ...] = ()
    cites = question.expects_passage and chat is not None and bool(chat.dataset_ids)
    if datasets and question.expects_passage:
        found = search(
            api, datasets, question.question, limit=limit, similarity_threshold=similarity_threshold
        )
        sources = found.sources
        rank = next((one.number for one in sources if fits(question, one)), 0)
    if chat is None:
        return Result(question, rank, sources=sources)
    try:
        session = open_session(api, chat)
        try:
            answer = ask(api, chat, question.question, session)
        finally:
            remove_session(api, session)
    except AuthError:
        raise
    except RfctlError as error:
        return _fail(question, rank, chat, explain(error), sources)
    return Result(
        question,
        rank,
        answer.text,
        similarity=compare_words(answer.text, question.answer) if question.answer else None,
        citation=float(any(fits(question, one) for one in answer.cited)) if cites else None,
        groundedness=ground(answer),
        sources=answer.sources,
    )


def fits(question: Question, source: Source) -> bool:
    """Whether a passage is the expected one: document, any of the pages, and the text, where given."""
    if question.document and source.document.casefold() != question.document.casefold():
        return False
    if question.pages and not set(question.pages) & set(source.pages):
        return False
    return " ".join(question.text.casefold().split()) in " ".join(source.content.casefold().split())


def words(text: str) -> list[str]:
    """Words in lower case without citation marks; CJK by the character."""
    return [match.casefold() for match in _WORD.findall(_CITATION.sub(" ", text))]


def compare_words(given: str, expected: str) -> float:
    """F1 of the words, 0-1: the harmonic mean of how much is right and how much is there."""
    mine, theirs = Counter(words(given)), Counter(words(expected))
    common = (mine & theirs).total()
    return 2 * common / (mine.total() + theirs.total()) if common else 0.0


def ground(answer: Answer) -> float | None:
    """Mean share of the words of each cited sentence that are in the passages it cites; None without any."""
    contents = {source.number: set(words(source.content)) for source in answer.sources}
    shares = []
    for sentence in SENTENCE.findall(answer.text):
        numbers = {int(number) for number in _CITATION.findall(sentence)} & contents.keys()
        said = words(sentence)
        if numbers and said:
            known = set().union(*(contents[number] for number in numbers))
            shares.append(sum(word in known for word in said) / len(said))
    return _mean(shares)


def _fail(
    question: Question, rank: int | None, chat: Chat | None, error: Cause, sources: tuple[Source, ...] = ()
) -> Result:
    """What could not be answered counts as 0."""
    return Result(
        question,
        rank,
        similarity=0.0 if chat is not None and question.answer else None,
        citation=0.0 if chat is not None and chat.dataset_ids and question.expects_passage else None,
        sources=sources,
        error=error,
    )


def _timed(result: Result, seconds: float) -> Result:
    return Result(**{**vars(result), "seconds": round(seconds, 3)})


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
