"""What a user's site-packages gets: one top-level name, the data folders, and nothing of the tests."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    target = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(target)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = target.glob("rfctl_ragflow-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        return archive.namelist()


def test_the_wheel_has_exactly_one_top_level_name(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}
    assert {name for name in tops if not name.endswith(".dist-info")} == {"rfctl"}
    assert "rfctl/__init__.py" not in names


def test_all_rooms_and_their_data_are_in_it(names: list[str]) -> None:
    for name in (
        "rfctl/core/message/zh/cli.toml",
        "rfctl/core/error.py",
        "rfctl/cli/main.py",
        "rfctl/converter/convert.py",
        "rfctl/ollama/client.py",
        "rfctl/ragflow_client/transport.py",
        "rfctl/engine/server.py",
        "rfctl/stack/data/samples.toml",
        "rfctl/_data/docs/manual.pdf",
    ):
        assert name in names
    assert any(name.startswith("rfctl/_data/modelfiles/") for name in names)
    assert [name for name in names if "test" in name.lower() or name.endswith((".pyc", ".keep"))] == []
    assert [name for name in names if len(set(names)) != len(names)] == []
