"""The pages of findings say what the catalogue and the message files say."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SPEC = importlib.util.spec_from_file_location("make_findings", ROOT / "tools" / "make_findings.py")
assert SPEC is not None and SPEC.loader is not None
MODULE = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(MODULE)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_the_page_is_the_one_that_the_tool_writes(language: str) -> None:
    page = (ROOT / "docs" / language / "findings.md").read_text("utf-8")
    assert page == MODULE.make_page(language)
    assert page.count("\n## ") >= 32
