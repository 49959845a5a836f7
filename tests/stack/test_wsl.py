"""`rfctl deploy wsl`: the plans of recorded machines as golden texts, and steps that really run.

The golden texts are written anew with RFCTL_WRITE_GOLDEN=1; read the difference before it is committed.
"""

from __future__ import annotations

import base64
import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from windows_machine import FOLDER, WindowsMachine

from rfctl.core.data import data_folder
from rfctl.core.error import UsageError
from rfctl.stack import wsl_gateway
from rfctl.stack.evidence import Evidence
from rfctl.stack.wsl import Distribution, Machine, read_machine
from rfctl.stack.wsl_apply import command_line, elevated
from rfctl.stack.wsl_capture import Folders, powershell
from rfctl.stack.wsl_plan import Wish, make_plan

Run = Callable[..., Any]
STATES = sorted(path.stem for path in FOLDER.glob("*.json"))
UBUNTU = (Distribution("Ubuntu", 2, is_default=True),)
FOLDERS = Folders("C:\\deploy", "C:\\deploy", Path("/profile/.wslconfig"))


def plain(text: str, machine: WindowsMachine) -> str:
    """The text without the places of this test run."""
    text = text.replace(str(data_folder("deploy")), "<deploy>").replace(sys.executable, "<python>")
    return text.replace(str(machine.profile), "<profile>")


def test_the_recorded_states_are_the_ones_that_matter() -> None:
    assert set(STATES) >= {"nat", "mirrored", "desktop", "engine", "ollama-windows", "ollama-distro", "gbk"}


@pytest.mark.parametrize("name", STATES)
def test_the_plan_of_a_recorded_machine(rfctl: Run, tmp_path: Path, name: str) -> None:
    machine = WindowsMachine(tmp_path, name)
    for language in ("en", "zh"):
        arguments = ("--quiet", "--lang", language, *machine.arguments)
        done = rfctl("deploy", "wsl", "plan", *arguments, env=machine.environment())
        assert (done.code, done.err) == (0, "")
        golden = FOLDER / f"{name}.{language}.txt"
        if os.environ.get("RFCTL_WRITE_GOLDEN"):
            golden.write_text(plain(done.out, machine), encoding="utf-8")
        assert plain(done.out, machine) == golden.read_text(encoding="utf-8")
    # To plan is to look: nothing else was run.
    assert machine.log() == []


def test_a_plan_as_json_and_as_exit_code(rfctl: Run, tmp_path: Path) -> None:
    machine = WindowsMachine(tmp_path, "mirrored")
    done = rfctl("deploy", "wsl", "plan", "--json", "--detailed-exitcode", env=machine.environment())
    assert done.code == 10
    report = json.loads(done.out)
    assert [step["id"] for step in report["steps"]] == ["config", "restart", "ollama-port"]
    assert "+networkingMode=nat" in report["steps"][0]["change"]
    ready = tmp_path / "ready"
    ready.mkdir()
    machine = WindowsMachine(ready, "desktop")
    assert rfctl("deploy", "wsl", "plan", "--detailed-exitcode", env=machine.environment()).code == 0


def test_apply_does_the_steps_once_and_undo_takes_them_back(rfctl: Run, tmp_path: Path) -> None:
    machine = WindowsMachine(tmp_path, "ollama-windows")
    (machine.profile / ".wslconfig").write_bytes(b"# mine\r\n[wsl2]\r\nmemory=4GB\r\n")
    state = machine.read()
    state["commands"] |= machine.changes(elevated=True)
    machine.write(state)
    open_facts = machine.changes(ollama_host="0.0.0.0", rule=True)
    all_facts = machine.changes(ollama_host="0.0.0.0", rule=True, autostart=True)
    state["changes"] = {"04-ollama.ps1 -Expose": open_facts, "06-autostart.ps1": all_facts}
    machine.write(state)
    env = machine.environment()

    refused = rfctl("deploy", "wsl", "apply", env=env)
    assert (refused.code, machine.log()) == (7, [])

    first = rfctl("deploy", "wsl", "apply", "--yes", "--json", env=env)
    assert first.code == 6
    outcomes = {one["step"]: one["state"] for one in json.loads(first.out)["outcomes"]}
    assert outcomes == {"config": "done", "restart": "left", "ollama-reach": "done", "autostart": "done"}
    assert machine.log() == [
        "powershell.exe 04-ollama.ps1 -Expose",
        "powershell.exe 06-autostart.ps1 -Distribution Ubuntu",
    ]
    assert b"# mine\r\n" in (machine.profile / ".wslconfig").read_bytes()
    assert b"memory=24GB\r\n" in (machine.profile / ".wslconfig").read_bytes()

    again = rfctl("deploy", "wsl", "apply", "--yes", env=env)
    assert (again.code, again.out) == (0, "Nothing is missing on this machine\n")
    assert len(machine.log()) == 2

    back = rfctl("deploy", "wsl", "apply", "--undo", "--yes", env=env)
    assert back.code == 0, back.err
    assert machine.log()[2:] == [
        "powershell.exe 06-autostart.ps1 -Distribution Ubuntu -Undo",
        "powershell.exe 04-ollama.ps1 -Expose -Undo",
    ]
    assert (machine.profile / ".wslconfig").read_bytes() == b"# mine\r\n[wsl2]\r\nmemory=4GB\r\n"
    assert rfctl("deploy", "wsl", "apply", "--undo", "--yes", env=env).out == (
        "Nothing is missing on this machine\n"
    )


def test_what_needs_an_administrator_is_printed_and_the_rest_is_done(rfctl: Run, tmp_path: Path) -> None:
    machine = WindowsMachine(tmp_path, "ollama-windows")
    done = rfctl("deploy", "wsl", "apply", "--yes", env=machine.environment())
    assert done.code == 6
    # The window stays, so that its words can be read.
    assert "Start-Process powershell.exe -Verb RunAs -Wait -ArgumentList '-NoExit -NoProfile" in done.out
    assert "error[wsl.steps-left]: 1 steps need you: ollama-reach" in done.err
    assert machine.log() == ["powershell.exe 06-autostart.ps1 -Distribution Ubuntu"]


def test_what_is_inside_the_distribution_waits_for_the_restart(rfctl: Run, tmp_path: Path) -> None:
    """Without systemd, Docker and Ollama would be installed without their services."""
    machine = WindowsMachine(tmp_path, "nat")
    # The distribution's own folder is asked and the scripts of root are run: both are answered here.
    done = rfctl("deploy", "wsl", "apply", "--yes", "--json", "--engine", "distro", env=machine.environment())
    assert done.code == 6
    outcomes = [(one["step"], one["state"]) for one in json.loads(done.out)["outcomes"]]
    assert outcomes == [
        ("config", "done"),
        ("systemd", "done"),
        ("restart", "left"),
        ("engine", "left"),
        ("ollama-distro", "left"),
        ("ollama-bridge", "left"),
        ("autostart", "done"),
    ]
    assert not any("install-" in line for line in machine.log())


def test_a_docker_that_is_wslc_is_refused(rfctl: Run, tmp_path: Path) -> None:
    machine = WindowsMachine(tmp_path, "engine")
    state = machine.read()
    question = "wsl.exe -d Ubuntu --exec readlink -f /usr/local/bin/docker /usr/bin/docker"
    answer = "/mnt/c/Program Files/WSL/wslc.exe\n/usr/bin/docker\n"
    state["commands"][question] = {"code": 0, "encoding": "utf-8", "text": answer}
    machine.write(state)
    for action in ("plan", "apply"):
        done = rfctl("deploy", "wsl", action, "--yes", env=machine.environment())
        assert (done.code, done.out) == (7, "")
        assert "error[wsl.wslc]: docker is /mnt/c/Program Files/WSL/wslc.exe here, " in done.err
    assert machine.log() == []
    other = tmp_path / "other"
    other.mkdir()
    machine = WindowsMachine(other, "engine")
    state = machine.read()
    state["commands"] |= machine.changes(docker="C:\\Program Files\\WSL\\wslc.exe")
    machine.write(state)
    assert rfctl("deploy", "wsl", "plan", env=machine.environment()).code == 7


def test_another_server_of_packages_is_passed_on(rfctl: Run, tmp_path: Path) -> None:
    machine = WindowsMachine(tmp_path, "nat")
    arguments = ("deploy", "wsl", "plan", "--engine", "distro", "--mirror")
    done = rfctl(*arguments, "https://mirror.example/docker-ce/", env=machine.environment())
    assert "--exec sh install-docker.sh --mirror https://mirror.example/docker-ce\n" in done.out
    refused = rfctl(*arguments, "http://mirror.example", env=machine.environment())
    assert refused.code == 2
    assert "error[wsl.mirror-invalid]" in refused.err


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_a_file_that_wsl_ignores_is_made_readable(rfctl: Run, tmp_path: Path, encoding: str) -> None:
    """Notepad's "Unicode" and PowerShell's `>` write UTF-16."""
    machine = WindowsMachine(tmp_path, "desktop")
    path = machine.profile / ".wslconfig"
    right = path.read_bytes().decode()
    path.write_bytes(right.encode(encoding))
    env = machine.environment()
    done = rfctl("deploy", "wsl", "plan", "--json", env=env)
    assert [step["id"] for step in json.loads(done.out)["steps"]] == ["config", "restart"]
    assert rfctl("deploy", "wsl", "apply", "--yes", env=env).code == 6
    assert path.read_bytes() == right.encode()
    assert rfctl("deploy", "wsl", "plan", "--json", env=env).code == 0
    assert rfctl("deploy", "wsl", "apply", "--undo", "--yes", env=env).code == 0
    assert path.read_bytes() == right.encode(encoding)


def test_a_settings_file_of_linux_gets_its_own_line_ends() -> None:
    machine = Machine(
        "store", UBUNTU, "nat", frozenset({"distro"}), has_systemd=False, conf="[boot]\r\nsystemd=true\r\n"
    )
    step = next(one for one in make_plan(machine, Wish(), FOLDERS, "python").steps if one.id == "systemd")
    assert base64.b64decode(step.command[-1]) == b"[boot]\nsystemd=true\n"


@pytest.mark.parametrize(("gigabytes", "memory"), [(16, "11GB"), (32, "24GB"), (64, "48GB"), (8, "4GB")])
def test_windows_keeps_some_memory(gigabytes: int, memory: str) -> None:
    machine = Machine("store", UBUNTU, "nat", frozenset({"desktop"}), memory=gigabytes << 30)
    step = next(one for one in make_plan(machine, Wish(), FOLDERS, "python").steps if one.id == "config")
    assert step.params["memory"] == memory


def test_commands_are_quoted_for_powershell() -> None:
    python = ("C:\\Users\\Li Lei\\python.exe", "-m", "rfctl.stack.wsl_config")
    assert command_line(python) == '& "C:\\Users\\Li Lei\\python.exe" -m rfctl.stack.wsl_config'
    assert command_line(("wsl.exe", "--shutdown")) == "wsl.exe --shutdown"
    script = powershell("C:\\Program Files\\O'x\\01.ps1", "-Distribution", "Ubuntu")
    assert elevated(script) == (
        "Start-Process powershell.exe -Verb RunAs -Wait -ArgumentList '-NoExit -NoProfile "
        "-ExecutionPolicy Bypass -File \"C:\\Program Files\\O''x\\01.ps1\" -Distribution Ubuntu'"
    )


def test_who_names_an_engine_may_keep_both() -> None:
    machine = Machine("store", UBUNTU, "nat", frozenset({"desktop", "distro"}), frozenset({"distro"}))
    assert "one-engine" in [step.id for step in make_plan(machine, Wish(), FOLDERS, "python").steps]
    plan = make_plan(machine, Wish(engine="distro"), FOLDERS, "python")
    assert not {"one-engine", "engine", "desktop"} & {step.id for step in plan.steps}


ROUTES = (
    "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n"
    "docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n"
    "eth0\t00000000\t015018AC\t0003\t0\t0\t0\t00000000\t0\t0\t0\n"
)


def test_the_address_of_windows_is_the_default_gateway() -> None:
    assert wsl_gateway.default_gateway(ROUTES) == "172.24.80.1"
    assert wsl_gateway.default_gateway(ROUTES.splitlines()[0]) == ""


@given(st.text(max_size=200))
def test_whatever_the_routes_are_an_address_or_nothing_comes_out(text: str) -> None:
    found = wsl_gateway.default_gateway("heading\n" + text)
    assert found == "" or found.count(".") == 3


def test_an_ollama_of_the_distribution_is_seen(tmp_path: Path) -> None:
    environment = {"PATH": str(tmp_path)}
    missing = tmp_path / "ollama.service"
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
        assert wsl_gateway.has_own_ollama(environment, missing, port)
    assert not wsl_gateway.has_own_ollama(environment, missing, port)
    missing.touch()
    assert wsl_gateway.has_own_ollama(environment, missing, port)
    # Outside WSL nothing is said about the host.
    assert wsl_gateway.host_gateway(environment) == {}


def test_a_step_that_fails_is_named_and_the_others_wait(
    rfctl: Run, environment: dict[str, str], tmp_path: Path
) -> None:
    machine = WindowsMachine(tmp_path, "ollama-windows")
    state = machine.read()
    line = "powershell.exe 06-autostart.ps1 -Distribution Ubuntu"
    state["commands"][line] = {"code": 1, "encoding": "gbk", "text": "拒绝访问。\r\n"}
    machine.write(state)
    done = rfctl("deploy", "wsl", "apply", "--yes", env=machine.environment())
    assert done.code == 1
    assert "error[wsl.step-failed]: The step autostart failed: 拒绝访问。" in done.err
    # What a step did before it failed is taken back too.
    shown = rfctl("deploy", "wsl", "plan", "--undo", env=machine.environment())
    assert shown.out.rstrip().endswith("06-autostart.ps1 -Distribution Ubuntu -Undo")
    broken = Path(environment["RFCTL_HOME"]) / "data" / "deploy" / "wsl-applied.json"
    broken.write_text('[{"step": 1}]', encoding="utf-8")
    assert rfctl("deploy", "wsl", "plan", "--undo", env=machine.environment()).code == 2


def test_without_windows_the_command_says_so(rfctl: Run) -> None:
    done = rfctl("deploy", "wsl", "plan", env={"PATH": "/usr/bin:/bin"})
    assert done.code == 2
    assert done.err.splitlines()[-4].startswith("error[wsl.not-windows]")


def test_facts_that_are_no_json_are_refused() -> None:
    capture = {"state": "done", "code": 1, "out": "", "err": "running scripts is disabled on this system"}
    with pytest.raises(UsageError, match=r"wsl\.no-facts.*scripts is disabled"):
        read_machine(Evidence({"windows.facts": capture}))


def test_the_text_of_wsl_conf_arrives(tmp_path: Path) -> None:
    script = data_folder("deploy") / "windows" / "write-wsl-conf.sh"
    place = tmp_path / "etc" / "wsl.conf"
    place.parent.mkdir()
    place.write_text("# mine\n[user]\ndefault=li\n", encoding="utf-8")
    machine = Machine(
        "store", UBUNTU, "nat", frozenset({"distro"}), has_systemd=False, conf=place.read_text("utf-8")
    )
    step = next(one for one in make_plan(machine, Wish(), FOLDERS, "python").steps if one.id == "systemd")
    environment = {"PATH": "/usr/bin:/bin", "RFCTL_INSTALL_ROOT": str(tmp_path)}

    def run(*arguments: str) -> str:
        return subprocess.run(
            ["sh", str(script), *arguments],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        ).stdout

    text = step.command[-1]
    assert "+systemd=true" in run("--what-if", text)
    assert "systemd" not in place.read_text("utf-8")
    for _ in range(2):
        run(text)
        assert place.read_text("utf-8") == "# mine\n[user]\ndefault=li\n[boot]\nsystemd=true\n"
    assert base64.b64decode(text).decode() == place.read_text("utf-8")
    run("--undo")
    assert place.read_text("utf-8") == "# mine\n[user]\ndefault=li\n"
    place.unlink()
    run(text)
    run("--undo")
    assert list(place.parent.iterdir()) == []
