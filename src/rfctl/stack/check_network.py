"""Checks of ports, proxies and the way from a container to the host."""

from __future__ import annotations

import ipaddress
import re

from rfctl.stack.check import Result, Verdict, check, fail, judge, ok, skip, unknown
from rfctl.stack.check_docker import json_lines
from rfctl.stack.evidence import Evidence


def listeners(text: str) -> list[tuple[str, int, str]]:
    """(address, port, owner) of `ss -Hltnp`; owner "" when it is another user's process."""
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) < 4 or fields[0] != "LISTEN":
            continue
        address, _, port = fields[3].rpartition(":")
        owner = re.search(r'\(\("([^"]+)"', line)
        if port.isdigit():
            found.append((address.strip("[]").partition("%")[0], int(port), owner.group(1) if owner else ""))
    return found


def is_loopback_address(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return address == "localhost"


@check("net.ports", fixable=True)
def ports(evidence: Evidence) -> Result:
    """host ports of the stack: {"8080": "free" | "taken" | "ours"}."""
    states = evidence.fact("stack.ports")
    if not states:
        return skip("no-stack")
    taken = [port for port, state in states.items() if state == "taken"]
    owners: dict[int, str] = {}
    if evidence.has("net.listeners"):
        owners = {port: owner for _, port, owner in listeners(evidence.command("net.listeners").out)}
    shown = ", ".join(f"{port} ({owners[int(port)]})" if owners.get(int(port)) else port for port in taken)
    return judge(not taken, found=shown or "-", ports=", ".join(states))


@check("net.excluded-ports", fixable=True)
def excluded_ports(evidence: Evidence) -> Result:
    if evidence.text("platform") not in ("wsl", "windows"):
        return skip("not-wsl")
    capture = evidence.command("windows.excluded-ports")
    if not capture.is_ok:
        return unknown("netsh interface ipv4 show excludedportrange protocol=tcp")
    ranges = [
        (int(match.group(1)), int(match.group(2)))
        for match in re.finditer(r"^\s*(\d+)\s+(\d+)(?:\s+\*)?\s*$", capture.out, re.MULTILINE)
    ]
    wanted = [int(port) for port in evidence.fact("stack.ports")] or [8080, 9380, 11434]
    swallowed = [port for port in wanted if any(low <= port <= high for low, high in ranges)]
    return judge(not swallowed, found=", ".join(map(str, swallowed)) or "-")


@check("net.exposed", after=("docker.engine",), fixable=True)
def exposed(evidence: Evidence) -> Result:
    open_ports = set()
    for row in json_lines(evidence.command("docker.ps").out):
        for address, port in re.findall(r"(\S+):(\d+)->", str(row.get("Ports", ""))):
            if not is_loopback_address(address.strip("[]")):
                open_ports.add(f"{row.get('Names', '?')} {address}:{port}")
    return judge(not open_ports, found="; ".join(sorted(open_ports)) or "-")


@check("net.proxy")
def proxy(evidence: Evidence) -> Result:
    variables = evidence.fact("net.proxies")
    named = sorted(name for name in variables if name.lower() in ("http_proxy", "https_proxy", "all_proxy"))
    if not named:
        return ok(found="-", missing="-")
    raw = next((value for name, value in variables.items() if name.lower() == "no_proxy"), "")
    exempt = {part.strip().lower().lstrip(".") for part in raw.split(",")}
    missing = [host for host in ("localhost", "127.0.0.1", "host.docker.internal") if host not in exempt]
    if "*" in exempt:
        missing = []
    return judge(
        not missing, otherwise=Verdict.WARN, found=", ".join(named), missing=",".join(missing) or "-"
    )


@check("net.container-to-host", after=("docker.engine", "rag.containers"))
def container_to_host(evidence: Evidence) -> Result:
    """The container's own view of the model server: refused is a bind address, timeout a firewall."""
    if not evidence.has("container.ollama"):
        return skip("no-stack")
    found = evidence.command("container.ollama")
    url = evidence.text("container.ollama-url")
    if found.is_ok:
        return ok(url=url, found=found.out.strip()[:80])
    text = found.text.lower()
    # Exit codes of curl: 6 no such host, 7 refused, 28 timeout.
    if found.state == "timeout" or found.code == 28 or "timed out" in text:
        return fail("timeout", url=url)
    if found.code == 7 or "refused" in text or "failed to connect" in text:
        return fail("refused", url=url)
    if found.code == 6 or "could not resolve" in text:
        return fail("name", url=url)
    return fail(url=url, found=found.text[:200])
