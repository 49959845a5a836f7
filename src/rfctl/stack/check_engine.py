"""Checks of the embedded engine, which needs neither Docker nor Ollama."""

from __future__ import annotations

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, warn
from rfctl.stack.evidence import Evidence


@check("engine.libgomp")
def libgomp(evidence: Evidence) -> Result:
    if evidence.text("platform") in ("windows", "darwin"):
        return skip("not-linux")
    return ok() if evidence.fact("engine.libgomp") else fail("missing")


@check("engine.llama")
def llama(evidence: Evidence) -> Result:
    """The model library is loaded in a process of its own: a missing instruction set ends that process."""
    found = evidence.command("engine.llama")
    if found.state == "timeout":
        return warn("timeout")
    if found.is_ok:
        return ok(found=found.out.strip()[:80])
    if found.code in (-4, 132):
        return fail("instruction")
    last = next((line for line in reversed(found.err.splitlines()) if line.strip()), f"exit {found.code}")
    return fail("broken", found=last.strip()[:200])


@check("engine.kernels")
def kernels(evidence: Evidence) -> Result:
    flags = set(evidence.fact("host.cpu-flags"))
    if not flags:
        return skip("no-cpu-flags")
    best = next((name for name in ("avx512f", "avx2", "avx", "sse4_2") if name in flags), "-")
    return judge(best in ("avx512f", "avx2"), otherwise=Verdict.WARN, found=best)


@check("engine.quantize")
def quantize(evidence: Evidence) -> Result:
    """Tensor type -> the code that makes it here ("native (avx2)", "ggml (...)", "numpy", "none")."""
    found = str(evidence.fact("engine.quantize").get("Q4_K", "none"))
    return judge(found not in ("none", "numpy"), otherwise=Verdict.WARN, found=found)


@check("engine.state")
def state(evidence: Evidence) -> Result:
    """{"locked": an engine holds the folder, "answers": it answers, "url": where}."""
    found = evidence.fact("engine.state")
    if not found["locked"]:
        return ok("stopped")
    return ok(url=found["url"]) if found["answers"] else fail("silent")


@check("engine.store", fixable=True)
def store(evidence: Evidence) -> Result:
    """{"path", "exists", "writable" (or makeable), "free", "mode": bits, "missing_blobs": names}."""
    found = evidence.fact("engine.store")
    if not found["writable"]:
        return fail("readonly", path=found["path"])
    if not found["exists"]:
        return ok("empty", path=found["path"])
    if found["missing_blobs"]:
        return fail("blobs", path=found["path"], found=", ".join(found["missing_blobs"][:3]))
    if found["mode"] & 0o077:
        return warn("open", path=found["path"])
    free = f"{found['free'] / 1000**3:.1f} GB"
    return judge(found["free"] >= 5 * 1000**3, otherwise=Verdict.WARN, path=found["path"], found=free)
