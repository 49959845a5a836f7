"""Checks of ports, proxies and the way from a container to the host."""

from __future__ import annotations

import ipaddress
import re

from rfctl.stack.check import Result, check, fail, judge, ok, skip, unknown, warn
from rfctl.stack.check_docker import json_lines
from rfctl.stack.evidence import Evidence
from rfctl.stack.windows import read_excluded


def listeners(text: str) -> list[tuple[str, int, str]]:
    """(address, port, owner) of `ss -Hltnp` or of Windows' `netstat -ano -p TCP`.

    owner: the program, "pid N" on Windows, "" when it is another user's process.
    """
    found = []
    for line in text.splitlines():
        fields = line.split()
        if len(fields) >= 4 and fields[0] == "LISTEN":
            named = re.search(r'\(\("([^"]+)"', line)
            local, owner = fields[3], named.group(1) if named else ""
        # Windows translates the state; nobody is at the other end of a listener.
        elif len(fields) == 5 and fields[0] == "TCP" and fields[2] in ("0.0.0.0:0", "[::]:0"):
            local, owner = fields[1], f"pid {fields[4]}"
        else:
            continue
        address, _, port = local.rpartition(":")
        if port.isdigit():
            found.append((address.strip("[]").partition("%")[0], int(port), owner))
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
    ranges = read_excluded(capture.out)
    wanted = [int(port) for port in evidence.fact("stack.ports")] or [8080, 9380, 11434]
    swallowed = [port for port in wanted if any(low <= port <= high for low, high in ranges)]
    return judge(not swallowed, found=", ".join(map(str, swallowed)) or "-", ranges=ranges)


@check("net.exposed", after=("docker.engine",), fixable=True)
def exposed(evidence: Evidence) -> Result:
    open_ports = set()
    # The add-on tls is there to be reached: its HTTPS port, at the address that was named for it.
    has_tls = evidence.has("stack.addons") and "tls" in evidence.fact("stack.addons")
    for row in json_lines(evidence.command("docker.ps").out):
        if has_tls and "com.docker.compose.service=caddy" in str(row.get("Labels", "")):
            continue
        for address, port in re.findall(r"(\S+):(\d+)->", str(row.get("Ports", ""))):
            if not is_loopback_address(address.strip("[]")):
                open_ports.add(f"{row.get('Names', '?')} {address}:{port}")
    return judge(not open_ports, found="; ".join(sorted(open_ports)) or "-")


@check("net.proxy")
def proxy(evidence: Evidence) -> Result:
    variables = evidence.fact("net.proxies")
    named = sorted(name for name in variables if name.lower() in ("http_proxy", "https_proxy", "all_proxy"))
    raw = next((value for name, value in variables.items() if name.lower() == "no_proxy"), "")
    if named and (missing := _not_exempt(raw, ("localhost", "127.0.0.1", "host.docker.internal"))):
        return warn(found=", ".join(named), missing=missing)
    # What Docker's client hands to every container it makes, RAGFlow's among them.
    inside = evidence.fact("docker.proxies") if evidence.has("docker.proxies") else {}
    if inside.get("names") and (missing := _not_exempt(inside["exempt"], ("host.docker.internal",))):
        return warn("containers", found=", ".join(inside["names"]), missing=missing)
    return ok(found=", ".join(named) or "-", missing="-")


def _not_exempt(no_proxy: str, hosts: tuple[str, ...]) -> str:
    exempt = {part.strip().lower().lstrip(".") for part in no_proxy.split(",")}
    return "" if "*" in exempt else ",".join(host for host in hosts if host not in exempt)


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
    # Exit codes of curl: 6 no such host, 7 refused, 28 timeout. A firewall that rejects says "no route".
    if found.state == "timeout" or found.code == 28 or "timed out" in text or "no route to host" in text:
        return fail("timeout", url=url)
    if found.code == 7 or "refused" in text or "failed to connect" in text:
        # Nobody is reached from this machine either: nothing to open, only something to start.
        if evidence.has("ollama.version") and evidence.reply("ollama.version").error == "refused":
            return warn("absent", url=url)
        return fail("refused", url=url)
    if found.code == 6 or "could not resolve" in text:
        return fail("name", url=url)
    # What is not curl's talk about the connection.
    last = [line for line in found.text.splitlines() if line.strip() and line[:1] not in "*<>{}"]
    return fail(url=url, found=(last or [f"exit {found.code}"])[0].strip()[:200])
