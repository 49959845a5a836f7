"""What the programs of Windows print, whichever language Windows speaks.

Sources: Microsoft's WSL documentation (basic-commands) and netsh of Windows 11 24H2, 2026-07.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from rfctl.stack.child import Capture

# The first version of the Store with all the settings that are used here.
MIN_STORE = (2, 0, 0)
_ROW = re.compile(r"^(?P<mark>[*\s])\s*(?P<name>[\w.][\w.-]*)\s+(?P<state>.*\S)\s+(?P<generation>[12])\s*$")
# Rows with a star were reserved by an administrator for programs that ask for the port by its number.
_RANGE = re.compile(r"^\s*(\d+)\s+(\d+)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Distribution:
    """A row of `wsl.exe -l -v`. generation: 1 or 2."""

    name: str
    generation: int
    is_default: bool = False


def read_distributions(listed: Capture) -> tuple[Distribution, ...]:
    """The rows of `wsl.exe -l -v`; its heading and the states are translated by Windows."""
    if not listed.is_ok:
        return ()
    rows = [match for line in listed.out.splitlines() if (match := _ROW.match(line))]
    return tuple(Distribution(row["name"], int(row["generation"]), row["mark"] == "*") for row in rows)


def read_excluded(text: str) -> tuple[tuple[int, int], ...]:
    """Ranges of ports that no program gets: `netsh interface ipv4 show excludedportrange protocol=tcp`."""
    return tuple((int(low), int(high)) for low, high in _RANGE.findall(text))


def is_wslc(path: str) -> bool:
    """Whether the program behind the name `docker` is `wslc`, WSL's own (microsoft/WSL#40948): it has no
    compose."""
    return re.search(r"(?:^|[\\/])wslc(?:\.exe)?$", path.strip(), re.IGNORECASE) is not None
