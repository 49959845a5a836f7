"""Merges settings into `.wslconfig` or `wsl.conf`; other keys, comments and line ends stay.

The old file is kept beside the new one.

`python -m rfctl.stack.wsl_config FILE [--memory 12GB] [--what-if] [--undo]` is what the Windows script calls.
Keys: Microsoft's WSL documentation (wsl-config) of 2026-07; NAT because of microsoft/WSL#12626.
"""

from __future__ import annotations

import argparse
import codecs
import difflib
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from rfctl.core.file import write_atomic

BACKUP = ".rfctl-backup"
MAP_COUNT = "sysctl.vm.max_map_count=262144"
# `/etc/wsl.conf` of a distribution in which the Docker engine is a service.
CONF: Mapping[str, Mapping[str, str]] = {"boot": {"systemd": "true"}}
_SECTION = re.compile(r"^\s*\[([^\]]+)\]\s*$")
_KEY = re.compile(r"^(\s*)([A-Za-z][A-Za-z0-9]*)\s*=\s*(.*?)\s*$")


def read_text(data: bytes) -> str:
    """Text of a settings file: Notepad and PowerShell 5.1 write UTF-16, or UTF-8 with a mark.

    Bytes that are neither (comments in GBK) survive: `plain_bytes` gives them back.
    Raises UnicodeDecodeError.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16")
    if b"\0" in data:
        return data.decode("utf-16-le")
    return data.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape")


def plain_bytes(text: str) -> bytes:
    """The only form that every version of WSL reads (MicrosoftDocs/WSL#1174)."""
    return text.encode("utf-8", "surrogateescape")


def wanted(memory: str = "12GB") -> dict[str, dict[str, str]]:
    """The settings by section. memory: as `.wslconfig` writes it ("12GB")."""
    return {
        "general": {"instanceIdleTimeout": "-1"},
        "wsl2": {
            "memory": memory,
            "networkingMode": "nat",
            "kernelCommandLine": MAP_COUNT,
            "vmIdleTimeout": "-1",
        },
    }


def merge(text: str, settings: Mapping[str, Mapping[str, str]], *, newline: str = "\r\n") -> str:
    """`text` with every key of `settings` set once; a kernel command line keeps its other words.

    newline: for a file that is new; one that is there keeps its own.
    """
    if text:
        newline = "\r\n" if "\r\n" in text else "\n"
    # Not splitlines(): a comment may hold any other character that Unicode calls a line end.
    lines = text.replace("\r\n", "\n").removesuffix("\n").split("\n") if text else []
    for section, keys in settings.items():
        for key, value in keys.items():
            lines = _set(lines, section, key, value)
    return newline.join(lines) + newline if lines else ""


def _set(lines: list[str], section: str, key: str, value: str) -> list[str]:
    current, found, last, done = "", False, 0, False
    result = []
    for line in lines:
        if match := _SECTION.match(line):
            current = match.group(1).strip().lower()
        inside = current == section.lower()
        pair = _KEY.match(line)
        if inside and pair and pair.group(2).lower() == key.lower():
            if done:
                continue
            line = f"{pair.group(1)}{pair.group(2)}={_combine(key, pair.group(3), value)}"
            done = True
        result.append(line)
        if inside and line.strip():
            found, last = True, len(result)
    if done:
        return result
    if not found:
        return [*result, f"[{section}]", f"{key}={value}"]
    return [*result[:last], f"{key}={value}", *result[last:]]


def _combine(key: str, old: str, new: str) -> str:
    if key != "kernelCommandLine":
        return new
    name = new.partition("=")[0]
    kept = [word for word in old.split() if word.partition("=")[0] != name]
    return " ".join([*kept, new])


def difference(old: str, new: str, name: str) -> list[str]:
    """The lines of a unified diff, without line ends; what is no text shows as a replacement character."""
    before, after = (plain_bytes(text).decode("utf-8", "replace").splitlines() for text in (old, new))
    return list(difflib.unified_diff(before, after, name, name, lineterm=""))


def apply(path: Path, memory: str) -> bool:
    """Write the merged file; False when it is right already. The first old file stays as FILE.rfctl-backup.

    A file in UTF-16, which WSL ignores, becomes UTF-8. Raises OSError, UnicodeDecodeError.
    """
    old = path.read_bytes() if path.exists() else b""
    new = plain_bytes(merge(read_text(old), wanted(memory)))
    if new == old:
        return False
    backup = path.with_name(path.name + BACKUP)
    if not backup.exists():
        write_atomic(backup, old)
    write_atomic(path, new)
    return True


def undo(path: Path) -> bool:
    """Put the old file back, or remove one that was new; False without a backup. Raises OSError."""
    backup = path.with_name(path.name + BACKUP)
    if not backup.exists():
        return False
    data = backup.read_bytes()
    if data:
        write_atomic(path, data)
    else:
        path.unlink(missing_ok=True)
    backup.unlink()
    return True


def _main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="rfctl.stack.wsl_config")
    parser.add_argument("file", type=Path)
    parser.add_argument("--memory", default="12GB")
    parser.add_argument("--what-if", action="store_true")
    parser.add_argument("--undo", action="store_true")
    given = parser.parse_args(arguments)
    try:
        if given.what_if:
            old = read_text(given.file.read_bytes()) if given.file.exists() else ""
            backup = given.file.with_name(given.file.name + BACKUP)
            if given.undo:
                new = read_text(backup.read_bytes()) if backup.exists() else old
            else:
                new = merge(old, wanted(given.memory))
            # Pipes of Windows have a code page that may lack what the file holds.
            for line in difference(old, new, ".wslconfig"):
                sys.stdout.buffer.write(line.encode(sys.stdout.encoding, "replace") + b"\n")
        elif given.undo:
            undo(given.file)
        else:
            apply(given.file, given.memory)
    except (OSError, UnicodeDecodeError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(_main())
