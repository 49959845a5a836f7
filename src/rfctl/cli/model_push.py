"""What `rfctl model push` and the demo do: check, convert if needed, register, report."""

from __future__ import annotations

import datetime as dt
import re
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from rfctl.cli.app import App
from rfctl.cli.kernel import choose_kernel
from rfctl.cli.output import human_bytes
from rfctl.core.error import RfctlError, UsageError, VerdictError
from rfctl.core.lock import FileLock
from rfctl.core.version import __version__

if TYPE_CHECKING:
    from rfctl.ollama.client import OllamaClient
    from rfctl.ollama.direct import Direct
    from rfctl.ollama.push import Push
    from rfctl.ollama.recipe import Wishes
    from rfctl.ragflow_client.model import Model

_LEDGER = "ollama-ledger.json"


def push_source(
    app: App,
    client: OllamaClient,
    source: Path,
    name: str | None,
    wishes: Wishes,
    *,
    quantize: str | None = None,
    adapter: Path | None = None,
    verify: bool = True,
    modelfile_folder: Path | None = None,
    via: str = "auto",
    store: Path | None = None,
    link: bool = False,
    provenance: bool = True,
    yes: bool = False,
) -> Push:
    """Push a GGUF file, or check, convert and push a model directory.

    The converted file lives in the cache folder and is deleted afterwards; its header and digest are kept, so
    that pushing the same directory again neither converts nor hashes. A model of that name that was not
    pushed from here is replaced only with consent (yes, or asked on the terminal; else RefusedError).
    via: "direct", "http" or "auto"; store: folder of the server's models; link: the GGUF file may be linked,
    because nobody will edit it; provenance: write hashes and options of a conversion into its file.
    """
    from rfctl.cli.model_store import find_direct
    from rfctl.ollama.family import find_family
    from rfctl.ollama.push import push_file

    name = name or default_name(source)
    if wishes.template is not None:
        # Asked before a conversion of minutes, not after it.
        find_family(wishes.template)
    if not source.is_file():
        from rfctl.cli.model_base import find_directories

        source, adapter = find_directories(app, source, adapter)
    if not source.exists():
        raise UsageError("ollama.push-source", path=source)
    _check_from(source, wishes, modelfile_folder)
    ledger = app.directories.data / _LEDGER
    _ask_to_replace(app, client, name, ledger, yes)
    if quantize is not None and not source.is_dir():
        raise UsageError("ollama.push-quantize-gguf")
    if adapter is not None and not source.is_dir():
        raise UsageError("adapter.base-file", path=source)
    # What is converted here is written by us, and by nobody else afterwards.
    direct = find_direct(app, client, via, store, owned=link or source.is_dir())
    if source.is_dir():
        outtype = quantize or "auto"
        return _push_directory(
            app, client, source, adapter, name, wishes, outtype, verify, ledger, direct, via, provenance
        )
    return push_file(
        client,
        source,
        name,
        wishes,
        direct=direct,
        fall_back=via == "auto",
        provenance=_describe_origin(source) | _read_origin(source),
        ledger_path=ledger,
        verify=verify,
        reporter=app.reporter(),
    )


def default_name(source: Path) -> str:
    """A model name from a file or directory name: `Qwen2.5-0.5B-Instruct/` -> `qwen2.5-0.5b-instruct`."""
    stem = source.resolve().name
    stem = stem[:-5] if stem.lower().endswith(".gguf") else stem
    text = re.sub(r"[^a-z0-9._-]+", "-", stem.lower()).strip("-._")
    if not text:
        raise UsageError("store.name-invalid", name=stem)
    return text[:80]


def accept_push(app: App, client: OllamaClient, result: Push, reason: str) -> Push:
    """A push whose prompt differs from the trained one becomes a warning; the reason is recorded."""
    from rfctl.ollama.ledger import Ledger
    from rfctl.ollama.verify import TEMPLATE_CHECKS, accept_differences, record_acceptance

    if not any(item.id in TEMPLATE_CHECKS and item.verdict.value == "failed" for item in result.checks):
        return result
    entry = client.find(result.name)
    if entry is not None:
        ledger = Ledger(app.directories.data / _LEDGER, app.reporter())
        record_acceptance(ledger, client.url, entry, reason)
    return replace(result, checks=accept_differences(result.checks, reason))


def use_push(app: App, client: OllamaClient, result: Push) -> tuple[Model, bool] | None:
    """Let RAGFlow use what was pushed, with the same context; None for a model that failed its checks."""
    from rfctl.cli.kb_use_model import use

    if result.verdict.value == "failed":
        return None
    return use(app, client, result.name, num_ctx=result.num_ctx)


def print_push(app: App, result: Push, url: str, usable: tuple[Model, bool] | None = None) -> None:
    """The report of a push, as JSON or for people. usable: the model in RAGFlow, whether it is new there."""
    out = app.out
    checks = [
        {
            "id": check.id,
            "verdict": check.verdict,
            "message": out.text(check.id, **check.params),
            "params": check.params,
        }
        for check in result.checks
    ]
    document: dict[str, object] = {item.name: getattr(result, item.name) for item in fields(result)}
    reason = _explain_context(app, result)
    document |= {"num_ctx": result.num_ctx, "context": {"id": result.context.id, "message": reason}}
    if usable is not None:
        document["ragflow"] = {"model": usable[0].full_name, "changed": usable[1]}
    out.report({**document, "url": url, "verdict": result.verdict, "checks": checks})
    if not out.is_human:
        return
    if result.unchanged:
        out.say("ollama.push-unchanged", name=result.name, url=url)
    else:
        out.say(
            "ollama.pushed",
            name=result.name,
            url=url,
            size=human_bytes(result.size),
            num_ctx=result.num_ctx,
            seconds=round(result.seconds, 1),
        )
    out.line(f"  {reason}")
    if result.via in ("reflink", "link"):
        out.note("direct.placed", how=result.via)
    for check in result.checks:
        out.line(
            f"  {out.text(f'ollama.verdict-{check.verdict.value}')}: {out.text(check.id, **check.params)}"
        )
    if result.orphan_bytes and not result.unchanged:
        out.note("ollama.push-orphan", size=human_bytes(result.orphan_bytes))
    if usable is not None:
        from rfctl.cli.kb_use_model import print_use

        print_use(app, usable[0], changed=usable[1])
    elif not result.is_embedding and result.verdict.value != "failed":
        out.note("ollama.push-next", name=result.name)


def _explain_context(app: App, result: Push) -> str:
    sizes = {
        key: human_bytes(value)
        for key in ("size", "memory")
        if isinstance(value := result.context.params.get(key), int)
    }
    return app.out.text(result.context.id, **{**result.context.params, **sizes})


def _push_directory(
    app: App,
    client: OllamaClient,
    source: Path,
    adapter: Path | None,
    name: str,
    wishes: Wishes,
    outtype: str,
    verify: bool,
    ledger: Path,
    direct: Direct | None,
    via: str,
    with_provenance: bool,
) -> Push:
    from rfctl.cli.model_provenance import find_provenance, name_values
    from rfctl.converter import convert as conversion
    from rfctl.converter.support import REFERENCE_BUILD
    from rfctl.ollama.ledger import Ledger, fingerprint_directory
    from rfctl.ollama.push import load_sketch, push_again, push_file, save_sketch

    reporter = app.reporter()
    folder = app.directories.cache / "push"
    facts = [outtype.lower(), __version__, "provenance" if with_provenance else "plain"]
    if adapter is not None:
        if not adapter.is_dir():
            raise UsageError("adapter.not-found", path=adapter)
        facts.append(fingerprint_directory(adapter))
    fingerprint = fingerprint_directory(source, *facts)
    header = folder / f"{fingerprint}.header"
    gguf = folder / f"{default_name(source)}.gguf"
    provenance = _describe_origin(source) | {
        "source_fingerprint": fingerprint,
        "outtype": outtype,
        "converter": f"rfctl {__version__}",
        "reference": f"llama.cpp {REFERENCE_BUILD}",
    }
    if adapter is not None:
        provenance["adapter"] = str(adapter.resolve())
    origin = find_provenance(app, source, adapter, outtype) if with_provenance else None
    if origin is not None:
        provenance |= name_values(origin.values)
    if sketch := load_sketch(ledger, fingerprint, header, gguf.name):
        again = push_again(
            client,
            sketch,
            name,
            wishes,
            direct=direct,
            provenance=provenance,
            ledger_path=ledger,
            verify=verify,
            reporter=reporter,
        )
        if again is not None:
            return again
    _check_directory(app, client, source)
    work = folder / fingerprint
    folder.mkdir(parents=True, exist_ok=True)
    gguf = work / gguf.name
    # Whoever finds the folder in use must leave it alone: the other one still reads and deletes it.
    lock = FileLock(ledger.with_name(f".push-{fingerprint[:16]}.lock"))
    if not lock.acquire():
        raise RfctlError("ollama.push-running", model=name, url=client.url)
    try:
        work.mkdir(exist_ok=True)
        choose_kernel(app, source, outtype)
        converted = conversion.convert(
            source,
            gguf,
            outtype=outtype,
            adapter=adapter,
            overwrite=True,
            provenance=origin,
            reporter=reporter,
        )
        # The converter hashed while it wrote; the bytes are not read again.
        Ledger(ledger).record_digest(gguf, "as-is", f"sha256:{converted.sha256}")
        pushed = push_file(
            client,
            gguf,
            name,
            wishes,
            direct=direct,
            fall_back=via == "auto",
            provenance=provenance,
            ledger_path=ledger,
            verify=verify,
            reporter=reporter,
        )
        save_sketch(ledger, fingerprint, header, gguf, pushed)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.release()
    return pushed


def _describe_origin(source: Path) -> dict[str, str]:
    """What the ledger keeps of where a model came from."""
    now = dt.datetime.now(dt.UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return {"path": str(source.resolve()), "pushed": now, "rfctl": __version__}


def _read_origin(gguf: Path) -> dict[str, str]:
    """What the header of a GGUF file says of its own origin; a broken file is the push's business."""
    from rfctl.cli.model_provenance import name_values
    from rfctl.core.gguf_header import GgufError, read_header

    try:
        return name_values(read_header(gguf).values)
    except (GgufError, OSError):
        return {}


def _ask_to_replace(app: App, client: OllamaClient, name: str, ledger: Path, yes: bool) -> None:
    from rfctl.cli.consent import confirm
    from rfctl.ollama.ledger import Ledger
    from rfctl.ollama.name import parse_name

    present = client.find(name)
    if present is None or yes:
        return
    known = Ledger(ledger).find(client.url, str(parse_name(name)))
    if known is None or known.manifest != present.digest:
        size = human_bytes(present.size)
        action = app.out.text("ollama.replace-action", name=present.name, size=size, url=client.url)
        confirm(app, action, yes=False)


def _check_directory(app: App, client: OllamaClient, source: Path) -> None:
    """Raises VerdictError when the check says that the model will not work on this server.

    A server that nobody knows is a warning: the probe and the server itself will say more.
    """
    from rfctl.converter import check as checks

    version = client.version()
    target = ".".join(str(part) for part in version.release) if version.release is not None else None
    report = checks.check(source, ollama_version=None if version.is_embedded else target)
    if report.will_work:
        return
    details = [finding.text(app.language).message for finding in report.errors]
    details += [
        verdict.text(app.language)
        for verdict in report.verdicts
        if verdict.authority in ("converter", "ollama") and verdict.answer.value == "unsupported"
    ]
    if details:
        raise VerdictError("ollama.push-check", path=source, detail=details[0])
    app.out.warn("ollama.push-check-unknown", path=source, version=version.text)


def _check_from(source: Path, wishes: Wishes, folder: Path | None) -> None:
    """The FROM of a Modelfile must be `.` or what is pushed."""
    if wishes.modelfile is None or folder is None:
        return
    for value in wishes.modelfile.all("model"):
        path = Path(value).expanduser()
        path = path if path.is_absolute() else folder / path
        if value not in (".", "./") and path.resolve() != source.resolve():
            raise UsageError("ollama.modelfile-other", value=value, path=source)
