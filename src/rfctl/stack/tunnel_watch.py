"""Keeps one tunnel open: starts ssh, starts it again when it ends, and gives up only when it is told to.

`python -m rfctl.stack.tunnel_watch FOLDER NAME` is what `open_tunnel` launches; the state file has the plan.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.lock import FileLock
from rfctl.core.progress import SILENT, Reporter
from rfctl.stack.tunnel import (
    CONNECTING,
    UP,
    WAITING,
    Place,
    Plan,
    Progress,
    State,
    changed,
    login_error,
    ssh_command,
)

OPEN_SECONDS = 45.0
CLOSE_SECONDS = 10.0
LOG_BYTES = 1 << 20
FIRST_DELAY, LAST_DELAY = 1.0, 60.0
# A tunnel that stood so long is a healthy one: its next failure waits the first delay again.
HEALTHY_SECONDS = 60.0
_POLL_SECONDS = 0.05


def open_tunnel(
    plan: Plan, folder: Path, *, timeout: float = OPEN_SECONDS, reporter: Reporter = SILENT
) -> tuple[State, bool]:
    """The tunnel's state once every forward stands, and whether it was opened now.

    Raises UsageError (`tunnel.no-ssh`, `tunnel.exists`), AuthError, UnreachableError; then nothing runs.
    """
    if shutil.which("ssh") is None:
        raise UsageError("tunnel.no-ssh")
    place = Place(folder, plan.name)
    found = place.read()
    if found is not None and place.is_running():
        if found.plan != plan:
            raise UsageError("tunnel.exists", name=plan.name, host=found.plan.host)
        return found, False
    if found is not None:
        _end_orphan(found)
    folder.mkdir(parents=True, exist_ok=True)
    place.write(State(plan, since=time.time()))
    with reporter.stage("tunnel.opening", unit="seconds", host=plan.host), place.log_file.open("wb") as log:
        child = subprocess.Popen(
            [sys.executable, "-m", "rfctl.stack.tunnel_watch", str(folder), plan.name],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        try:
            return _wait(place, child, plan, timeout), True
        except BaseException:
            close_tunnel(place)
            child.wait()
            raise


def _wait(place: Place, child: subprocess.Popen[bytes], plan: Plan, timeout: float) -> State:
    deadline = time.monotonic() + timeout
    state = place.read()
    while time.monotonic() < deadline:
        state = place.read()
        if state is not None and state.state == UP:
            return state
        if state is not None and state.state == WAITING:
            raise _failure(plan, state.detail)
        # Another `open` may have been faster: then its watcher is the one to wait for.
        if (code := child.poll()) is not None and not place.is_running():
            raise _failure(plan, state.detail if state and state.detail else f"exit {code}")
        time.sleep(_POLL_SECONDS)
    raise UnreachableError("tunnel.timeout", host=plan.host, login=plan.login, seconds=round(timeout))


def _failure(plan: Plan, detail: str) -> RfctlError:
    if (error := login_error(plan.host, plan.login, detail)) is not None:
        return error
    lower = detail.lower()
    if "gatewayports" in lower:
        return RfctlError("tunnel.gateway-ports", host=plan.host, address=plan.forwards[0].bind)
    if "cannot assign requested address" in lower:
        return RfctlError("tunnel.no-address", address=plan.forwards[0].bind, detail=detail)
    if "forward" in lower or "address already in use" in lower or "bind" in lower:
        ports = ", ".join(str(one) for one in plan.forwards)
        return RfctlError("tunnel.forward-refused", host=plan.host, forwards=ports, detail=detail)
    return UnreachableError("tunnel.failed", host=plan.host, login=plan.login, detail=detail)


def close_tunnel(place: Place, timeout: float = CLOSE_SECONDS) -> bool:
    """End the watcher and its ssh; False when nothing ran. Raises RfctlError `tunnel.stop-timeout`."""
    state = place.read()
    was_running = place.is_running()
    deadline = time.monotonic() + timeout
    asked = 0
    while place.is_running():
        state = place.read() or state
        if state is not None and state.pid and asked != state.pid:
            asked = state.pid
            _signal(state.pid, signal.SIGTERM)
        if time.monotonic() > deadline:
            for pid in (state.pid, state.ssh_pid) if state is not None else ():
                _signal(pid, getattr(signal, "SIGKILL", signal.SIGTERM))
            if time.monotonic() > deadline + 5:
                raise RfctlError("tunnel.stop-timeout", name=place.name, seconds=round(timeout))
        time.sleep(_POLL_SECONDS)
    if was_running and state is not None and os.name == "nt":
        # There a watcher ends without a last word, and its ssh goes on.
        _signal(state.ssh_pid, signal.SIGTERM)
    if not was_running and state is not None:
        _end_orphan(state)
    place.remove()
    return was_running


def _end_orphan(state: State) -> None:
    """An ssh whose watcher was killed still holds the ports. It is ours only if its command line is."""
    with contextlib.suppress(OSError):
        found = Path(f"/proc/{state.ssh_pid}/cmdline").read_bytes().decode(errors="replace")
        if found.split("\0")[1:-1] != ssh_command(state.plan)[1:]:
            return
        _signal(state.ssh_pid, signal.SIGTERM)
        deadline = time.monotonic() + CLOSE_SECONDS
        while time.monotonic() < deadline and Path(f"/proc/{state.ssh_pid}/cmdline").read_bytes():
            time.sleep(_POLL_SECONDS)


def _signal(pid: int, number: int) -> None:
    if pid > 0:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


class Watcher:
    """Runs in a process of its own."""

    def __init__(self, place: Place, state: State) -> None:
        self._place = place
        self._state = changed(state, pid=os.getpid(), state=CONNECTING, restarts=0, detail="")
        self._stop = threading.Event()
        self._ssh: subprocess.Popen[str] | None = None

    def stop(self, number: int, frame: FrameType | None) -> None:
        self._stop.set()
        if self._ssh is not None:
            with contextlib.suppress(OSError):
                self._ssh.terminate()

    def run(self) -> None:
        delay = FIRST_DELAY
        self._place.write(self._state)
        while not self._stop.is_set():
            begin = time.monotonic()
            self._connect()
            if self._stop.is_set():
                break
            if time.monotonic() - begin > HEALTHY_SECONDS:
                delay = FIRST_DELAY
            self._set(WAITING, ssh_pid=0)
            self._stop.wait(delay)
            delay = min(delay * 2, LAST_DELAY)
            self._set(CONNECTING, restarts=self._state.restarts + 1)

    def _connect(self) -> None:
        plan = self._state.plan
        progress = Progress(plan.forwards)
        self._ssh = subprocess.Popen(
            ssh_command(plan),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        with self._ssh:
            if self._stop.is_set():  # told to stop while ssh was being started
                self._ssh.terminate()
            self._set(CONNECTING, ssh_pid=self._ssh.pid)
            was_up = False
            for line in self._lines(self._ssh):
                is_up = progress.feed(line)
                if progress.is_rebound:
                    self._ssh.terminate()
                    break
                if is_up and not was_up:
                    was_up = True
                    self._set(UP, detail="")
        self._state = changed(self._state, detail=progress.detail or f"ssh: exit {self._ssh.returncode}")
        self._log(self._state.detail)

    @staticmethod
    def _lines(ssh: subprocess.Popen[str]) -> Iterator[str]:
        """Lines of at most 4096 characters: what a server prints is bounded here."""
        assert ssh.stderr is not None  # opened as a pipe above
        while line := ssh.stderr.readline(4096):
            yield line

    def _set(self, state: str, **values: object) -> None:
        self._state = changed(self._state, state=state, **values)
        self._place.write(self._state)
        self._log(state)

    def _log(self, text: str) -> None:
        path = self._place.log_file
        with contextlib.suppress(OSError):
            mode = "w" if path.exists() and path.stat().st_size > LOG_BYTES else "a"
            with path.open(mode, encoding="utf-8") as file:
                file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())} {text}\n")


def _main(arguments: list[str]) -> int:
    place = Place(Path(arguments[0]), arguments[1])
    lock = FileLock(place.lock_file)
    state = place.read()
    if state is None or not lock.acquire():
        return 1
    watcher = Watcher(place, state)
    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if number := getattr(signal, name, None):
            signal.signal(number, watcher.stop)
    try:
        watcher.run()
    finally:
        lock.release()
    return 0


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
