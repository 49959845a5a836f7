"""Checks of the Docker engine and its client."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip
from rfctl.stack.evidence import Evidence

MIN_ENGINE, GOOD_ENGINE = (24, 0), (28, 0)
MIN_COMPOSE = (2, 26, 1)


def version_tuple(text: str) -> tuple[int, ...]:
    """The first dotted number in `text` ("v2.26.1-desktop.1" -> (2, 26, 1)). Raises ValueError."""
    match = re.search(r"\d+(?:\.\d+)+", text)
    if match is None:
        raise ValueError(f"no version in {text[:80]!r}")
    return tuple(int(part) for part in match.group().split("."))


def json_lines(text: str) -> Iterator[Any]:
    """The documents of `--format json`: one array, or one object a line (both occur in Compose)."""
    if text.lstrip().startswith("["):
        yield from json.loads(text)
        return
    for line in text.splitlines():
        if line.strip():
            yield json.loads(line)


def info(evidence: Evidence) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(evidence.command("docker.info").out)
    return document


def has_own_engine(evidence: Evidence) -> bool:
    """Whether the engine runs on this system itself, not in Docker Desktop's machine.

    When no engine answers: Desktop's client is a link into its own folder.
    """
    if evidence.has("docker.info") and evidence.command("docker.info").out.strip():
        return "Desktop" not in str(info(evidence).get("OperatingSystem", ""))
    return not (evidence.has("docker.real-path") and "docker-desktop" in evidence.text("docker.real-path"))


@check("docker.cli")
def cli(evidence: Evidence) -> Result:
    found = evidence.command("docker.version")
    if found.state != "missing":
        return ok(path=evidence.text("docker.path"))
    return fail("wsl" if evidence.text("platform") == "wsl" else "missing")


@check("docker.engine", after=("docker.cli",))
def engine(evidence: Evidence) -> Result:
    found = evidence.command("docker.version")
    if found.state == "timeout":
        return fail("timeout")
    document = json.loads(found.out) if found.out.strip() else {}
    if server := document.get("Server"):
        return ok(found=server.get("Version") or "?")
    detail = next((line for line in found.err.splitlines() if line.strip()), "")
    if "permission denied" in detail.lower():
        return fail("denied", found=detail)
    if "context" in detail.lower() and "not found" in detail.lower():
        return fail("context", found=detail)
    return fail(found=detail or "?")


@check("docker.version", after=("docker.engine",))
def version(evidence: Evidence) -> Result:
    found = json.loads(evidence.command("docker.version").out)["Server"]["Version"]
    number = version_tuple(found)
    if number < MIN_ENGINE:
        return fail(found=found)
    return judge(number >= GOOD_ENGINE, otherwise=Verdict.WARN, variant="leak", found=found)


@check("docker.compose", after=("docker.cli",))
def compose(evidence: Evidence) -> Result:
    found = evidence.command("docker.compose")
    if not found.is_ok:
        return fail("missing")
    text = found.out.strip()
    return judge(version_tuple(text) >= MIN_COMPOSE, found=text)


@check("docker.desktop-vs-engine", after=("docker.engine",))
def desktop_or_engine(evidence: Evidence) -> Result:
    system = str(info(evidence).get("OperatingSystem", ""))
    names = {str(row.get("Name", "")) for row in json_lines(evidence.command("docker.contexts").out)}
    both = any(name.startswith("desktop") for name in names) and "Desktop" not in system
    own = evidence.fact("docker.engine-binary") if evidence.has("docker.engine-binary") else False
    both = both or ("Desktop" in system and bool(own))
    return judge(not both, otherwise=Verdict.WARN, found=system)


@check("docker.gpu", after=("docker.engine",))
def gpu(evidence: Evidence) -> Result:
    if not any("nvidia" in name or name == "gpu" for name in evidence.fact("stack.addons")):
        return skip("no-gpu")
    runtimes = info(evidence).get("Runtimes") or {}
    return judge("nvidia" in runtimes, found=", ".join(sorted(runtimes)) or "-")


@check("docker.snap", after=("docker.engine",))
def snap(evidence: Evidence) -> Result:
    root = str(info(evidence)["DockerRootDir"])
    return judge("/snap/" not in root, otherwise=Verdict.WARN, found=root)


@check("docker.registry", after=("docker.engine",))
def registry(evidence: Evidence) -> Result:
    wanted = evidence.fact("stack.images")
    if not wanted:
        return skip("no-stack")
    rows = list(json_lines(evidence.command("docker.images").out))
    have = {f"{row.get('Repository')}:{row.get('Tag')}" for row in rows}
    have |= {f"{row.get('Repository')}@{row.get('Digest')}" for row in rows}
    missing = [name for name in wanted if not {name, _familiar(name)} & have]
    return judge(
        not missing,
        otherwise=Verdict.WARN,
        found=len(wanted) - len(missing),
        total=len(wanted),
        missing=", ".join(missing) or "-",
    )


def _familiar(image: str) -> str:
    """As `docker images` names it: without the usual registry, and by its digest alone where that is held."""
    name, at, digest = image.removeprefix("docker.io/").removeprefix("library/").partition("@")
    if at:
        folder, slash, last = name.rpartition("/")
        name = f"{folder}{slash}{last.partition(':')[0]}"
    return f"{name}{at}{digest}"


@check("docker.latest")
def latest(evidence: Evidence) -> Result:
    images = evidence.fact("stack.images")
    if not images:
        return skip("no-stack")
    loose = [
        name
        for name in images
        if "@sha256:" not in name and (":" not in name.rpartition("/")[2] or name.endswith(":latest"))
    ]
    return judge(not loose, otherwise=Verdict.WARN, found=", ".join(loose) or "-", total=len(images))


def containers(evidence: Evidence) -> list[dict[str, Any]]:
    """`docker inspect` of the project's containers."""
    found = evidence.command("docker.inspect")
    return list(json.loads(found.out or "[]"))


def service_name(container: dict[str, Any]) -> str:
    labels = container.get("Config", {}).get("Labels") or {}
    return str(labels.get("com.docker.compose.service") or container.get("Name", "?").lstrip("/"))
