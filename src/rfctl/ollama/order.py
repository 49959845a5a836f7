"""One push on its way: what is decided before the bytes, and what follows them."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.core.machine import read_machine
from rfctl.core.progress import Reporter
from rfctl.ollama.answer import ModelCard
from rfctl.ollama.blob import Content
from rfctl.ollama.candidate import Candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.context import Context
from rfctl.ollama.creation import create_model
from rfctl.ollama.direct import Direct, place_file, register
from rfctl.ollama.embedding import demand_pooling, judge_embedding
from rfctl.ollama.ledger import Entry, Ledger
from rfctl.ollama.name import parse_name
from rfctl.ollama.probe import Support, make_probe, probe
from rfctl.ollama.proof import Check, Verdict, check_chat, check_embedding
from rfctl.ollama.recipe import Wishes, decide


@dataclass(frozen=True)
class Push:
    """A finished push.

    digest: hex sha256 of the manifest, as /api/tags says it; source_digest: `sha256:<hex>` of the uploaded
    bytes; size and uploaded in bytes; orphan_bytes: what a server that rewrites the file keeps beside its own
    copy; padded: a comment was appended to the chat template in the uploaded bytes; unchanged: nothing had to
    be done (checks are then those of the first time); family: the prompt format that was recognised, or "".
    via: how the bytes came there: "http", "reflink", "link", "present" (they were there), or "".
    """

    name: str
    digest: str
    source_digest: str
    size: int
    uploaded: int
    unchanged: bool
    checks: tuple[Check, ...]
    context: Context
    stops: tuple[str, ...]
    family: str
    architecture: str
    is_embedding: bool
    orphan_bytes: int
    padded: bool
    seconds: float
    server_version: str
    via: str = "http"

    @property
    def num_ctx(self) -> int:
        """Tokens; `context` says why."""
        return self.context.num_ctx

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        for verdict in (Verdict.FAILED, Verdict.UNKNOWN, Verdict.WARNED):
            if any(check.verdict is verdict for check in self.checks):
                return verdict
        return Verdict.PASSED if self.checks else Verdict.UNKNOWN


class Order:
    """One push on its way: what is decided before the bytes, and what follows them."""

    def __init__(
        self,
        client: OllamaClient,
        candidate: Candidate,
        name: str,
        wishes: Wishes,
        ledger: Ledger,
        verify: bool,
        reporter: Reporter,
    ) -> None:
        self.started = time.monotonic()
        self.client, self.candidate, self.ledger = client, candidate, ledger
        self.verify, self.reporter = verify, reporter
        self.provenance: Mapping[str, str] = {}
        self.name = str(parse_name(name))
        demand_pooling(candidate)
        self.version = client.version()
        # A server on loopback shares this machine's memory.
        machine = read_machine() if client.is_loopback else None
        self.recipe = decide(candidate, wishes, self.version, reporter, machine=machine)

    def keep_template(self) -> None:
        """Only a create request makes the server guess a template, which the padding is against."""
        self.recipe = replace(self.recipe, padded=False)

    @property
    def variant(self) -> str:
        return "padded" if self.recipe.padded else "as-is"

    def find_unchanged(self, source: str) -> Entry | None:
        """The ledger's entry when the server still has exactly what was pushed from the same bytes."""
        known = self.ledger.find(self.client.url, self.name)
        if known is None or known.source != source or known.settings != self.recipe.settings:
            return None
        present = self.client.find(self.name)
        if present is None or present.digest != known.manifest:
            return None
        return known if known.verified or not self.verify else None

    def create(self, file_name: str, source: str, size: int, uploaded: int) -> Push:
        body = {"model": self.name, "files": {file_name: source}, **self.recipe.body}
        try:
            statuses = create_model(self.client, body, self.reporter)
        except RfctlError as error:
            # The server does not say why it refuses a file; a probe of a few kilobytes finds out.
            if error.id == "ollama.gguf-refused" and self.candidate.size > self.candidate.data_offset:
                found = probe(self.client, self.candidate.path)
                if found.cause is not None:
                    raise found.cause from error
            raise
        present = self.client.find(self.name)
        if present is None:
            raise RfctlError("ollama.create-vanished", model=self.name, url=self.client.url)
        return self._conclude(present.digest, statuses, source, size, uploaded, "http")

    def demand_support(self) -> None:
        """Ask a foreign server by a probe whether it can load the model, unless this version said so before.

        Raises VerdictError with the cause when it cannot; a server that does not say is trusted.
        """
        if self.version.is_embedded:
            return
        key = f"{self.version.text} {hashlib.sha256(make_probe(self.candidate.path)).hexdigest()}"
        if self.version.release is not None and self.ledger.is_supported(key):
            return
        with self.reporter.stage("ollama.stage-probe", unit="seconds", model=self.name):
            found = probe(self.client, self.candidate.path)
        if found.cause is not None:
            raise found.cause
        if found.answer is Support.SUPPORTED and self.version.release is not None:
            self.ledger.record_support(key)

    def register(self, direct: Direct, gguf: Path | None, source: str, size: int) -> Push:
        """Put the file (None: its blob is there) into the server's own store, which sees it at once."""
        # Nothing validates a model that is registered this way.
        self.demand_support()
        replaced = direct.store.read(parse_name(self.name)) is not None
        try:
            via = "present"
            if gguf is not None:
                via = place_file(direct, gguf, source)
            digest = register(direct, self.name, source, self.candidate.path, self.recipe.body)
            if gguf is not None:
                # A link shares its time stamp with the file, which therefore has a new one.
                self.ledger.record_digest(gguf, self.variant, source)
        except OSError as error:
            raise RfctlError(
                "direct.write-failed", path=direct.store.root, detail=error.strerror or str(error)
            ) from error
        present = self.client.find(self.name)
        if present is None or present.digest != digest:
            if not replaced:
                with contextlib.suppress(OSError, RfctlError):
                    direct.store.delete(parse_name(self.name))
            raise RfctlError("direct.not-seen", model=self.name, url=self.client.url, path=direct.store.root)
        return self._conclude(digest, (), source, size, 0, via)

    def _conclude(
        self, digest: str, statuses: Sequence[str], source: str, size: int, uploaded: int, via: str
    ) -> Push:
        card = self.client.show(self.name)
        checks = self._check(card) if self.verify else ()
        guessed = [text for text in statuses if text.startswith("using autodetected template")]
        if guessed and self.recipe.native:
            params = {"template": guessed[0].rpartition(" ")[2]}
            checks = (*checks, Check("ollama.check-template-guessed", Verdict.WARNED, params))
        entry = Entry(
            source=source,
            settings=self.recipe.settings,
            manifest=digest,
            size=size,
            # The uploaded blob stays beside the rewritten one (Ollama from 0.30).
            orphan_bytes=size if card.blob_digest and f"sha256:{card.blob_digest}" != source else 0,
            # A failed check is tried again by the next push.
            verified=self.verify and all(check.verdict is not Verdict.FAILED for check in checks),
            checks=tuple(_write_check(check) for check in checks),
            provenance=dict(self.provenance),
        )
        self.ledger.record(self.client.url, self.name, entry)
        return self.finish(entry, source, size, uploaded=uploaded, unchanged=False, via=via)

    def finish(
        self, entry: Entry, source: str, size: int, *, uploaded: int, unchanged: bool, via: str = ""
    ) -> Push:
        return Push(
            name=self.name,
            digest=entry.manifest,
            source_digest=source,
            size=size,
            uploaded=uploaded,
            unchanged=unchanged,
            checks=tuple(_read_check(item) for item in entry.checks),
            context=self.recipe.context,
            stops=self.recipe.stops.texts,
            family=self.recipe.family,
            architecture=self.candidate.architecture,
            is_embedding=self.candidate.is_embedding,
            orphan_bytes=entry.orphan_bytes,
            padded=self.recipe.padded,
            seconds=time.monotonic() - self.started,
            server_version=self.version.text,
            via=via,
        )

    def _check(self, card: ModelCard) -> tuple[Check, ...]:
        client, name, candidate, recipe = self.client, self.name, self.candidate, self.recipe
        with self.reporter.stage("ollama.stage-verify", unit="items", model=name):
            if candidate.is_embedding:
                return (*check_embedding(client, name, candidate, card), *judge_embedding(candidate))
            checks = check_chat(client, name, candidate, card, self.version, native=recipe.native)
        stops = recipe.stops
        if stops.unreachable:
            checks = (*checks, Check("ollama.check-end-unreachable", Verdict.WARNED, {"end": stops.end}))
        elif stops.ends_itself is not None:
            checks = (*checks, Check("ollama.check-end", Verdict.PASSED, {"end": stops.end}))
        return checks


def find_digest(content: Content, order: Order) -> str:
    ledger, variant = order.ledger, order.variant
    if digest := ledger.find_digest(content.path, variant):
        return digest
    with order.reporter.stage("ollama.stage-hash", total=content.size, path=content.path.name) as stage:
        digest = content.digest(stage.advance)
    ledger.record_digest(content.path, variant, digest)
    return digest


def _write_check(check: Check) -> dict[str, Any]:
    return {"id": check.id, "verdict": check.verdict.value, "params": dict(check.params)}


def _read_check(item: Mapping[str, Any]) -> Check:
    return Check(item["id"], Verdict(item["verdict"]), item["params"])
