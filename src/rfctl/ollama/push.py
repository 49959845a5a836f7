"""Register a GGUF file as a model of an Ollama server, once, and prove that it is served as trained."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rfctl.core.error import RfctlError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.answer import Version
from rfctl.ollama.blob import Content, upload_blob
from rfctl.ollama.candidate import Candidate, read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.ledger import Entry, Ledger
from rfctl.ollama.modelfile import Modelfile
from rfctl.ollama.name import parse_name
from rfctl.ollama.proof import Check, Verdict, check_chat, check_embedding
from rfctl.ollama.recipe import Recipe, Wishes, content_of, decide
from rfctl.ollama.template import Message


@dataclass(frozen=True)
class Push:
    """A finished push.

    digest: hex sha256 of the manifest, as /api/tags says it; source_digest: `sha256:<hex>` of the uploaded
    bytes; size and uploaded in bytes; orphan_bytes: what a server that rewrites the file keeps beside its own
    copy; unchanged: nothing had to be done (checks are then those of the first time); family: the prompt
    format that was recognised, or "".
    """

    name: str
    digest: str
    source_digest: str
    size: int
    uploaded: int
    unchanged: bool
    checks: tuple[Check, ...]
    num_ctx: int
    stops: tuple[str, ...]
    family: str
    architecture: str
    is_embedding: bool
    orphan_bytes: int
    seconds: float
    server_version: str

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all checks."""
        for verdict in (Verdict.FAILED, Verdict.UNKNOWN, Verdict.WARNED):
            if any(check.verdict is verdict for check in self.checks):
                return verdict
        return Verdict.PASSED if self.checks else Verdict.UNKNOWN


def push(
    client: OllamaClient,
    gguf: Path,
    name: str,
    *,
    num_ctx: int | None = None,
    system: str | None = None,
    template: str | None = None,
    parameters: Mapping[str, object] | None = None,
    license: Sequence[str] = (),
    messages: Sequence[Message] = (),
    modelfile: Modelfile | None = None,
    ledger_path: Path | None = None,
    verify: bool = True,
    reporter: Reporter = SILENT,
) -> Push:
    """Upload `gguf`, create `name` from it with explicit settings, and check what is served.

    num_ctx: tokens, default the model's own up to 8192. template: name of a family in `modelfiles/`.
    modelfile: its values are used where no argument says otherwise; its FROM is not read. ledger_path: where
    to remember what was pushed; the same push again is then recognised without hashing.

    Raises UsageError, GgufError, UnreachableError, RfctlError with `ollama.*` ids. A failed check is no
    exception: see `Push.verdict`.
    """
    started = time.monotonic()
    name = str(parse_name(name))
    candidate = read_candidate(gguf)
    version = client.version()
    wishes = Wishes(num_ctx, system, template, parameters or {}, license, messages, modelfile)
    recipe = decide(candidate, wishes, version, reporter)
    ledger = Ledger(ledger_path)
    content = content_of(candidate, recipe)
    source = _find_digest(content, recipe, ledger, reporter)

    def finish(entry: Entry, *, uploaded: int, unchanged: bool) -> Push:
        return Push(
            name=name,
            digest=entry.manifest,
            source_digest=source,
            size=content.size,
            uploaded=uploaded,
            unchanged=unchanged,
            checks=tuple(_read_check(item) for item in entry.checks),
            num_ctx=recipe.num_ctx,
            stops=recipe.stops.texts,
            family=recipe.family,
            architecture=candidate.architecture,
            is_embedding=candidate.is_embedding,
            orphan_bytes=entry.orphan_bytes,
            seconds=time.monotonic() - started,
            server_version=version.text,
        )

    known = ledger.find(client.url, name)
    if known is not None and known.source == source and known.settings == recipe.settings:
        present = client.find(name)
        if present is not None and present.digest == known.manifest and (known.verified or not verify):
            return finish(known, uploaded=0, unchanged=True)
    uploaded = upload_blob(client, content, source, reporter)
    client.create({"model": name, "files": {gguf.name: source}, **recipe.body}, reporter)
    present = client.find(name)
    if present is None:
        raise RfctlError("ollama.create-vanished", model=name, url=client.url)
    orphan = _count_orphan(client, name, source, content)
    checks = _verify(client, name, candidate, recipe, version, reporter) if verify else ()
    entry = Entry(
        source=source,
        settings=recipe.settings,
        manifest=present.digest,
        size=content.size,
        orphan_bytes=orphan,
        # A failed check is tried again by the next push.
        verified=verify and all(check.verdict is not Verdict.FAILED for check in checks),
        checks=tuple(_write_check(check) for check in checks),
    )
    ledger.record(client.url, name, entry)
    return finish(entry, uploaded=uploaded, unchanged=False)


def _find_digest(content: Content, recipe: Recipe, ledger: Ledger, reporter: Reporter) -> str:
    variant = "padded" if recipe.padded else "as-is"
    if digest := ledger.find_digest(content.path, variant):
        return digest
    with reporter.stage("ollama.stage-hash", total=content.size, path=content.path.name) as stage:
        digest = content.digest(stage.advance)
    ledger.record_digest(content.path, variant, digest)
    return digest


def _count_orphan(client: OllamaClient, name: str, source: str, content: Content) -> int:
    """Bytes of the uploaded blob when another one is served (Ollama from 0.30 rewrites GGUF files)."""
    served = client.show(name).blob_digest
    return content.size if served and f"sha256:{served}" != source else 0


def _verify(
    client: OllamaClient,
    name: str,
    candidate: Candidate,
    recipe: Recipe,
    version: Version,
    reporter: Reporter,
) -> tuple[Check, ...]:
    with reporter.stage("ollama.stage-verify", unit="items", model=name):
        card = client.show(name)
        if candidate.is_embedding:
            return check_embedding(client, name, candidate, card)
        checks = check_chat(client, name, candidate, card, version, native=recipe.native)
    stops = recipe.stops
    if stops.unreachable:
        checks = (*checks, Check("ollama.check-end-unreachable", Verdict.WARNED, {"end": stops.end}))
    elif stops.ends_itself is not None:
        checks = (*checks, Check("ollama.check-end", Verdict.PASSED, {"end": stops.end}))
    return checks


def _write_check(check: Check) -> dict[str, Any]:
    return {"id": check.id, "verdict": check.verdict.value, "params": dict(check.params)}


def _read_check(item: Mapping[str, Any]) -> Check:
    return Check(item["id"], Verdict(item["verdict"]), item["params"])
