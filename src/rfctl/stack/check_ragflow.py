"""Checks of the RAGFlow server by HTTP. Routes: RAGFlow v0.25 and later (`/api/v1/system/*`)."""

from __future__ import annotations

from urllib.parse import urlsplit

from rfctl.core.address import is_loopback
from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, unknown, warn
from rfctl.stack.check_docker import version_tuple
from rfctl.stack.evidence import Evidence

TESTED = ((0, 25), (0, 27))
SDK = (0, 27)
PYTHON = (3, 13)  # ragflow-sdk 0.26.1 and later: >=3.13,<3.14


@check("rag.reachable")
def reachable(evidence: Evidence) -> Result:
    if not evidence.has("ragflow.url"):
        return skip("no-ragflow")
    found = evidence.reply("ragflow.ping")
    url = evidence.text("ragflow.url")
    if found.status == 0:
        variant = found.error if found.error in ("refused", "timeout", "name") else ""
        return fail(variant, url=url, found=found.error)
    if found.status == 200 and found.body.strip() != "pong":
        return fail("foreign", url=url, found=" ".join(found.body.split())[:60] or "-")
    if evidence.has("ragflow.old-ping") and evidence.reply("ragflow.old-ping").body.strip() == "pong":
        return fail("old", url=url, found=_old_version(evidence))
    return judge(found.status == 200, variant="status", url=url, found=found.status)


def _old_version(evidence: Evidence) -> str:
    """0.23 and 0.24 tell their version to a key, older ones to nobody."""
    try:
        return str(evidence.reply("ragflow.old-version").json()["data"] or "-")
    except (ValueError, KeyError, TypeError):
        return "-"


@check("rag.health", after=("rag.reachable",))
def health(evidence: Evidence) -> Result:
    """`/api/v1/system/healthz`: 200 or 500 with one word per service, and `_meta` with details."""
    reply = evidence.reply("ragflow.healthz")
    if reply.status == 404:
        return unknown("/api/v1/system/healthz: 404")
    found = reply.json()
    bad = [name for name in ("db", "redis", "doc_engine", "storage") if name in found and found[name] != "ok"]
    return judge(not bad and found.get("status") == "ok", found=", ".join(bad) or str(found.get("status")))


@check("rag.scheme")
def scheme(evidence: Evidence) -> Result:
    """nginx answers but the API process was never started: API_PROXY_SCHEME is not set to python."""
    if not evidence.has("ragflow.web"):
        return skip("no-stack")
    web, api = evidence.reply("ragflow.web"), evidence.reply("ragflow.ping")
    if web.status == 0:
        return skip("no-web")
    return judge(api.status not in (0, 502), found=api.error or api.status)


@check("rag.default-admin", after=("rag.reachable",))
def default_admin(evidence: Evidence) -> Result:
    if not evidence.has("ragflow.default-login"):
        return skip("no-login-try")
    found = evidence.reply("ragflow.default-login")
    code = found.json().get("code") if found.status else None
    if code is None:
        return unknown(f"login: {found.error or found.status}")
    return fail("open") if code == 0 else ok()


@check("rag.api-key", after=("rag.reachable",))
def api_key(evidence: Evidence) -> Result:
    if not evidence.has("ragflow.datasets"):
        return skip("no-api-key")
    found = evidence.reply("ragflow.datasets")
    code = found.json().get("code") if found.status == 200 else found.status
    if code == 0:
        owner, login = _accounts(evidence)
        other = bool(owner and login) and owner.casefold() != login.casefold()
        return warn("other-account", owner=owner, login=login) if other else ok(found=code)
    # 109: RAGFlow's code for a wrong or missing key; 401: in front of it.
    return (fail if code in (109, 401) else warn)("" if code in (109, 401) else "other", found=code)


def _accounts(evidence: Evidence) -> tuple[str, str]:
    """(address of the key's account, of the one that stack.env names), "" for what is not known here."""
    if not evidence.has("ragflow.account"):
        return "", ""
    url, env = evidence.text("ragflow.url"), evidence.fact("stack.env")
    ports = {env.get("RFCTL_API_PORT"), env.get("RFCTL_WEB_PORT")}
    is_stack = is_loopback(url) and str(urlsplit(url).port) in ports
    return evidence.text("ragflow.account"), env.get("RFCTL_ADMIN_EMAIL", "") if is_stack else ""


@check("rag.combination", after=("rag.reachable",))
def combination(evidence: Evidence) -> Result:
    """Server, SDK and Python together, and by which routes the server takes models."""
    server = str(evidence.reply("ragflow.version").json()["data"])
    sdk, python = evidence.text("ragflow.sdk"), evidence.text("host.python")
    parts = [f"RAGFlow {server}"]
    language = evidence.reply("ragflow.language")
    if language.status == 200:
        named = (language.json().get("data") or {}).get("language")
        parts[0] += f" ({named})" if named else ""
    providers = evidence.reply("ragflow.providers").status
    if providers in (200, 401):
        parts.append("/api/v1/providers")
    elif providers == 404:
        parts.append("/v1/llm/add_llm")
    parts += [f"ragflow-sdk {sdk}", f"Python {python}"]
    found = ", ".join(parts)
    if version_tuple(sdk)[:2] != SDK:
        return warn("sdk", found=found, wanted=".".join(str(part) for part in SDK))
    is_tested = TESTED[0] <= version_tuple(server)[:2] <= TESTED[1] and version_tuple(python)[:2] == PYTHON
    return judge(is_tested, otherwise=Verdict.WARN, found=found)


@check("rag.version", after=("rag.reachable",))
def version(evidence: Evidence) -> Result:
    reply = evidence.reply("ragflow.version")
    if reply.status == 401:
        return skip("no-api-key")
    found = str(reply.json()["data"])
    number = version_tuple(found)[:2]
    if number < TESTED[0]:
        return fail("old", found=found)
    return judge(number <= TESTED[1], otherwise=Verdict.WARN, found=found)
