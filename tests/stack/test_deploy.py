"""What is under deploy/: the merge of `.wslconfig`, and the Linux scripts on a folder."""

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
from rfctl.stack import lifecycle
from rfctl.stack.check_wsl import wsl_config
from rfctl.stack.wsl_config import BACKUP, apply, merge, undo, wanted

FOLDER = data_folder("deploy")


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
        "# \x85 \u2028 \x0c 说明",
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
    found = new.replace("\r\n", "\n").split("\n")
    assert [line for line in found if line.startswith(("#", "swap", "[experimental]"))] == kept
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
    profile = tmp_path / "etc" / "profile.d" / "rfctl-ollama.sh"
    # `ollama` and `rfctl` on this machine look where Ollama listens now.
    assert profile.read_text(encoding="ascii") == "export OLLAMA_HOST=172.17.0.1:11434\n"
    run("--undo")
    assert not sysctl.exists()
    assert not profile.exists()
    assert list(unit.with_name("ollama.service.d").iterdir()) == []


def run_script(name: str, root: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A script of deploy/linux on a folder: files are written there, nothing is installed or started."""
    return subprocess.run(
        ["sh", str(FOLDER / "linux" / name), *arguments],
        env={"PATH": "/usr/bin:/bin", "RFCTL_INSTALL_ROOT": str(root)},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


APT = "https://download.docker.com/linux"


@pytest.mark.parametrize(
    ("release", "line"),
    [
        ("ID=ubuntu\nVERSION_CODENAME=noble\n", f"{APT}/ubuntu noble stable"),
        ("ID=debian\nVERSION_CODENAME=bookworm\n", f"{APT}/debian bookworm stable"),
        (
            'ID=linuxmint\nID_LIKE="ubuntu debian"\nVERSION_CODENAME=wilma\nUBUNTU_CODENAME=noble\n',
            f"{APT}/ubuntu noble stable",
        ),
    ],
)
def test_the_engine_comes_from_the_right_place(tmp_path: Path, release: str, line: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text(release, encoding="ascii")
    if shutil.which("dpkg", path="/usr/bin:/bin") is None:
        pytest.skip("asks dpkg for the architecture")
    shown = run_script("install-docker.sh", tmp_path, "--what-if")
    assert shown.returncode == 0, shown.stderr
    assert "would run: apt-get install -y docker-ce docker-ce-cli" in shown.stdout
    assert [path.name for path in (tmp_path / "etc").iterdir()] == ["os-release"]
    written = tmp_path / "etc" / "apt" / "sources.list.d" / "rfctl-docker.list"
    for _ in range(2):
        assert run_script("install-docker.sh", tmp_path).returncode == 0
        assert written.read_text(encoding="ascii").endswith(
            f"signed-by=/etc/apt/keyrings/rfctl-docker.asc] {line}\n"
        )
    assert run_script("install-docker.sh", tmp_path, "--undo").returncode == 0
    assert not written.exists()


@pytest.mark.parametrize(
    ("release", "place"),
    [
        ("ID=fedora\nVERSION_ID=43\n", "fedora/43"),
        ('ID="rocky"\nID_LIKE="rhel centos fedora"\nVERSION_ID="9.6"\n', "centos/9"),
        ('ID="rhel"\nID_LIKE="fedora"\nVERSION_ID="10.0"\n', "centos/10"),
        ('ID="openEuler"\nVERSION_ID="24.03"\n', "centos/9"),
    ],
)
def test_the_engine_for_distributions_with_rpm(tmp_path: Path, release: str, place: str) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text(release, encoding="ascii")
    mirror = "https://mirror.example/docker-ce"
    shown = run_script("install-docker.sh", tmp_path, "--what-if", "--mirror", mirror)
    assert re.search(r"would run: (dnf|yum) install -y docker-ce docker-ce-cli", shown.stdout), shown.stderr
    assert run_script("install-docker.sh", tmp_path, "--mirror", f"{mirror}/").returncode == 0
    repository = tmp_path / "etc" / "yum.repos.d" / "rfctl-docker.repo"
    text = repository.read_text(encoding="ascii")
    assert f"baseurl={mirror}/linux/{place}/$basearch/stable\n" in text
    assert f"gpgkey={mirror}/linux/{place.partition('/')[0]}/gpg\n" in text
    assert "gpgcheck=1\n" in text
    assert run_script("install-docker.sh", tmp_path, "--undo").returncode == 0
    assert not repository.exists()


def test_the_engine_script_refuses_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "os-release").write_text("ID=arch\n", encoding="ascii")
    done = run_script("install-docker.sh", tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "docs.docker.com" in done.stderr
    for arguments in (("--what",), ("--mirror",)):
        assert run_script("install-docker.sh", tmp_path, *arguments).returncode == 2


def test_what_somebody_else_installed_is_not_removed(tmp_path: Path) -> None:
    unit = tmp_path / "etc" / "systemd" / "system" / "ollama.service"
    unit.parent.mkdir(parents=True)
    unit.write_text("[Service]\n", encoding="ascii")
    for name in ("install-ollama.sh", "install-docker.sh"):
        done = run_script(name, tmp_path, "--undo")
        assert (done.returncode, done.stderr) == (0, "")
        assert "nothing is removed" in done.stdout
    assert unit.exists()
    assert run_script("install-ollama.sh", tmp_path).stdout == "Ollama is already here.\n"


def test_ollama_is_removed_but_not_its_models(tmp_path: Path) -> None:
    models = tmp_path / "usr" / "share" / "ollama" / ".ollama" / "models"
    models.mkdir(parents=True)
    assert "ollama.com/install.sh" in run_script("install-ollama.sh", tmp_path, "--what-if").stdout
    assert list((tmp_path / "usr").iterdir()) == [tmp_path / "usr" / "share"]
    assert run_script("install-ollama.sh", tmp_path).returncode == 0
    # What the installer would have made.
    unit = tmp_path / "etc" / "systemd" / "system" / "ollama.service"
    library = tmp_path / "usr" / "local" / "lib" / "ollama" / "libggml.so"
    for path in (unit, library):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    assert run_script("install-ollama.sh", tmp_path, "--undo").returncode == 0
    assert models.exists()
    assert not unit.exists()
    assert not library.parent.exists()
    assert "nothing is removed" in run_script("install-ollama.sh", tmp_path, "--undo").stdout


def test_the_unit_and_the_override_keep_to_what_the_stack_does() -> None:
    unit = wsl_config((FOLDER / "linux" / "rfctl-stack.service").read_text(encoding="ascii"))
    assert unit.get("Service", "ExecStart").endswith("rfctl stack up")
    assert unit.get("Service", "User") != "root"
    # Longer than `rfctl stack up` itself waits.
    assert int(unit.get("Service", "TimeoutStartSec")) > lifecycle.UP_SECONDS
    override = (FOLDER / "linux" / "ollama-override.conf").read_text(encoding="ascii")
    assert "Environment=OLLAMA_HOST=172.17.0.1:11434\n" in override
    assert "After=docker.service" in override


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_for_windows_names_what_is_there(language: str) -> None:
    """Its rfctl lines are taken apart by the tests of the pages; here are the others."""
    text = (FOLDER.parent / "docs" / language / "windows.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```(\w+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    # Every place to type is one that the page explains.
    assert {kind for kind, _ in blocks} == {"powershell", "console", "sh"}
    lines = [line for _, block in blocks for line in block.splitlines()]
    first = {line.split()[0] for line in lines}
    assert first <= {"winget", "cd", "uv", "rfctl", "wsl", "ollama", "curl", ".", "cp"}
    assert [line for line in lines if line.startswith("wsl")] == ["wsl --shutdown"]
    # Windows' own package names are those of the scripts.
    assert "Ollama.Ollama" in (FOLDER / "windows" / "04-ollama.ps1").read_text(encoding="ascii")
    for name in re.findall(r"[\w-]+\.(?:ps1|sh)\b", text.replace("astral.sh/uv/install.sh", "")):
        assert list(FOLDER.rglob(name)), name
