"""The command reference is the program's own."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from rfctl.core.catalog import LANGUAGES

ROOT = Path(__file__).resolve().parents[2]


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_reference", ROOT / "tools" / "make_reference.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_page_is_what_the_program_says(language: str) -> None:
    page = (ROOT / "docs" / language / "reference.md").read_text(encoding="utf-8")
    assert page == load().write_reference(language), "run python tools/make_reference.py"


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_option_is_explained(language: str) -> None:
    page = load().write_reference(language)
    bare = [line for line in page.splitlines() if line.startswith("- `-") and line.endswith("`")]
    assert bare == []
