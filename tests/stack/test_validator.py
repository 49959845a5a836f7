"""Validators over every file of their kind: Dockerfile, shell scripts, YAML."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BESIDE = Path(sys.executable).parent
# Templates of charts are no YAML before they are rendered.
OUTSIDE = {"templates", ".git", ".venv", "node_modules", "dist", ".mypy_cache", ".ruff_cache", "shared"}


def find(*patterns: str) -> list[str]:
    found = {path for pattern in patterns for path in ROOT.rglob(pattern)}
    return sorted(str(path) for path in found if not OUTSIDE & set(path.relative_to(ROOT).parts))


def check(name: str, *arguments: str) -> None:
    program = BESIDE / name
    if not program.exists():
        pytest.skip(f"{name} is not installed (make test installs it)")
    done = subprocess.run(
        [str(program), *arguments], capture_output=True, encoding="utf-8", timeout=120, check=False, cwd=ROOT
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_hadolint() -> None:
    files = find("Dockerfile", "*.Dockerfile")
    assert str(ROOT / "docker" / "Dockerfile") in files
    check("hadolint", *files)


def test_shellcheck() -> None:
    files = [*find("*.sh"), str(ROOT / ".ci" / "run")]
    assert len(files) >= 2
    check("shellcheck", *files)


def test_yamllint() -> None:
    files = find("*.yaml", "*.yml")
    assert str(ROOT / "docker" / "compose.yaml") in files
    # Compact maps and long commands are wanted here; what is broken or ambiguous is not.
    rules = (
        "{extends: default, rules: {line-length: disable, document-start: disable, "
        "braces: {max-spaces-inside: 1}, comments: {min-spaces-from-content: 1}, "
        "truthy: {check-keys: false}, indentation: {indent-sequences: whatever}}}"
    )
    check("yamllint", "--strict", "-d", rules, *files)
