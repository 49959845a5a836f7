"""Proof for a model that a server has: is the prompt that it makes the one the model was trained on?

Up to three prompts are compared over a corpus of conversations: (a) of the training run, (b) of the model's
own chat template rendered here, (c) of the server. Where a server cannot show its prompts the number of their
tokens is compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rfctl.core.error import RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.answer import ModelCard, ModelEntry, Version
from rfctl.ollama.candidate import Candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.embedding import judge_embedding
from rfctl.ollama.family import recognise_family
from rfctl.ollama.fill import check_fill
from rfctl.ollama.ledger import Entry, Ledger
from rfctl.ollama.proof import (
    Check,
    Verdict,
    check_answer,
    check_capability,
    check_embedding,
    corpus,
    describe_difference,
    explain_error,
    tool_conversation,
)
from rfctl.ollama.served import find_candidate
from rfctl.ollama.stop import derive_stops
from rfctl.ollama.template import Message, TemplateError, render_isolated
from rfctl.ollama.training import TrainingTemplate

TEMPLATE_CHECKS = frozenset(
    ("ollama.check-prompt-differs", "verify.prompt-differs", "verify.tools-differ", "verify.training-differs")
)
_DIFF_LINES = 40


@dataclass(frozen=True)
class Difference:
    """Two prompts of one conversation that should be equal. expected: "template" or "training" (what `own`
    is); diff: `-` lines are the expected ones, `+` the served ones."""

    conversation: str
    expected: str
    own: str
    served: str
    diff: str


@dataclass(frozen=True)
class Verification:
    """digest: of the manifest, as /api/tags says it; source: where the chat template was read ("file",
    "store", "server" or ""); accepted: why a difference is accepted, or ""."""

    name: str
    digest: str
    server_version: str
    source: str
    trained_with: str
    checks: tuple[Check, ...]
    differences: tuple[Difference, ...]
    accepted: str

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        for verdict in (Verdict.FAILED, Verdict.UNKNOWN, Verdict.WARNED):
            if any(check.verdict is verdict for check in self.checks):
                return verdict
        return Verdict.PASSED


def verify_model(
    client: OllamaClient,
    name: str,
    *,
    gguf: Path | None = None,
    training: TrainingTemplate | None = None,
    ledger_path: Path | None = None,
    accept: str = "",
    fill: bool = False,
    reporter: Reporter = SILENT,
) -> Verification:
    """Check a model of the server; nothing is changed there.

    gguf: the file to take the chat template from (default: the server's own file where it can be read here,
    else what the server tells). accept: reason to accept a differing prompt, kept in the ledger for as long
    as the model stays the same. fill: also send a prompt as long as the context. Raises RfctlError
    `ollama.model-missing`, UnreachableError, GgufError.
    """
    entry = client.get(name)
    name = entry.name
    version, card = client.version(), client.show(name)
    candidate, source = find_candidate(client, name, card, gguf)
    differences: tuple[Difference, ...] = ()
    with reporter.stage("ollama.stage-verify", unit="items", model=entry.name):
        if candidate.is_embedding:
            checks = (*check_embedding(client, name, candidate, card), *judge_embedding(candidate))
        else:
            proof = _Proof(client, name, candidate, card, version, training)
            checks = proof.run()
            if fill:
                checks = (*checks, check_fill(client, name, candidate, card))
            differences = tuple(proof.differences)
    ledger = Ledger(ledger_path, reporter)
    known = ledger.find(client.url, entry.name)
    remembered = known.accepted if known is not None and known.manifest == entry.digest else ""
    reason = accept or remembered
    if not any(check.id in TEMPLATE_CHECKS and check.verdict is Verdict.FAILED for check in checks):
        reason = ""
    elif accept:
        record_acceptance(ledger, client.url, entry, accept)
    return Verification(
        name=entry.name,
        digest=entry.digest,
        server_version=version.text,
        source=source,
        trained_with=training.name if training is not None else "",
        checks=accept_differences(checks, reason) if reason else checks,
        differences=differences,
        accepted=reason,
    )


def accept_differences(checks: Sequence[Check], reason: str) -> tuple[Check, ...]:
    """The checks with failed prompt comparisons turned into warnings, and the reason behind them."""
    changed = tuple(
        replace(check, verdict=Verdict.WARNED)
        if check.id in TEMPLATE_CHECKS and check.verdict is Verdict.FAILED
        else check
        for check in checks
    )
    return (*changed, Check("verify.accepted", Verdict.WARNED, {"reason": reason}))


def record_acceptance(ledger: Ledger, url: str, entry: ModelEntry, reason: str) -> None:
    """Remember the reason beside what is known of the model."""
    known = ledger.find(url, entry.name)
    if known is None or known.manifest != entry.digest:
        known = Entry(source="", settings="", manifest=entry.digest, size=entry.size)
    ledger.record(url, entry.name, replace(known, accepted=reason))


class _Proof:
    """The comparisons for one chat model."""

    def __init__(
        self,
        client: OllamaClient,
        name: str,
        candidate: Candidate,
        card: ModelCard,
        version: Version,
        training: TrainingTemplate | None,
    ) -> None:
        self.client, self.name, self.candidate, self.card = client, name, candidate, card
        self.version, self.training = version, training
        self.preset: list[Message] = list(card.messages)
        if card.system:
            self.preset.insert(0, {"role": "system", "content": card.system})
        self.conversations = {
            key: messages
            for key, messages in corpus().items()
            if not self.preset or all(message["role"] != "system" for message in messages)
        }
        self.differences: list[Difference] = []

    def run(self) -> tuple[Check, ...]:
        checks = [check_capability(self.card, "completion")]
        own = self._render_own()
        if isinstance(own, Check):
            checks.append(own)
            own = {}
        try:
            checks += self._compare(own)
        except RfctlError as error:
            params = {"detail": explain_error(error)}
            checks.append(Check("ollama.check-prompt-broken", Verdict.FAILED, params))
        checks += [self._check_end(), *check_answer(self.client, self.name, self.candidate, self.card)]
        return tuple(checks)

    def _render_own(self) -> dict[str, str] | Check:
        """(b): prompts of the model's own template; conversations that it refuses are left out."""
        if not self.candidate.template.text:
            return Check("ollama.check-prompt-no-template", Verdict.WARNED)
        whole = [[*self.preset, *messages] for messages in self.conversations.values()]
        try:
            results = render_isolated(self.candidate.template, whole)
        except TemplateError as error:
            return Check("ollama.check-prompt-broken", Verdict.FAILED, {"detail": error.reason})
        prompts = {
            key: result
            for key, result in zip(self.conversations, results, strict=True)
            if isinstance(result, str)
        }
        if not prompts:
            detail = next(str(result) for result in results)
            return Check("ollama.check-prompt-broken", Verdict.FAILED, {"detail": detail})
        return prompts

    def _compare(self, own: Mapping[str, str]) -> list[Check]:
        trained = self._render_training()
        if not self.version.shows_prompt:
            checks = [self._compare_counts(own)] if own else []
            if trained and own:
                checks.append(self._compare_prompts("training", trained, own))
            return checks
        served: dict[str, str] = {}
        for key in dict.fromkeys((*own, *trained)):
            text = self.client.render(self.name, self.conversations[key])
            if text is None:
                params = {"version": self.version.text}
                return [Check("ollama.check-prompt-unknown", Verdict.UNKNOWN, params)]
            served[key] = text
        checks = [self._compare_prompts("template", own, served)] if own else []
        if own and "tools" in self.candidate.template.text:
            checks.append(self._compare_tools())
        if trained:
            checks.append(self._compare_prompts("training", trained, served))
        return checks

    def _render_training(self) -> dict[str, str]:
        """(a): without conversations that hold reasoning, which a training run cuts out of the history."""
        if self.training is None:
            return {}
        template = self.candidate.template
        return {
            key: self.training.render(
                [*self.preset, *messages], bos=template.bos_token, eos=template.eos_token
            )
            for key, messages in self.conversations.items()
            if self.training.knows([*self.preset, *messages])
            and not any("</think>" in message["content"] for message in messages)
        }

    def _compare_prompts(self, kind: str, own: Mapping[str, str], served: Mapping[str, str]) -> Check:
        found = [
            self._differ(key, kind, own[key], served[key])
            for key in own
            if key in served and not self._is_same(own[key], served[key])
        ]
        self.differences += found
        if not found:
            count = len(own.keys() & served.keys())
            id = "ollama.check-prompt" if kind == "template" else "verify.training"
            return Check(id, Verdict.PASSED, {"count": count, "name": self._training_name})
        params = {
            "conversations": ", ".join(item.conversation for item in found),
            "diff": found[0].diff,
            "name": self._training_name,
        }
        id = "verify.prompt-differs" if kind == "template" else "verify.training-differs"
        return Check(id, Verdict.FAILED, params)

    @property
    def _training_name(self) -> str:
        return self.training.name if self.training is not None else ""

    def _compare_tools(self) -> Check:
        messages, tools = tool_conversation()
        whole = [*self.preset, *messages]
        try:
            (own,) = render_isolated(self.candidate.template, [whole], tools=tools)
        except TemplateError as error:
            own = error
        if isinstance(own, TemplateError):
            return Check("verify.tools-unknown", Verdict.UNKNOWN, {"detail": own.reason})
        try:
            served = self.client.render(self.name, messages, tools)
        except RfctlError as error:
            return Check("verify.tools-unknown", Verdict.UNKNOWN, {"detail": explain_error(error)})
        if served is None or self._is_same(own, served):
            return Check("verify.tools", Verdict.PASSED)
        difference = self._differ("tools", "template", own, served)
        self.differences.append(difference)
        return Check("verify.tools-differ", Verdict.FAILED, {"diff": difference.diff})

    def _compare_counts(self, own: Mapping[str, str]) -> Check:
        """For servers before 0.11.5: tokens of the served prompt against tokens of our own, sent raw."""
        compared = 0
        for key, text in own.items():
            bos = self.candidate.template.bos_token
            raw = text.removeprefix(bos) if self.candidate.adds_bos else text
            wanted = self.client.generate(self.name, raw, raw=True, num_predict=1).prompt_tokens
            found = self.client.chat(self.name, self.conversations[key], num_predict=1).prompt_tokens
            if not wanted or not found:  # a prompt that is still in the cache is counted as 0
                continue
            compared += 1
            if wanted != found:
                params = {"conversation": key, "wanted": wanted, "found": found}
                return Check("verify.counts-differ", Verdict.FAILED, params)
        if not compared:
            return Check("ollama.check-prompt-unknown", Verdict.UNKNOWN, {"version": self.version.text})
        return Check("verify.counts", Verdict.PASSED, {"count": compared})

    def _check_end(self) -> Check:
        """The last token of an assistant turn must be the GGUF's EOS or EOT, or a stop of the model."""
        stops = derive_stops(self.candidate, recognise_family(self.candidate.template.text))
        if not stops.end:
            return Check("verify.end-unknown", Verdict.UNKNOWN)
        params = {"end": stops.end}
        given = self.card.parameters.get("stop", ())
        texts = given if isinstance(given, list | tuple) else ()
        if stops.ends_itself or any(stops.end.startswith(str(text)) for text in texts if text):
            return Check("ollama.check-end", Verdict.PASSED, params)
        if stops.unreachable:
            return Check("ollama.check-end-unreachable", Verdict.FAILED, params)
        return Check("verify.end-missing", Verdict.FAILED, params)

    def _is_same(self, own: str, served: str) -> bool:
        """Equal, but for the one BOS that the tokenizer adds itself and the server therefore removes."""
        if own == served:
            return True
        bos = self.candidate.template.bos_token
        return bool(bos) and self.candidate.adds_bos and own.removeprefix(bos) == served.removeprefix(bos)

    @staticmethod
    def _differ(key: str, kind: str, own: str, served: str) -> Difference:
        diff = describe_difference(own, served, names=(kind, "served"), limit=_DIFF_LINES)
        return Difference(key, kind, own, served, diff)
