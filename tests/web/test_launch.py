"""`rfctl chat web` as a process: its socket, its answers, its end."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from ragflow_command import KEY, Run, serving

needs_streamlit = pytest.mark.skipif(
    importlib.util.find_spec("streamlit") is None,
    reason="the extra `ui` is not installed: pip install -e '.[ui]'",
)
ADDRESS = re.compile(r"http://127\.0\.0\.1:(\d+)/[\w-]{16}/")


@contextmanager
def running(environment: dict[str, str], *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """`rfctl chat web ARGUMENTS` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", "rfctl.cli.main", "chat", "web", "--no-open", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=20)


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    assert line, process.communicate(timeout=20)
    return line


def opens_socket(url: str, origin: str) -> bool:
    """Whether a page of this origin may talk to the server at this address."""
    from websockets.exceptions import InvalidStatus
    from websockets.sync.client import connect

    address = url.replace("http", "ws", 1) + "_stcore/stream"
    try:
        with connect(address, origin=origin, subprotocols=["streamlit"], open_timeout=10, proxy=None):
            return True
    except InvalidStatus as refused:
        assert refused.response.status_code in (403, 404)
        return False


def children(pid: int) -> list[int]:
    return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(pids: list[int], seconds: float = 15) -> bool:
    deadline = time.monotonic() + seconds
    while any(is_alive(pid) for pid in pids):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def configured(tmp_path: Path, rfctl: Run, environment: dict[str, str]) -> Iterator[dict[str, str]]:
    """An environment in which a server without documents is configured."""
    with serving(tmp_path, rfctl) as (engine, _):
        yield environment | {
            "RAGFLOW_BASE_URL": engine.url,
            "RAGFLOW_API_KEY": KEY,
            "OLLAMA_HOST": engine.double_url,
        }


@needs_streamlit
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_page_is_served_on_loopback_until_ctrl_c(configured: dict[str, str], home: Path) -> None:
    with running(configured) as process:
        url = first_line(process)
        found = ADDRESS.fullmatch(url)
        assert found, url
        port = int(found[1])
        with httpx.Client(trust_env=False, timeout=20) as http:
            assert http.get(url + "_stcore/health").text == "ok"
            page = http.get(url)
            assert page.status_code == 200
            assert KEY not in page.text
            # Who does not know the address gets nothing, and neither does another site.
            root = f"http://127.0.0.1:{port}/"
            assert http.get(root).status_code == 404
            assert http.get(root + "_stcore/health").status_code == 404
        assert opens_socket(url, f"http://127.0.0.1:{port}")
        assert not opens_socket(url, "http://evil.example")
        assert not opens_socket(root, f"http://127.0.0.1:{port}")
        pids = children(process.pid)
        assert listeners(port) == {"127.0.0.1"}
        for pid in [process.pid, *pids]:
            assert KEY.encode() not in Path(f"/proc/{pid}/cmdline").read_bytes()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (0, "")
        assert err.splitlines()[-1] == "The web chat has ended"
        assert gone(pids)
        assert not (home / ".streamlit").exists()


@needs_streamlit
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_page_does_not_outlive_a_command_that_was_killed(configured: dict[str, str]) -> None:
    with running(configured, "--json") as process:
        assert process.stdout is not None
        text = ""
        while not text.endswith("}\n"):
            text += process.stdout.readline()
        document = json.loads(text)
        assert set(document) == {"schema_version", "url", "port", "pid"}
        assert is_alive(document["pid"])
        os.kill(process.pid, signal.SIGKILL)
        assert gone([document["pid"]])


@needs_streamlit
def test_a_port_that_is_taken_is_an_error(configured: dict[str, str], rfctl: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        result = rfctl("chat", "web", "--no-open", "--port", str(port), env=configured)
    assert (result.code, result.out) == (2, "")
    assert f"error[web.port-taken]: The port {port} on 127.0.0.1 cannot be used" in result.err


@needs_streamlit
def test_what_is_wrong_is_said_before_the_page_starts(configured: dict[str, str], rfctl: Run) -> None:
    unknown = rfctl("chat", "web", "nobody", "--no-open", env=configured)
    assert (unknown.code, unknown.err.split(":")[0]) == (2, "error[chat.unknown]")
    gone_away = configured | {"RAGFLOW_BASE_URL": "http://127.0.0.1:9"}
    assert rfctl("chat", "web", "--no-open", env=gone_away).code == 3


def test_a_missing_extra_is_told_with_the_command_that_installs_it(rfctl: Run, tmp_path: Path) -> None:
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "sitecustomize.py").write_text(
        "import importlib.util as u\nf = u.find_spec\n"
        "u.find_spec = lambda name, package=None: None if name == 'streamlit' else f(name, package)\n",
        encoding="utf-8",
    )
    result = rfctl("chat", "web", "--no-open", env={"PYTHONPATH": str(blocked)})
    assert (result.code, result.out) == (2, "")
    assert result.err == (
        "error[web.no-streamlit]: The web chat needs a package that is not installed: streamlit\n"
        "  why: It is an extra of rfctl, because it is large\n"
        "  next: pip install 'rfctl-ragflow[ui]'\n"
        "  rfctl explain web.no-streamlit\n"
    )


def listeners(port: int) -> set[str]:
    """Addresses on which this port is listened to, IPv6 as its hex digits."""
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{name}").read_text().splitlines()[1:]:
            address, state = line.split()[1], line.split()[3]
            digits, _, number = address.partition(":")
            if state == "0A" and int(number, 16) == port:
                found.add(socket.inet_ntoa(bytes.fromhex(digits)[::-1]) if name == "tcp" else digits)
    return found
