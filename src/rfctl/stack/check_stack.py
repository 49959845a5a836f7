"""Checks of the containers of the stack and of its settings file."""

from __future__ import annotations

import json
import re
from typing import Any

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, unknown, warn
from rfctl.stack.check_docker import containers, json_lines, service_name
from rfctl.stack.evidence import Evidence

# Exit codes of the stack's programs, as seen: 132 illegal instruction (Infinity without AVX2),
# 137 killed, 78 Elasticsearch's bootstrap checks (vm.max_map_count).
_CODES = {132: "instruction", 78: "bootstrap"}


def describe(container: dict[str, Any]) -> tuple[str, str]:
    """(variant, detail) of what is wrong with an inspected container, ("", "") when nothing is."""
    state = container["State"]
    restarts = int(container.get("RestartCount", 0))
    code = int(state.get("ExitCode", 0))
    if state.get("OOMKilled") and state.get("Status") != "running":
        return "oom", str(code)
    if code in _CODES:
        return _CODES[code], str(code)
    if state.get("Status") == "restarting" or restarts > 2:
        return "loop", str(restarts)
    if state.get("Status") != "running":
        return "stopped", str(code)
    health = (state.get("Health") or {}).get("Status")
    if health == "unhealthy":
        last = (state["Health"].get("Log") or [{}])[-1]
        words = " ".join(str(last.get("Output", "")).split())[-160:]
        # Some checks say nothing, such as a grep that finds nothing.
        return "unhealthy", words or f"exit {last.get('ExitCode', '-')}"
    if health == "starting":
        return "starting", ""
    return "", ""


def _is_known(evidence: Evidence) -> bool:
    """A stack of one's own, or one that was adopted."""
    return bool(evidence.fact("stack.is-initialised")) or evidence.has("stack.adopted")


@check("rag.containers", after=("docker.engine",))
def all_containers(evidence: Evidence) -> Result:
    if not _is_known(evidence):
        return skip("no-stack")
    found = containers(evidence)
    if not found:
        return warn("none")
    for container in found:
        variant, detail = describe(container)
        if variant == "starting":
            return warn("starting", service=service_name(container))
        if variant:
            return fail(variant, service=service_name(container), found=detail)
    return ok(found=len(found))


@check("rag.secrets", fixable=True)
def secrets(evidence: Evidence) -> Result:
    """{"mode": bits or -1 on Windows, "faults": {variable: "missing"|"default"|"short"|"charset"}}."""
    if not _is_known(evidence):
        return skip("no-stack")
    found = evidence.fact("stack.secrets")
    if found["faults"]:
        faults = ", ".join(f"{name} ({fault})" for name, fault in sorted(found["faults"].items()))
        if evidence.has("stack.adopted"):
            return fail("foreign", found=faults, name=evidence.text("stack.project"))
        return fail("weak", found=faults)
    mode = int(found["mode"])
    return judge(
        mode < 0 or not mode & 0o077, variant="mode", found=f"{max(mode, 0):04o}", path=found["path"]
    )


@check("rag.password-drift", after=("rag.containers",))
def password_drift(evidence: Evidence) -> Result:
    """Databases keep the password of their first start; their logs show that another one is used now."""
    for name, pattern in (
        ("mysql", r"Access denied for user '?root"),
        ("ragflow", r"Access denied for user '?root|AuthenticationException|\b401\b.*security_exception"),
    ):
        found = evidence.command(f"docker.log.{name}")
        if re.search(pattern, found.text):
            return fail("refused", service=name)
    return ok()


@check("rag.es-disk", after=("rag.containers",))
def es_disk(evidence: Evidence) -> Result:
    if evidence.fact("stack.env").get("DOC_ENGINE", "elasticsearch") != "elasticsearch":
        return skip("no-elasticsearch")
    found = evidence.command("container.es-blocks")
    if not found.is_ok:
        return unknown("docker exec es01 curl _all/_settings")
    return fail("readonly") if "read_only_allow_delete" in found.out else ok()


@check("rag.executor", after=("rag.containers",))
def executor(evidence: Evidence) -> Result:
    """RAGFlow's executors report every 30 seconds; evidence holds the last five minutes of the log.

    A report is an object with `lag` (tasks in the queue), `done` and `current` (rag/svr/task_executor.py).
    """
    beats = re.findall(
        r"reported heartbeat:?[ \t]*(\{.*\})?", evidence.command("docker.log.ragflow-recent").text
    )
    reports = [report for text in beats if (report := _object(text))]
    waits = len(reports) > 1 and all(report.get("lag") and not report.get("current") for report in reports)
    if waits and reports[0].get("done") == reports[-1].get("done"):
        return warn("idle", found=reports[-1]["lag"])
    return judge(bool(beats), found=len(beats))


def _object(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


@check("rag.data-project", after=("docker.engine",))
def data_project(evidence: Evidence) -> Result:
    """Volumes called like RAGFlow's that belong to another Compose project: its data is not gone."""
    own = evidence.text("stack.project")
    others = set()
    for row in json_lines(evidence.command("docker.volumes").out):
        labels = dict(part.partition("=")[::2] for part in str(row.get("Labels", "")).split(","))
        project, volume = labels.get("com.docker.compose.project"), labels.get("com.docker.compose.volume")
        if project and project != own and volume in ("mysql_data", "esdata01", "minio_data"):
            others.add(project)
    return judge(not others, otherwise=Verdict.WARN, found=", ".join(sorted(others)) or "-", own=own)
