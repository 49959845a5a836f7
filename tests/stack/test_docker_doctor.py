"""`rfctl doctor` on a real Docker engine: what a container of the stack sees of a model server beside it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from docker_engine import Engine, Stack

pytestmark = [pytest.mark.docker, pytest.mark.slow]
PORT = 11434
SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = b'{"version": "0.32.15"}' if self.path == "/api/version" else b'{"models": []}'
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
http.server.ThreadingHTTPServer((sys.argv[1], int(sys.argv[2])), Handler).serve_forever()
"""


@contextmanager
def model_server(engine: Engine, address: str) -> Iterator[None]:
    """Something like Ollama on the machine of the engine."""
    within = ["nsenter", f"--net=/run/netns/{engine.namespace}"]
    server = subprocess.Popen(
        [*within, sys.executable, "-c", SERVER, address, str(PORT)], stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 20
        own = "127.0.0.1" if address == "0.0.0.0" else address
        while engine.inside("curl", "-fsS", "-m", "1", f"http://{own}:{PORT}/api/version").returncode:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        yield
    finally:
        server.kill()
        server.wait()


@contextmanager
def firewall(engine: Engine, *target: str) -> Iterator[None]:
    """A rule of the machine's own firewall for what comes in through the bridges of Docker."""
    rule = ["INPUT", "-i", "br-+", "-p", "tcp", "--dport", str(PORT), "-j", *target]
    assert engine.inside("iptables", "-I", *rule).returncode == 0
    try:
        yield
    finally:
        engine.inside("iptables", "-D", *rule)


def view(stack: Stack, environment: dict[str, str]) -> dict[str, Any]:
    """The finding, with the doctor on the machine of the engine."""
    pairs = [f"{name}={value}" for name, value in (environment | stack.environment()).items()]
    command = [sys.executable, "-m", "rfctl.cli.main", "doctor", "--only", "net.container-to-host", "--json"]
    done = stack.engine.inside("env", "-i", *pairs, *command)
    finding: dict[str, Any] = json.loads(done.stdout)["findings"][0]
    return finding


def test_refused_dropped_and_absent_are_told_apart(stack: Stack, environment: dict[str, str]) -> None:
    assert stack("stack", "up", "--timeout", "60").code == 0
    engine = stack.engine
    found = view(stack, environment)
    assert (found["verdict"], "no model server runs" in found["message"]) == ("warn", True)
    with model_server(engine, "127.0.0.1"):
        found = view(stack, environment)
        assert (found["verdict"], "refuses the connection" in found["message"]) == ("fail", True)
        assert "OLLAMA_HOST=172.17.0.1:11434" in found["next"]
    with model_server(engine, "0.0.0.0"):
        assert view(stack, environment)["verdict"] == "ok"
        for target in (["DROP"], ["REJECT", "--reject-with", "icmp-host-prohibited"]):
            with firewall(engine, *target):
                found = view(stack, environment)
                assert (found["verdict"], "does not answer" in found["message"]) == ("fail", True), target
                assert "firewall" in found["why"]
    # The address of the override in deploy/linux: containers reach it, the network does not.
    with model_server(engine, "172.17.0.1"):
        found = view(stack, environment | {"OLLAMA_HOST": "172.17.0.1:11434"})
        assert found["verdict"] == "ok", found
