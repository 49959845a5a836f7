"""Register a GGUF file as a model of an Ollama server, once, and prove that it is served as trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rfctl.core.error import RefusedError
from rfctl.core.file import write_atomic
from rfctl.core.gguf_header import GgufError
from rfctl.core.progress import SILENT, Reporter
from rfctl.ollama.blob import upload_blob
from rfctl.ollama.candidate import read_candidate
from rfctl.ollama.client import OllamaClient
from rfctl.ollama.direct import Direct, agrees, can_place
from rfctl.ollama.ledger import Ledger
from rfctl.ollama.modelfile import Modelfile
from rfctl.ollama.name import parse_name
from rfctl.ollama.order import Order, Push, find_digest
from rfctl.ollama.recipe import Wishes, content_of
from rfctl.ollama.template import Message

# From this size on a server is asked before the upload whether it will take the model.
LARGE_BYTES = 64 << 20


@dataclass(frozen=True)
class Sketch:
    """A file that is not there any more: its header, its name, and the digests of its bytes by variant."""

    header: Path
    name: str
    digests: Mapping[str, str]


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

    num_ctx: tokens, default as `choose_context` computes it. template: name of a family in `modelfiles/`.
    modelfile: its values are used where no argument says otherwise; its FROM is not read. ledger_path: where
    to remember what was pushed; the same push again is then recognised without hashing.

    Raises UsageError, GgufError, UnreachableError, RfctlError with `ollama.*` ids. A failed check is no
    exception: see `Push.verdict`.
    """
    wishes = Wishes(num_ctx, system, template, parameters or {}, license, messages, modelfile)
    return push_file(client, gguf, name, wishes, ledger_path=ledger_path, verify=verify, reporter=reporter)


def push_file(
    client: OllamaClient,
    gguf: Path,
    name: str,
    wishes: Wishes,
    *,
    direct: Direct | None = None,
    fall_back: bool = False,
    provenance: Mapping[str, str] | None = None,
    ledger_path: Path | None = None,
    verify: bool = True,
    reporter: Reporter = SILENT,
) -> Push:
    """`push` with all wishes in one value.

    direct: register in this store without copying; fall_back: send the file over HTTP where that cannot be
    done; provenance: what to remember of the file's origin. Raises also RefusedError `direct.*`.
    """
    ledger = Ledger(ledger_path, reporter)
    with ledger.hold(client.url, str(parse_name(name))):
        order = Order(client, read_candidate(gguf), name, wishes, ledger, verify, reporter)
        order.provenance = provenance or {}
        return _push_held(order, gguf, direct, fall_back)


def _push_held(order: Order, gguf: Path, direct: Direct | None, fall_back: bool) -> Push:
    client, name = order.client, order.name
    if direct is not None and fall_back and not (can_place(direct, gguf) and agrees(direct, client, name)):
        direct = None
    if direct is not None and not agrees(direct, client, name):
        raise RefusedError("direct.store-other", path=direct.store.root, url=client.url)
    if direct is not None:
        order.keep_template()
    content = content_of(order.candidate, order.recipe)
    source = find_digest(content, order)
    if known := order.find_unchanged(source):
        return order.finish(known, source, content.size, uploaded=0, unchanged=True)
    if direct is not None:
        return order.register(direct, gguf, source, content.size)
    if content.size >= LARGE_BYTES and not client.has_blob(source):
        order.demand_support()
    if order.version.rewrites_files:
        # llama-quantize writes the file anew, and the uploaded one stays until a restart.
        size = f"{content.size / 1e9:.2f}"
        order.reporter.note("ollama.push-disk", need=f"{2 * content.size / 1e9:.2f}", size=size)
    uploaded = upload_blob(client, content, source, order.reporter)
    return order.create(gguf.name, source, content.size, uploaded)


def push_again(
    client: OllamaClient,
    sketch: Sketch,
    name: str,
    wishes: Wishes,
    *,
    direct: Direct | None = None,
    provenance: Mapping[str, str] | None = None,
    ledger_path: Path | None = None,
    verify: bool = True,
    reporter: Reporter = SILENT,
) -> Push | None:
    """Push without the file, or None when the server needs its bytes (or the sketch is of no use)."""
    try:
        candidate = read_candidate(sketch.header, header_only=True)
    except (OSError, GgufError):
        return None
    ledger = Ledger(ledger_path, reporter)
    with ledger.hold(client.url, str(parse_name(name))):
        order = Order(client, candidate, name, wishes, ledger, verify, reporter)
        order.provenance = provenance or {}
        return _push_sketch(order, sketch, direct)


def _push_sketch(order: Order, sketch: Sketch, direct: Direct | None) -> Push | None:
    client, name = order.client, order.name
    if direct is not None:
        order.keep_template()
    source = sketch.digests.get(order.variant, "")
    size = int(sketch.digests.get(f"{order.variant}-size", "0"))
    if not source:
        return None
    if known := order.find_unchanged(source):
        return order.finish(known, source, known.size, uploaded=0, unchanged=True)
    if direct is not None:
        there = direct.store.has_blob(source) and agrees(direct, client, name)
        return order.register(direct, None, source, size) if there else None
    return order.create(sketch.name, source, size, 0) if client.has_blob(source) else None


def load_sketch(ledger_path: Path, fingerprint: str, header: Path, name: str) -> Sketch | None:
    """What is known of the file that a model directory was converted to, or None."""
    digests = Ledger(ledger_path).find_source(fingerprint)
    return Sketch(header, name, digests) if digests and header.is_file() else None


def save_sketch(ledger_path: Path, fingerprint: str, header: Path, gguf: Path, pushed: Push) -> None:
    """Remember a converted and pushed file so that it can be deleted. Raises OSError."""
    with gguf.open("rb") as file:
        data = file.read(read_candidate(gguf).data_offset)
    write_atomic(header, data)
    variant = "padded" if pushed.padded else "as-is"
    ledger = Ledger(ledger_path)
    known = dict(ledger.find_source(fingerprint))
    known |= {variant: pushed.source_digest, f"{variant}-size": str(pushed.size)}
    ledger.record_source(fingerprint, known)


__all__ = ["Push", "Sketch", "Wishes", "load_sketch", "push", "push_again", "push_file", "save_sketch"]
