"""The two READMEs say the same, and what they tell a user to type works."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENGLISH, CHINESE = ROOT / "README.md", ROOT / "README.zh-CN.md"
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(path: Path, kind: str) -> list[str]:
    return [body for found, body in BLOCK.findall(path.read_text(encoding="utf-8")) if found == kind]


def headings(path: Path) -> list[int]:
    """Levels of the headings in order; their words differ by language."""
    text = BLOCK.sub("", path.read_text(encoding="utf-8"))
    return [len(marks) for marks in re.findall(r"^(#+) ", text, re.MULTILINE)]


def test_both_readmes_have_the_same_sections() -> None:
    assert headings(ENGLISH) == headings(CHINESE)


@pytest.mark.parametrize("kind", ["sh", "console", "text"])
def test_both_readmes_have_the_same_blocks(kind: str) -> None:
    assert blocks(ENGLISH, kind) == blocks(CHINESE, kind)


def test_the_first_screen_has_the_two_commands() -> None:
    first = "\n".join(ENGLISH.read_text(encoding="utf-8").splitlines()[:30])
    assert "make demo\nmake test\n" in first
    assert "uv run rfctl demo\n" in first
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in ("demo", "test"):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_links_lead_somewhere() -> None:
    for path in (ENGLISH, CHINESE):
        for target in re.findall(r"\]\(([^)#]+)\)", path.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (ROOT / target).exists(), f"{path.name}: {target}"


def test_no_index_address_is_committed() -> None:
    """Names of package indexes belong to the user's configuration."""
    pattern = "|".join(part[::-1] for part in ("gro.ipyp", "gro.detsohnohtyp", "gro.sjmpn.yrtsiger"))
    done = subprocess.run(
        ["git", "grep", "-nIE", pattern.replace(".", r"\.")],
        cwd=ROOT,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode not in (0, 1):
        pytest.skip("not a git checkout")
    assert done.stdout == ""


@pytest.mark.network
@pytest.mark.slow
def test_the_commands_work_in_order(
    environment: dict[str, str], tmp_path: Path, smollm2: Path, minilm: Path
) -> None:
    """Every `console` block is typed as it stands, in a folder with a model and a PDF of that name."""
    if sys.platform == "win32":
        pytest.skip("the blocks are typed into a POSIX shell")
    (tmp_path / "my-model").symlink_to(smollm2, target_is_directory=True)
    shutil.copy(ROOT / "docs/manual.pdf", tmp_path / "manual.pdf")
    (tmp_path / "papers").mkdir()
    shutil.copy(ROOT / "docs/en/manual.md", tmp_path / "papers" / "notes.md")
    path = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    env = environment | {"PATH": path}
    try:
        prepared = subprocess.run(
            ["rfctl", "model", "push", str(minilm), "all-minilm", "--quiet"],
            env=env,
            cwd=tmp_path,
            capture_output=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )
        assert prepared.returncode == 0, prepared.stderr
        for line in [line for body in blocks(ENGLISH, "console") for line in body.splitlines()]:
            done = subprocess.run(
                line,
                shell=True,
                env=env,
                cwd=tmp_path,
                capture_output=True,
                encoding="utf-8",
                timeout=300,
                check=False,
            )
            assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
            if line.startswith("rfctl chat ask") or line.startswith("rfctl kb search"):
                assert "manual.pdf" in done.stdout
                assert "10" in done.stdout
    finally:
        subprocess.run(["rfctl", "engine", "stop"], env=env, capture_output=True, timeout=60, check=False)
