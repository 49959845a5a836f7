"""Checks of the machine itself. Requirements: RAGFlow v0.27 quickstart (cores, memory, disk, x86-64)."""

from __future__ import annotations

from email.utils import parsedate_to_datetime

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, warn
from rfctl.stack.evidence import Evidence

MIN_MAP_COUNT = 262144
GB = 1000**3
MIN_MEMORY, SMALL_MEMORY = 15.5 * GB, 10.5 * GB
# For the system beside the containers.
SPARE_MEMORY = 1 * GB
MIN_DISK, WARN_DISK = 10 * GB, 50 * GB
MAX_SKEW_SECONDS = 60


@check("host.cpu-arch")
def cpu_arch(evidence: Evidence) -> Result:
    machine = evidence.text("host.machine")
    return judge(machine.lower() in ("x86_64", "amd64"), found=machine)


@check("host.avx2", fixable=True)
def avx2(evidence: Evidence) -> Result:
    if evidence.fact("stack.env").get("DOC_ENGINE", "elasticsearch") != "infinity":
        return skip("no-infinity")
    return ok() if "avx2" in evidence.fact("host.cpu-flags") else fail("missing")


@check("host.ram", fixable=True)
def ram(evidence: Evidence) -> Result:
    """With a stack: against the memory limits of its services. Without one: against RAGFlow's requirement."""
    total = evidence.number("host.memory")
    found = f"{total / GB:.1f} GB"
    if limits := evidence.fact("stack.memory") if evidence.has("stack.memory") else 0:
        wanted = f"{limits / GB:.1f} GB"
        is_small = evidence.fact("stack.env").get("RFCTL_SIZE") == "small"
        variant = "small" if is_small else "stack"
        if total >= limits + SPARE_MEMORY:
            return ok(variant, found=found, wanted=wanted)
        return (warn if total >= limits else fail)(variant, found=found, wanted=wanted)
    if total >= MIN_MEMORY:
        return ok(found=found)
    return (warn if total >= SMALL_MEMORY else fail)(found=found)


@check("host.disk")
def disk(evidence: Evidence) -> Result:
    entry = evidence.fact("host.disk")
    free = int(entry["free"])
    verdict = Verdict.FAIL if free < MIN_DISK else Verdict.WARN
    return judge(free >= WARN_DISK, otherwise=verdict, path=entry["path"], found=f"{free / GB:.1f} GB")


@check("host.max-map-count", fixable=True)
def max_map_count(evidence: Evidence) -> Result:
    platform = evidence.text("platform")
    if evidence.has("stack.env") and evidence.fact("stack.env").get("DOC_ENGINE", "") == "infinity":
        return skip("no-elasticsearch")
    if platform == "darwin":
        return skip("not-linux")
    if platform == "windows":
        # The kernel is the one of Docker Desktop's machine: a container of the stack tells.
        if not evidence.has("container.max-map-count"):
            return skip("no-container")
        found = int(evidence.command("container.max-map-count").out)
    else:
        found = evidence.number("host.max-map-count")
    variant = "wsl" if platform in ("wsl", "windows") else ""
    return judge(found >= MIN_MAP_COUNT, variant=variant, found=found, wanted=MIN_MAP_COUNT)


@check("host.clock", after=("rag.reachable",))
def clock(evidence: Evidence) -> Result:
    sent = parsedate_to_datetime(evidence.reply("ragflow.ping").date).timestamp()
    skew = round(abs(float(evidence.fact("host.time")) - sent))
    return judge(skew < MAX_SKEW_SECONDS, otherwise=Verdict.WARN, found=skew)
