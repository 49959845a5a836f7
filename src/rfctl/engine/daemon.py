"""Start, stop and look at the engine of a folder; `serve` runs it in this process.

`python -m rfctl.engine.daemon DIRECTORY [--host H] [--port N]` is what `start` launches.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import logging.handlers
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import httpx

from rfctl.core.error import UnreachableError
from rfctl.core.progress import SILENT, Reporter
from rfctl.core.version import __version__
from rfctl.engine.home import EngineError, Home, RunState

START_SECONDS = 60.0
STOP_SECONDS = 20.0
LOG_BYTES = 2 << 20
LOG_FILES = 3
LOOPBACK = "127.0.0.1"
_POLL_SECONDS = 0.05
_ALREADY_RUNNING = 3


@dataclass(frozen=True)
class Status:
    """running: an engine holds the lock of this folder and answers; url "" and pid 0 when not.

    api_key_file: of the RAGFlow half; models: names of the loaded models; uptime_seconds since it was ready.
    """

    running: bool
    url: str
    pid: int
    version: str
    api_key_file: Path
    log_file: Path
    models: tuple[str, ...]
    uptime_seconds: float


def serve(
    directory: Path,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    on_ready: Callable[[str], None] | None = None,
    log_to_file: bool = True,
) -> None:
    """Run the engine in this process until SIGTERM or SIGINT.

    host: an address other than loopback also exposes create and delete without a password; port 0: the last
    one if it is free, else any; on_ready gets the URL. Raises EngineError `engine.running`,
    `engine.port-taken`, `engine.failed`; OSError.
    """
    from rfctl.engine import server

    home = Home(directory)
    home.make()
    lock = home.lock()
    if not lock.acquire():
        state = home.read_state()
        raise EngineError("engine.running", url=state.url if state else "", directory=directory)
    try:
        home.clear_state()
        if log_to_file:
            _log_to(home.log_file)
        sock = _bind(home, host, port)
        with sock:
            url = _url(host, sock.getsockname()[1])
            app = server.make_app(
                directory, api_key=home.api_key(), self_url=url, is_loopback=is_loopback(host)
            )

            def ready() -> None:
                home.remember_port(sock.getsockname()[1])
                home.write_state(RunState(os.getpid(), url, __version__, time.time()))
                logging.getLogger(__name__).info("rfctl engine %s ready at %s", __version__, url)
                if on_ready is not None:
                    on_ready(url)

            started = server.run(app, sock, ready)
        if not started:
            raise EngineError("engine.failed", path=home.log_file, detail="; ".join(home.tail(1)))
    finally:
        home.clear_state()
        lock.release()


def start(
    directory: Path,
    *,
    host: str = LOOPBACK,
    port: int = 0,
    timeout: float = START_SECONDS,
    reporter: Reporter = SILENT,
) -> Status:
    """The running engine, started in the background if need be; returns when it answers.

    Raises UnreachableError `engine.start-timeout`, EngineError `engine.port-taken`, `engine.failed`, OSError.
    """
    home = Home(directory)
    found = status(directory)
    if found.running:
        return found
    home.make()
    try:
        # Asked here first: what the child says of it arrives as words of a log, not as an error.
        _bind(home, host, port).close()
    except EngineError:
        # An engine that another start has made holds the port rightly.
        if not home.is_running():
            raise
    command = [
        sys.executable,
        "-m",
        "rfctl.engine.daemon",
        str(directory),
        "--host",
        host,
        "--port",
        str(port),
    ]
    with reporter.stage("engine.starting", unit="seconds"):
        with home.stderr_file.open("wb") as errors:
            child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                cwd=directory,
                start_new_session=True,
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0)
                | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
            )
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            found = status(directory)
            if found.running:
                return found
            code = child.poll()
            # Another start may have been faster: then its engine is the one to wait for.
            if code not in (None, _ALREADY_RUNNING) and not home.is_running():
                raise EngineError(
                    "engine.failed", path=home.log_file, detail=home.last_stderr() or f"exit {code}"
                )
            time.sleep(_POLL_SECONDS)
    with contextlib.suppress(OSError):
        child.terminate()
    raise UnreachableError("engine.start-timeout", seconds=round(timeout), path=home.log_file)


def stop(directory: Path, *, timeout: float = STOP_SECONDS) -> bool:
    """End the engine; False when none was running. Nothing acknowledged is lost.

    Raises EngineError `engine.stop-timeout` when even a kill did not end it.
    """
    home = Home(directory)
    if not home.is_running():
        return False
    deadline = time.monotonic() + timeout
    asked: set[int] = set()
    while time.monotonic() < deadline:
        state = home.read_state()
        # Signals go only to the process that holds the lock; during its start it has no state yet.
        if state is not None and state.pid not in asked:
            asked.add(state.pid)
            _signal(state.pid, signal.SIGTERM)
        if not home.is_running():
            return True
        time.sleep(_POLL_SECONDS)
    for pid in asked:
        _signal(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
    end = time.monotonic() + 5.0
    while home.is_running():
        if time.monotonic() > end:
            raise EngineError("engine.stop-timeout", directory=directory, seconds=round(timeout))
        time.sleep(_POLL_SECONDS)
    return True


def status(directory: Path) -> Status:
    """What the engine of that folder is doing; asks it with a short timeout, never starts it."""
    home = Home(directory)
    state = home.read_state()
    models: tuple[str, ...] = ()
    answers = False
    if state is not None:
        try:
            with httpx.Client(base_url=state.url, timeout=5.0, trust_env=False) as http:
                loaded = http.get("/api/ps").raise_for_status().json()["models"]
            models, answers = tuple(str(model["name"]) for model in loaded), True
        except (httpx.HTTPError, ValueError, KeyError, TypeError):
            answers = False
    if state is None or not answers:
        return Status(False, "", 0, "", home.key_file, home.log_file, (), 0.0)
    uptime = max(time.time() - state.started, 0.0)
    return Status(True, state.url, state.pid, state.version, home.key_file, home.log_file, models, uptime)


def read_api_key(directory: Path) -> str:
    """The key of the RAGFlow half (made at the first call). Raises EngineError, OSError."""
    return Home(directory).api_key()


def read_log(directory: Path, lines: int = 100) -> list[str]:
    """The last lines of the engine's log."""
    return Home(directory).tail(lines)


def _bind(home: Home, host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    wishes = [port] if port else [*([last] if (last := home.last_port()) else []), 0]
    for wish in wishes:
        sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        if os.name != "nt":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            sock.bind((host, wish))
        except OSError as error:
            sock.close()
            if wish == wishes[-1]:
                raise EngineError("engine.port-taken", host=host, port=wish, detail=error.strerror) from None
            continue
        sock.set_inheritable(False)
        return sock
    raise AssertionError("no port was tried")


def _url(host: str, port: int) -> str:
    shown = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 (what a client can connect to)
    return f"http://[{shown}]:{port}" if ":" in shown else f"http://{shown}:{port}"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server bound to `host`."""
    return host in ("localhost", "::1") or host.startswith("127.")


def _signal(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _log_to(path: Path) -> None:
    handler = logging.handlers.RotatingFileHandler(
        path, maxBytes=LOG_BYTES, backupCount=LOG_FILES, encoding="utf-8", errors="replace"
    )
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    logging.getLogger("httpcore").setLevel(logging.WARNING)


def _main() -> int:
    parser = argparse.ArgumentParser(prog="rfctl.engine.daemon")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--host", default=LOOPBACK)
    parser.add_argument("--port", type=int, default=0)
    arguments = parser.parse_args()
    try:
        serve(arguments.directory, host=arguments.host, port=arguments.port)
    except EngineError as error:
        sys.stderr.write(f"{error}\n")
        return _ALREADY_RUNNING if error.id == "engine.running" else 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
