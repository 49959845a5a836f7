"""Starting the page as a process of its own, on loopback, and ending it."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from types import TracebackType
from typing import Self

import httpx

from rfctl.core.error import RfctlError, UnreachableError, UsageError
from rfctl.core.progress import SILENT, Reporter
from rfctl.web.place import Place
from rfctl.web.serve import LOOPBACK

START_SECONDS = 60.0
STOP_SECONDS = 5.0
ATTEMPTS = 3
_PAUSE_SECONDS = 0.1
_KEPT_LINES = 40


def check_extra() -> None:
    """Raise UsageError `web.no-streamlit` where the library of the page is not installed."""
    if importlib.util.find_spec("streamlit") is None:
        raise UsageError("web.no-streamlit")


class Page:
    """A running page. A context manager that ends it. url: to open, unguessable part included."""

    def __init__(self, place: Place, port: int) -> None:
        self.port = port
        token = secrets.token_urlsafe(12)
        self.url = f"http://{LOOPBACK}:{port}/{token}/"
        self._last_words: deque[str] = deque(maxlen=_KEPT_LINES)
        # A group of its own: Ctrl-C reaches the command alone, which then ends the page in good order.
        self._process = subprocess.Popen(
            [sys.executable, "-m", "rfctl.web.serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            process_group=None if sys.platform == "win32" else 0,
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        self._reader = threading.Thread(target=self._listen, daemon=True)
        self._reader.start()
        message = {"port": port, "path": token, "place": place.to_message()}
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int:
        return self._process.pid

    def await_ready(self, seconds: float = START_SECONDS) -> None:
        """Return when the page answers. Raises `web.ended`, UnreachableError `web.start-timeout`."""
        deadline = time.monotonic() + seconds
        with httpx.Client(timeout=2, trust_env=False) as http:
            while time.monotonic() < deadline:
                if self._process.poll() is not None:
                    raise self._death()
                with contextlib.suppress(httpx.HTTPError):
                    if http.get(self.url + "_stcore/health").text == "ok":
                        return
                time.sleep(_PAUSE_SECONDS)
        raise UnreachableError("web.start-timeout", seconds=seconds)

    def wait(self) -> None:
        """Until the process ends, which by itself it does only when something is wrong: `web.ended`."""
        self._process.wait()
        raise self._death()

    def stop(self) -> None:
        """End the process; none is left when this returns."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._reader.join(STOP_SECONDS)

    def _listen(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._last_words.append(line.rstrip())

    def _death(self) -> RfctlError:
        self._reader.join(STOP_SECONDS)
        detail = next((line for line in reversed(self._last_words) if line.strip()), "")
        return RfctlError("web.ended", detail=detail or f"exit {self._process.returncode}")


def open_page(place: Place, *, port: int = 0, reporter: Reporter = SILENT) -> Page:
    """A page that answers. port: 0 for a free one.

    Raises UsageError `web.no-streamlit`, `web.port-taken`, and as `Page.await_ready`.
    """
    check_extra()
    with reporter.stage("web.starting", unit="seconds"):
        for attempt in range(ATTEMPTS):
            page = Page(place, _check_port(port))
            try:
                page.await_ready()
            except BaseException as error:
                page.stop()
                # Somebody else may have taken the free port in between.
                if port or not isinstance(error, RfctlError) or attempt == ATTEMPTS - 1:
                    raise
            else:
                return page
    raise AssertionError


def _check_port(port: int) -> int:
    with socket.socket() as probe:
        if sys.platform != "win32":
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError as error:
            detail = error.strerror or str(error)
            raise UsageError("web.port-taken", port=port, detail=detail) from error
        return int(probe.getsockname()[1])
