"""A Windows that answers as recorded: `wsl.exe`, `powershell.exe`, `docker.exe` and `netsh.exe` on PATH."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "windows"
PROGRAMS = ("wsl.exe", "powershell.exe", "docker.exe", "netsh.exe")

# Answers byte for byte, writes down every other command line, and then changes what the test said it changes.
PROGRAM = """#!{python} -IS
import json, os, sys
name = os.path.basename(sys.argv[0])
arguments = sys.argv[1:]
if name == "powershell.exe" and "-File" in arguments:
    script = arguments[arguments.index("-File") + 1]
    arguments = [script.replace("\\\\", "/").rpartition("/")[2], *arguments[arguments.index("-File") + 2 :]]
line = " ".join([name, *arguments])
state = json.load(open({state!r}, encoding="utf-8"))
if line in state["commands"]:
    answer = state["commands"][line]
    sys.stdout.buffer.write(answer["text"].encode(answer["encoding"]))
    sys.exit(answer["code"])
if "--exec" in arguments and "root" not in arguments or name == "docker.exe":
    sys.exit(1)  # a question that this machine has no answer to
with open({log!r}, "a", encoding="utf-8") as file:
    file.write(line + "\\n")
for part, change in state.get("changes", {{}}).items():
    if part in line:
        state["commands"].update(change)
        json.dump(state, open({state!r}, "w", encoding="utf-8"), ensure_ascii=False)
        sys.exit(0)
"""


class WindowsMachine:
    """One recorded state in a folder of its own. `profile` takes the place of C:\\Users\\..."""

    def __init__(self, folder: Path, name: str) -> None:
        self.folder = folder
        self.state_file = folder / "state.json"
        self.log_file = folder / "log"
        self.profile = folder / "profile"
        self.profile.mkdir()
        self.programs = folder / "programs"
        self.programs.mkdir()
        state = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
        facts = state["commands"]["powershell.exe inspect.ps1"]
        facts["text"] = json.dumps(
            json.loads(facts["text"]) | {"profile": str(self.profile)}, ensure_ascii=False
        )
        if state["wslconfig"] is not None:
            (self.profile / ".wslconfig").write_bytes(state["wslconfig"].encode())
        self.arguments: list[str] = state.get("arguments", [])
        self.write(state)
        text = PROGRAM.format(python=sys.executable, state=str(self.state_file), log=str(self.log_file))
        for program in PROGRAMS:
            path = self.programs / program
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)

    def read(self) -> dict[str, Any]:
        state: dict[str, Any] = json.loads(self.state_file.read_text(encoding="utf-8"))
        return state

    def write(self, state: dict[str, Any]) -> None:
        self.state_file.write_text(json.dumps(state, ensure_ascii=False), encoding="utf-8")

    def changes(self, **facts: object) -> dict[str, Any]:
        """The answer of `inspect.ps1` with other facts, for the `changes` of a state."""
        line = "powershell.exe inspect.ps1"
        answer = self.read()["commands"][line]
        text = json.dumps(json.loads(answer["text"]) | facts, ensure_ascii=False)
        return {line: answer | {"text": text}}

    def log(self) -> list[str]:
        return self.log_file.read_text(encoding="utf-8").splitlines() if self.log_file.exists() else []

    def environment(self) -> dict[str, str]:
        return {"PATH": f"{self.programs}:/usr/bin:/bin"}
