"""What is under deploy/: the merge of `.wslconfig`, the scripts' rules, and the Linux script on a folder."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rfctl.core.data import data_folder
from rfctl.stack.check_wsl import wsl_config
from rfctl.stack.wsl_config import BACKUP, apply, merge, undo, wanted

FOLDER = data_folder("deploy")
POWERSHELL = sorted(FOLDER.rglob("*.ps1"))


def test_merge_keeps_what_is_the_users() -> None:
    old = (
        "# mine\r\n[wsl2]\r\nmemory=4GB # little\r\nKernelCommandLine = quiet sysctl.vm.max_map_count=1\r\n"
        "networkingMode=mirrored\r\n\r\n[experimental]\r\nsparseVhd=true\r\n"
    )
    assert merge(old, wanted("12GB")) == (
        "# mine\r\n[wsl2]\r\nmemory=12GB\r\nKernelCommandLine=quiet sysctl.vm.max_map_count=262144\r\n"
        "networkingMode=nat\r\nvmIdleTimeout=-1\r\n\r\n[experimental]\r\nsparseVhd=true\r\n"
        "[general]\r\ninstanceIdleTimeout=-1\r\n"
    )


def test_merge_makes_a_file_where_there_was_none() -> None:
    assert merge("", wanted("12GB")) == (
        "[general]\r\ninstanceIdleTimeout=-1\r\n[wsl2]\r\nmemory=12GB\r\nnetworkingMode=nat\r\n"
        "kernelCommandLine=sysctl.vm.max_map_count=262144\r\nvmIdleTimeout=-1\r\n"
    )


LINES = st.sampled_from(
    [
        "[wsl2]",
        "[general]",
        "[experimental]",
        "memory=4GB",
        "Memory = 8GB",
        "# x",
        "",
        "swap=0",
        "vmIdleTimeout=5",
    ]
)


@given(st.lists(LINES, max_size=12), st.sampled_from(["\n", "\r\n"]))
def test_merge_sets_every_key_and_does_nothing_twice(lines: list[str], newline: str) -> None:
    old = newline.join(lines)
    new = merge(old, wanted())
    assert merge(new, wanted()) == new
    kept = [line for line in lines if line.startswith(("#", "swap", "[experimental]"))]
    assert [line for line in new.splitlines() if line.startswith(("#", "swap", "[experimental]"))] == kept
    if not lines or lines[0].startswith("["):
        parsed = wsl_config(new)
        for section, keys in wanted().items():
            for key, value in keys.items():
                assert parsed.get(section, key) == value


def test_apply_and_undo_are_exact(tmp_path: Path) -> None:
    path = tmp_path / ".wslconfig"
    path.write_bytes(b"[wsl2]\r\nmemory=4GB\r\n")
    assert apply(path, "12GB")
    assert not apply(path, "12GB")
    assert apply(path, "16GB")
    assert undo(path)
    assert path.read_bytes() == b"[wsl2]\r\nmemory=4GB\r\n"
    assert not undo(path)
    path.unlink()
    assert apply(path, "12GB")
    assert undo(path)
    assert list(tmp_path.iterdir()) == []


def test_the_module_shows_what_it_would_do_and_does_nothing(tmp_path: Path) -> None:
    path = tmp_path / ".wslconfig"
    path.write_bytes(b"[wsl2]\nmemory=4GB\n")
    command = [sys.executable, "-m", "rfctl.stack.wsl_config", str(path)]
    done = subprocess.run([*command, "--what-if"], capture_output=True, encoding="utf-8", check=True)
    assert "-memory=4GB\n+memory=12GB\n" in done.stdout
    assert path.read_bytes() == b"[wsl2]\nmemory=4GB\n"
    assert not path.with_name(path.name + BACKUP).exists()
    path.write_bytes(b"\xff\xfe\x00broken")
    assert subprocess.run(command, capture_output=True, check=False).returncode == 1
    assert path.read_bytes() == b"\xff\xfe\x00broken"


def test_the_example_is_what_the_merge_wants() -> None:
    text = (FOLDER / "windows" / "wslconfig.example").read_text(encoding="ascii")
    assert merge(text, wanted("12GB")) == text


@pytest.mark.parametrize("path", POWERSHELL, ids=lambda path: path.name)
def test_powershell_keeps_to_the_rules(path: Path) -> None:
    text = path.read_bytes().decode("ascii")
    assert text.startswith("#Requires -Version 5.1")
    assert "SupportsShouldProcess = $true" in text
    assert "[switch] $Undo" in text
    assert "Set-StrictMode" in text
    # Whatever changes something is behind ShouldProcess, so that -WhatIf holds.
    for line in re.findall(
        r"^.*(?:New-NetFirewallRule|Remove-NetFirewallRule|SetEnvironmentVariable).*$", text, re.M
    ):
        before = text[: text.index(line)]
        assert (
            "ShouldProcess" in before[before.rfind("if (") :] or "ShouldProcess" in before.splitlines()[-9]
        ), line
    for pair in ("()", "{}", "[]"):
        code = re.sub(r"'[^'\n]*'|<#.*?#>|#[^\n]*", "", text, flags=re.S)
        assert code.count(pair[0]) == code.count(pair[1])


def test_the_linux_script_writes_and_takes_back(tmp_path: Path) -> None:
    script = FOLDER / "linux" / "install-host.sh"
    unit = tmp_path / "etc" / "systemd" / "system" / "ollama.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n", encoding="ascii")
    environment = {"PATH": "/usr/bin:/bin", "RFCTL_INSTALL_ROOT": str(tmp_path)}

    def run(*arguments: str) -> str:
        done = subprocess.run(
            ["sh", str(script), *arguments],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            check=True,
        )
        return done.stdout

    before = sorted(tmp_path.rglob("*"))
    assert "would run: cp " in run("--what-if")
    assert sorted(tmp_path.rglob("*")) == before
    run()
    sysctl = tmp_path / "etc" / "sysctl.d" / "99-rfctl.conf"
    assert "vm.max_map_count=262144" in sysctl.read_text(encoding="ascii")
    assert "OLLAMA_HOST=172.17.0.1:11434" in (unit.with_name("ollama.service.d") / "rfctl.conf").read_text(
        encoding="ascii"
    )
    run("--undo")
    assert not sysctl.exists()
    assert list(unit.with_name("ollama.service.d").iterdir()) == []


def test_shell_scripts_pass_shellcheck() -> None:
    program = shutil.which("shellcheck")
    if program is None:
        pytest.skip("shellcheck is not installed")
    for path in FOLDER.rglob("*.sh"):
        done = subprocess.run([program, str(path)], capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout
