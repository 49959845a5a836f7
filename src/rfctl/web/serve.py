"""The process of the page: `python -m rfctl.web.serve`, started by `rfctl.web.launch`.

It reads one line of JSON {"port", "path", "place"} from standard input and serves until that input ends, so
it never outlives the command that started it.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from pathlib import Path
from typing import Any

from rfctl.web.place import Place, use

LOOPBACK = "127.0.0.1"
LIGHT = {"primaryColor": "#2f6fb0", "baseRadius": "0.5rem", "paddingTop": "1rem"}
DARK = {**LIGHT, "primaryColor": "#69a6e0"}
SCRIPT = Path(__file__).parent / "script" / "page.py"


def options(port: int, path: str) -> dict[str, Any]:
    """Settings of Streamlit (`streamlit config show` of 1.67) that no file or variable of the user changes.

    port: to listen on at 127.0.0.1. path: first part of the address, unguessable: who does not know it gets
    neither the page nor its socket, though everybody on this machine can reach the port.
    """
    return {
        "server_address": LOOPBACK,
        "server_port": port,
        "server_baseUrlPath": path,
        "server_headless": True,
        "server_allowedHosts": [LOOPBACK, "localhost"],
        "server_corsAllowedOrigins": [f"http://{LOOPBACK}:{port}", f"http://localhost:{port}"],
        "server_enableCORS": True,
        "server_enableXsrfProtection": True,
        "server_xsrfCookieSameSite": "strict",
        "server_enableStaticServing": False,
        "server_enableAgentApi": False,
        "server_fileWatcherType": "none",
        "server_runOnSave": False,
        "server_showEmailPrompt": False,
        "server_maxUploadSize": 1,
        "browser_gatherUsageStats": False,
        "browser_serverAddress": LOOPBACK,
        "client_toolbarMode": "minimal",
        "client_showErrorDetails": "none",
        "client_showErrorLinks": False,
        "client_showSidebarNavigation": False,
        "runner_magicEnabled": False,
        "logger_level": "warning",
        # In both sections, and not in `theme` itself: that would end the choice by the browser between them.
        **{f"theme_light_{name}": value for name, value in LIGHT.items()},
        **{f"theme_dark_{name}": value for name, value in DARK.items()},
    }


def _main() -> None:
    message = json.loads(sys.stdin.readline())
    use(Place.from_message(message["place"]))
    threading.Thread(target=_end_with_input, daemon=True).start()
    from streamlit.web import bootstrap

    flags = options(int(message["port"]), message["path"])
    bootstrap.load_config_options(flags)
    bootstrap.run(str(SCRIPT), False, [], flags)


def _end_with_input() -> None:
    """Nothing here is worth finishing: the server keeps every conversation."""
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    _main()
